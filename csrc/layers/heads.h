// Queries and keys normalized per head and turned by their positions, in place.
//
// A turn keeps lengths and products: the gradient's part along the result can be taken off before turning back, so that the
// results and their inverse root mean squares are all that the backward pass needs.
#pragma once

#include "layers.h"
#include "row.h"

namespace regard::REGARD_ISA::layers {

// Each pair of x as a complex number times cosine + i * direction * sine.
template <class T>
REGARD_INLINE Vector<T> turned(Vector<T> x, Vector<T> turns, T direction) {
    using P = LanesOf<T, lanes<T>>;
    return x * P::first(turns) + P::swapped(x) * (P::second(turns) * (P::sign() * direction));
}

// Calls body(size) with the size of a head as a constant where it is a usual one: loops over few vectors then become none.
template <class Body>
REGARD_INLINE void of_size(long size, const Body& body) {
    if (size == 32) body(32);
    else if (size == 64) body(64);
    else body(size);
}

template <class Stored>
REGARD_INLINE void heads_of_size(const Heads& call, long begin, long end, long size) {
    using T = Computed<Stored>;
    const T share = T(1) / T(size);
    for (long row = begin; row < end; ++row) {
        const T* turns = row_of<T>(call.turns, call.turns ? row % call.turn_rows * size : 0);
        for (long head = 0; head < call.heads; ++head) {
            Stored* values = row_of<Stored>(call.values, row * call.row + head * size);
            T inverse = 1;
            if (call.inverse) {
                Vector<T> squares{};
                along<T>(size, [&](long i, auto part) __attribute__((always_inline)) {
                    const Vector<T> numbers = read(values + i, part);
                    squares += numbers * numbers;
                });
                inverse = inverse_root<T>(sum_of<T>(squares) * share + T(call.eps));
                static_cast<T*>(call.inverse)[row * call.inverse_row + head] = inverse;
            }
            along<T>(size, [&](long i, auto part) __attribute__((always_inline)) {
                const Vector<T> normalized = read(values + i, part) * inverse;
                write(values + i, call.turns ? turned<T>(normalized, read(turns + i, part), 1) : normalized, part);
            });
        }
    }
}

template <class Stored>
void heads(const Heads& call, long begin, long end) {
    of_size(call.size, [&](long size) __attribute__((always_inline)) { heads_of_size<Stored>(call, begin, end, size); });
}

template <class Stored>
REGARD_INLINE void heads_backward_of_size(const Heads& call, long begin, long end, long size) {
    using T = Computed<Stored>;
    const T share = T(1) / T(size);
    for (long row = begin; row < end; ++row) {
        const T* turns = row_of<T>(call.turns, call.turns ? row % call.turn_rows * size : 0);
        for (long head = 0; head < call.heads; ++head) {
            const Stored* values = row_of<Stored>(call.values, row * call.row + head * size);
            const Stored* grad_out = row_of<Stored>(call.grad_out, row * call.grad_out_row + head * size);
            Stored* grad = row_of<Stored>(call.grad, row * call.row + head * size);
            T inverse = 1, along_values = 0;
            if (call.inverse) {
                inverse = static_cast<const T*>(call.inverse)[row * call.inverse_row + head];
                Vector<T> products{};
                along<T>(size, [&](long i, auto part) __attribute__((always_inline)) {
                    products += read(grad_out + i, part) * read(values + i, part);
                });
                along_values = sum_of<T>(products) * share;
            }
            along<T>(size, [&](long i, auto part) __attribute__((always_inline)) {
                Vector<T> found = read(grad_out + i, part);
                if (call.inverse) found = (found - read(values + i, part) * along_values) * inverse;
                write(grad + i, call.turns ? turned<T>(found, read(turns + i, part), -1) : found, part);
            });
        }
    }
}

template <class Stored>
void heads_backward(const Heads& call, long begin, long end) {
    of_size(call.size, [&](long size) __attribute__((always_inline)) { heads_backward_of_size<Stored>(call, begin, end, size); });
}

}  // namespace regard::REGARD_ISA::layers
