// The kernel for one instruction set: this file is compiled once for each.
#include "inspect.h"

#include <time.h>

namespace regard::REGARD_ISA {

template <class T>
constexpr Kernels kernels{int(sizeof(T)),
                          panel_lanes<T>,
                          few_lanes<T>,
                          forward_room<T>,
                          forward_unit<T>,
                          [](const Call& call) { return size_t(partial_numbers<T>(call)) * sizeof(T); },
                          join_partials<T>,
                          no_queries<T>,
                          backward_room<T>,
                          delta_of_span<T>,
                          backward_unit<T>,
                          no_gradients<T>,
                          sink_gradient<T>,
                          inspect_unit<T>};

extern const Kernels of_float = kernels<float>;
extern const Kernels of_double = kernels<double>;

// Multiply-adds on registers alone for some time: what no product can exceed, in operations a second.
double peak(double seconds) {
    constexpr int chains = 12;
    constexpr long rounds = 100000;
    const auto now = [] {
        timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
    };
    double best = 0;
    const double end = now() + seconds;
    do {
        Vector<float> sums[chains];
        for (int i = 0; i < chains; ++i) sums[i] = all<float>(float(i));
        const double start = now();
        for (long round = 0; round < rounds; ++round)
#pragma GCC unroll 12
            for (int i = 0; i < chains; ++i) {
                sums[i] = sums[i] * 0.999f + 0.001f;
#if defined(__aarch64__)
                asm volatile("" : "+w"(sums[i]));
#else
                asm volatile("" : "+x"(sums[i]));
#endif
            }
        const double rate = 2.0 * lanes<float> * chains * rounds / (now() - start);
        best = rate > best ? rate : best;
    } while (now() < end);
    return best;
}

}  // namespace regard::REGARD_ISA
