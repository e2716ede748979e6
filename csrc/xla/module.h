// Calls from programs that XLA compiled: see module.cpp.
#pragma once

#include <nanobind/nanobind.h>

namespace regard {

void add_xla(nanobind::module_& module);

}  // namespace regard
