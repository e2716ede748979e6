// The part of `regard._kernel` for layers: calls over raw addresses of contiguous arrays that regard.nn has checked and keeps alive.
#include "module.h"

#include <stdexcept>

#include "../pool.h"
#include "../run.h"
#include "layers.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace regard {

namespace {

using Address = uintptr_t;

[[noreturn]] void refuse(const char* what) { throw std::invalid_argument(what); }

const LayerFunctions& functions() {
    const std::string name = vectors();
#if defined(__x86_64__)
    if (name == "avx512") return avx512::layer_functions;
    if (name == "avx2") return avx2::layer_functions;
#endif
    return generic::layer_functions;
}

Numbers numbers_of(int bytes) {
    if (bytes != 8 && bytes != 4 && bytes != 2) refuse("numbers must be float64, float32 or bfloat16, of 8, 4 or 2 bytes");
    return bytes == 8 ? float64 : bytes == 4 ? float32 : bfloat16;
}

uint32_t mixed(uint32_t word) {
    word = (word ^ (word >> 16)) * 0x7FEB352Du;
    word = (word ^ (word >> 15)) * 0x846CA68Bu;
    return word ^ (word >> 16);
}

// Seeds that are neighbours have keys that are not.
Dropping dropping_of(uint64_t seed, int threshold, double factor) {
    if (threshold < 0 || threshold > 255) refuse("the threshold of dropout must be between 0 and 255");
    const uint32_t first = mixed(uint32_t(seed)), second = mixed(uint32_t(seed >> 32) ^ first ^ 0x9E3779B9u);
    return {{first, second}, threshold, factor};
}

// Cuts rows into tasks of some microseconds; a call of two such tasks is not worth a second thread.
template <class Call>
void run(void (*function)(const Call&, long, long), const Call& call, long rows, long numbers_of_row, int threads) {
    constexpr long numbers_of_task = 1 << 15;
    if (!function) refuse("the numbers of these arrays do not go together");
    if (threads < 1 || threads > 4096) refuse("threads must be between 1 and 4,096");
    if (rows < 0 || numbers_of_row < 0) refuse("sizes must not be negative");
    if (rows == 0 || numbers_of_row == 0) return;
    const nb::gil_scoped_release release;
    if (threads == 1 || rows * numbers_of_row <= 2 * numbers_of_task) return function(call, 0, rows);
    struct Work {
        void (*function)(const Call&, long, long);
        const Call& call;
        long rows, step;
    } work{function, call, rows, numbers_of_task / numbers_of_row + 1};
    run_tasks(
        (rows + work.step - 1) / work.step, threads,
        [](void* context, long task, int) {
            const Work& work = *static_cast<const Work*>(context);
            const long begin = task * work.step, end = begin + work.step;
            work.function(work.call, begin, end < work.rows ? end : work.rows);
        },
        &work);
}

void* at(Address address) { return reinterpret_cast<void*>(address); }

}  // namespace

void residual(int branch_bytes, int normalized_bytes, long rows, long size, Address x, Address branch, Address sum, Address normalized,
              Address inverse, double eps, uint64_t seed, int threshold, double factor, int threads) {
    const Residual call{size, at(x), at(branch), at(sum), at(normalized), at(inverse), eps, dropping_of(seed, threshold, factor)};
    if (rows == 0 || size == 0) return;  // arrays without numbers have no address either
    if (!x && !branch) refuse("there must be numbers to add or to normalize");
    if ((branch && !sum) || (normalized && !inverse)) refuse("there must be room for what is computed");
    run(functions().residual[numbers_of(branch_bytes)][numbers_of(normalized_bytes)], call, rows, size, threads);
}

void residual_backward(int branch_bytes, int normalized_bytes, long rows, long size, Address sum, Address normalized, Address inverse,
                       Address grad_sum, Address grad_normalized, Address grad_x, Address grad_branch, uint64_t seed, int threshold,
                       double factor, int threads) {
    const ResidualGradients call{size,         at(sum), at(normalized), at(inverse), at(grad_sum), at(grad_normalized), at(grad_x),
                                 at(grad_branch), dropping_of(seed, threshold, factor)};
    if (rows == 0 || size == 0) return;
    if (grad_normalized && ((!sum && !normalized) || !inverse))
        refuse("a gradient of what was normalized needs the sum or the normalized, and the inverse");
    run(functions().residual_backward[numbers_of(branch_bytes)][numbers_of(normalized_bytes)], call, rows, size, threads);
}

void heads(int bytes, long rows, long heads, long size, long row, Address values, Address inverse, long inverse_row, double eps,
           Address turns, long turn_rows, Address grad_out, long grad_out_row, Address grad, int threads) {
    const Heads call{heads,     size,      row,          at(values), at(inverse),  inverse_row,
                     eps,       at(turns), turn_rows,    at(grad_out), grad_out_row, at(grad)};
    if (turns && (size % 2 || turn_rows < 1)) refuse("turns need heads of even size and at least one row");
    const LayerFunctions& found = functions();
    run((grad ? found.heads_backward : found.heads)[numbers_of(bytes)], call, rows, heads * size, threads);
}

void gate(int bytes, long rows, long size, Address gate_up, Address out, int threads) {
    run(functions().gate[numbers_of(bytes)], Gate{size, at(gate_up), at(out), nullptr, nullptr}, rows, 2 * size, threads);
}

void gate_backward(int bytes, long rows, long size, Address gate_up, Address out, Address grad_out, Address grad, int threads) {
    run(functions().gate_backward[numbers_of(bytes)], Gate{size, at(gate_up), at(out), at(grad_out), at(grad)}, rows, 2 * size, threads);
}

void add_layers(nb::module_& module) {
    module.def("residual", &residual, "sum = x + dropped(branch), and its normalization; see layers/layers.h.");
    module.def("residual_backward", &residual_backward, "The gradients of x and branch.");
    module.def("heads", &heads, "Heads normalized and turned in place, or the gradient of that.");
    module.def("gate", &gate, "silu(gate) * up.");
    module.def("gate_backward", &gate_backward, "The gradient of gate and up, and once more what they came to.");
}

}  // namespace regard
