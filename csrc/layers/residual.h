// The residual stream: a branch dropped and added, the sum normalized, and the way back, each in one pass over memory.
#pragma once

#include "drop.h"

namespace regard::REGARD_ISA::layers {

template <class T, class Branch, class Normalized>
void residual(const Residual& call, long begin, long end) {
    const long size = call.size;
    const T share = T(1) / T(size);
    for (long row = begin; row < end; ++row) {
        const T* x = row_of<T>(call.x, row * size);
        Vector<T> squares{};
        if (call.branch) {
            const Branch* branch = row_of<Branch>(call.branch, row * size);
            T* sum = row_of<T>(call.sum, row * size);
            Drop<T> drop(call.dropping, row, size);
            along<T>(size, [&](long i, auto part) __attribute__((always_inline)) {
                Vector<T> added = drop.factors(i) * read(branch + i, part);
                if (x) added += read(x + i, part);
                write(sum + i, added, part);
                squares += added * added;
            });
            x = sum;
        } else {
            along<T>(size, [&](long i, auto part) __attribute__((always_inline)) {
                const Vector<T> numbers = read(x + i, part);
                squares += numbers * numbers;
            });
        }
        if (!call.normalized) continue;
        const T inverse = inverse_root<T>(sum_of<T>(squares) * share + T(call.eps));
        Normalized* normalized = row_of<Normalized>(call.normalized, row * size);
        along<T>(size, [&](long i, auto part) __attribute__((always_inline)) {
            write(normalized + i, read(x + i, part) * inverse, part);
        });
        static_cast<T*>(call.inverse)[row] = inverse;
    }
}

template <class T, class Branch, class Normalized>
void residual_backward(const ResidualGradients& call, long begin, long end) {
    const long size = call.size;
    for (long row = begin; row < end; ++row) {
        const T* sum = row_of<T>(call.sum, row * size);
        const Normalized* normalized = row_of<Normalized>(call.normalized, row * size);
        const auto numbers = [&](long i, auto part)
            __attribute__((always_inline)) { return sum ? read(sum + i, part) : read(normalized + i, part); };
        const T* grad_sum = row_of<T>(call.grad_sum, row * size);
        const Normalized* grad_normalized = row_of<Normalized>(call.grad_normalized, row * size);
        T* grad_x = row_of<T>(call.grad_x, row * size);
        Branch* grad_branch = row_of<Branch>(call.grad_branch, row * size);
        T inverse{}, share{};
        if (call.grad_normalized) {
            Vector<T> products{};
            along<T>(size, [&](long i, auto part) __attribute__((always_inline)) {
                products += read(grad_normalized + i, part) * numbers(i, part);
            });
            inverse = static_cast<const T*>(call.inverse)[row];
            share = sum_of<T>(products) / T(size) * inverse * (sum ? inverse * inverse : T(1));
        }
        Drop<T> drop(call.dropping, row, size);
        along<T>(size, [&](long i, auto part) __attribute__((always_inline)) {
            Vector<T> grad = call.grad_sum ? read(grad_sum + i, part) : Vector<T>{};
            if (call.grad_normalized) grad += read(grad_normalized + i, part) * inverse - numbers(i, part) * share;
            if (call.grad_x) write(grad_x + i, grad, part);
            if (call.grad_branch) write(grad_branch + i, drop.factors(i) * grad, part);
        });
    }
}

}  // namespace regard::REGARD_ISA::layers
