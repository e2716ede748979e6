// The elementwise work of layers, for the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace regard {

void add_layers(nanobind::module_& module);

}  // namespace regard
