// The products of linear layers, for the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace regard {

void add_products(nanobind::module_& module);

}  // namespace regard
