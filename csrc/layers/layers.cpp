// The layers for one instruction set: this file is compiled once for each.
#include "gate.h"
#include "heads.h"
#include "residual.h"

namespace regard::REGARD_ISA {

using layers::Bfloat16;

#define BY_NUMBERS(name) {layers::name<double>, layers::name<float>, layers::name<Bfloat16>}
#define BY_BRANCH_AND_NORMALIZED(name)                                                                             \
    {{layers::name<double, double, double>, nullptr, nullptr},                                                     \
     {nullptr, layers::name<float, float, float>, layers::name<float, float, Bfloat16>},                           \
     {nullptr, layers::name<float, Bfloat16, float>, layers::name<float, Bfloat16, Bfloat16>}}

extern const LayerFunctions layer_functions{BY_BRANCH_AND_NORMALIZED(residual), BY_BRANCH_AND_NORMALIZED(residual_backward),
                                            BY_NUMBERS(heads), BY_NUMBERS(heads_backward),
                                            BY_NUMBERS(gate), BY_NUMBERS(gate_backward)};

}  // namespace regard::REGARD_ISA
