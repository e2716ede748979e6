// silu(gate) * up, forward and backward, each in one pass over memory.
#pragma once

#include "../kernel/functions.h"
#include "layers.h"
#include "row.h"

namespace regard::REGARD_ISA::layers {

// 1 / (1 + e^-x), by an exponential of what is never above 0.
template <class T>
REGARD_INLINE Vector<T> logistic(Vector<T> x) {
    const Vector<T> power = exponential<T>(x < T(0) ? x : -x);
    return (x < T(0) ? power : all<T>(T(1))) / (power + T(1));
}

template <class Stored>
void gate(const Gate& call, long begin, long end) {
    using T = Computed<Stored>;
    for (long row = begin; row < end; ++row) {
        const Stored* gate = row_of<Stored>(call.gate_up, row * 2 * call.size);
        const Stored* up = gate + call.size;
        Stored* out = row_of<Stored>(call.out, row * call.size);
        along<T>(call.size, [&](long i, auto part) __attribute__((always_inline)) {
            const Vector<T> x = read(gate + i, part);
            write(out + i, x * logistic<T>(x) * read(up + i, part), part);
        });
    }
}

template <class Stored>
void gate_backward(const Gate& call, long begin, long end) {
    using T = Computed<Stored>;
    for (long row = begin; row < end; ++row) {
        const Stored* gate = row_of<Stored>(call.gate_up, row * 2 * call.size);
        const Stored* up = gate + call.size;
        const Stored* grad_out = row_of<Stored>(call.grad_out, row * call.size);
        Stored* grad_gate = row_of<Stored>(call.grad, row * 2 * call.size);
        Stored* grad_up = grad_gate + call.size;
        Stored* out = row_of<Stored>(call.out, row * call.size);
        along<T>(call.size, [&](long i, auto part) __attribute__((always_inline)) {
            const Vector<T> x = read(gate + i, part), y = read(up + i, part), grad = read(grad_out + i, part);
            const Vector<T> share = logistic<T>(x), silu = x * share;
            write(grad_up + i, grad * silu, part);
            write(grad_gate + i, grad * y * (share + silu * (T(1) - share)), part);
            if (out) write(out + i, silu * y, part);
        });
    }
}

}  // namespace regard::REGARD_ISA::layers
