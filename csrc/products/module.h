// The products of linear layers, for the Python module.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <tuple>

namespace regard {

// Address, bytes of a number, elements from one row of memory to the next, whether such a row is a step of the depth.
using Given = std::tuple<uintptr_t, int, long, bool>;

// Made while Python's lock is held.
void product(long rows, long columns, long depth, const Given& a, const Given& b, uintptr_t out, int out_bytes, long out_row, bool add,
             bool rounds, int threads);

void add_products(nanobind::module_& module);

}  // namespace regard
