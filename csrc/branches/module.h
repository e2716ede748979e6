// The halves of a transformer's block, for the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace regard {

void add_branches(nanobind::module_& module);

}  // namespace regard
