#include "module.h"

#include <memory>
#include <stdexcept>
#include <string>

#include "../pool.h"
#include "../run.h"
#include "loss.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace regard {

namespace {

constexpr long rows_of_task = 16;

const LossKernels& current_kernels() {
    const std::string name = vectors();
#if defined(__x86_64__)
    if (name == "avx512") return avx512::loss_kernels;
    if (name == "avx2") return avx2::loss_kernels;
#endif
    return generic::loss_kernels;
}

LossFunction function_of(const std::string& dtype) {
    const LossKernels& kernels = current_kernels();
    if (dtype == "float32") return kernels.of_float;
    if (dtype == "float64") return kernels.of_double;
    if (dtype == "bfloat16") return kernels.of_bfloat16;
    throw std::invalid_argument("logits must be float32, float64 or bfloat16");
}

struct Work {
    LossRows rows;
    LossFunction function;
    bool gradient;
    double* losses;
};

double loss_rows(const std::string& dtype, uintptr_t logits, long stride, long count, long vocabulary, uintptr_t targets,
                 double smoothing, bool gradient, int threads) {
    if (threads < 1 || threads > 4096) throw std::invalid_argument("threads must be between 1 and 4,096");
    if (count < 0 || vocabulary < 1 || stride < vocabulary) throw std::invalid_argument("rows of logits must not overlap");
    const LossRows rows{reinterpret_cast<void*>(logits), stride, count, vocabulary, reinterpret_cast<const int64_t*>(targets), smoothing};
    for (long r = 0; r < count; ++r)
        if (rows.targets[r] < 0 || rows.targets[r] >= vocabulary)
            throw std::out_of_range("Expected: 0 to " + std::to_string(vocabulary - 1) + ". Received: " +
                                    std::to_string(rows.targets[r]) + ".");
    const std::unique_ptr<double[]> losses(new double[size_t(count)]);
    Work work{rows, function_of(dtype), gradient, losses.get()};
    nb::gil_scoped_release release;
    run_tasks(
        (count + rows_of_task - 1) / rows_of_task, threads,
        [](void* context, long task, int) {
            const Work& work = *static_cast<Work*>(context);
            const long begin = task * rows_of_task, end = begin + rows_of_task;
            work.function(work.rows, begin, end < work.rows.count ? end : work.rows.count, work.gradient, work.losses);
        },
        &work);
    // In order of the rows, so that the sum does not depend on the threads.
    double sum = 0;
    for (long r = 0; r < count; ++r) sum += losses[size_t(r)];
    return sum;
}

}  // namespace

void add_loss(nb::module_& module) {
    module.def("loss_rows", &loss_rows, "dtype"_a, "logits"_a, "stride"_a, "count"_a, "vocabulary"_a, "targets"_a, "smoothing"_a,
               "gradient"_a, "threads"_a,
               "The summed cross-entropy of rows of logits at an address; with `gradient`, the logits become its gradient by them.");
}

}  // namespace regard
