// What every instruction set offers for the loss over a vocabulary.
#pragma once

#include <cstdint>

namespace regard {

// Rows of logits, each with its target.
struct LossRows {
    void* logits = nullptr;
    long stride = 0;  // between rows, in elements
    long count = 0, vocabulary = 0;
    const int64_t* targets = nullptr;
    double smoothing = 0;
};

// Writes the losses of rows [begin, end) to losses[begin..end); with `gradient`, the logits become the loss's gradient by them.
using LossFunction = void (*)(const LossRows&, long begin, long end, bool gradient, double* losses);

struct LossKernels {
    LossFunction of_float, of_double, of_bfloat16;
};

namespace avx512 {
extern const LossKernels loss_kernels;
}
namespace avx2 {
extern const LossKernels loss_kernels;
}
namespace generic {
extern const LossKernels loss_kernels;
}

}  // namespace regard
