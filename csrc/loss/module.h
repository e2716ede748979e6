// The loss over a vocabulary, for the Python module.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

namespace regard {

void add_loss(nanobind::module_& module);

}  // namespace regard
