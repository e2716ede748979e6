// The elementwise work of layers, for the Python module: calls over raw addresses, made while Python's lock is held.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace regard {

void heads(int bytes, long rows, long heads, long size, long row, uintptr_t values, uintptr_t inverse, long inverse_row, double eps,
           uintptr_t turns, long turn_rows, uintptr_t grad_out, long grad_out_row, uintptr_t grad, int threads);
void gate(int bytes, long rows, long size, uintptr_t gate_up, uintptr_t out, int threads);
void gate_backward(int bytes, long rows, long size, uintptr_t gate_up, uintptr_t grad_out, uintptr_t grad, int threads);

void add_layers(nanobind::module_& module);

}  // namespace regard
