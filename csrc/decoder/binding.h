// The decoder's part of the module `regard._kernel`.
#pragma once

#include <nanobind/nanobind.h>

namespace regard {

void bind_decoder(nanobind::module_& module);

}  // namespace regard
