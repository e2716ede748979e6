// Rows brought into columns: W x W blocks by log2(W) rounds of interleaving.
#pragma once

#include "storage.h"

namespace regard::REGARD_ISA {

template <class T, bool upper, int... i>
REGARD_INLINE Vector<T> interleave(Vector<T> a, Vector<T> b) {
    constexpr int half = upper ? lanes<T> / 2 : 0;
    return __builtin_shufflevector(a, b, (half + i / 2 + (i % 2) * lanes<T>)...);
}

template <class T, bool upper>
REGARD_INLINE Vector<T> zip(Vector<T> a, Vector<T> b) {
    if constexpr (lanes<T> == 2) return interleave<T, upper, 0, 1>(a, b);
    else if constexpr (lanes<T> == 4) return interleave<T, upper, 0, 1, 2, 3>(a, b);
    else if constexpr (lanes<T> == 8) return interleave<T, upper, 0, 1, 2, 3, 4, 5, 6, 7>(a, b);
    else return interleave<T, upper, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>(a, b);
}

template <class T>
REGARD_INLINE void transpose_block(Vector<T> (&block)[lanes<T>]) {
    constexpr int W = lanes<T>;
    Vector<T> other[W];
    constexpr int rounds = W == 2 ? 1 : W == 4 ? 2 : W == 8 ? 3 : 4;
#pragma GCC unroll 4
    for (int round = 0; round < rounds; ++round) {
#pragma GCC unroll 8
        for (int i = 0; i < W / 2; ++i) {
            other[2 * i] = zip<T, false>(block[i], block[i + W / 2]);
            other[2 * i + 1] = zip<T, true>(block[i], block[i + W / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) block[i] = other[i];
    }
}

// What was read is finite while this stays zero: 0 * NaN and 0 * inf are NaN.
template <class T>
struct Finite {
    Vector<T> sum{};
    REGARD_INLINE void see(Vector<T> values) { sum += values * T(0); }
    bool holds() const {
        for (int i = 0; i < lanes<T>; ++i)
            if (!(sum[i] == T(0))) return false;
        return true;
    }
};

// columns[d][lane] = factor * rows[lane][d] for `count` lanes, zero for the others up to `width`, a multiple of W; and, where
// wanted, copies[lane][d] with rows of `copy_width`, zero behind d = size. Returns whether all numbers are finite.
template <class T>
bool transpose_rows(const T* const* rows, int count, long size, T factor, T* columns, long width, T* copies, long copy_width) {
    constexpr int W = lanes<T>;
    Finite<T> finite;
    for (long lane = 0; lane < width; lane += W) {
        for (long d = 0; d < size; d += W) {
            Vector<T> block[W];
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) {
                block[i] = Vector<T>{};
                if (lane + i < count) {
                    block[i] = load_first<T>(rows[lane + i] + d, size - d);
                    finite.see(block[i]);
                    if (copies) store<T>(copies + (lane + i) * copy_width + d, block[i]);
                }
            }
            transpose_block<T>(block);
            const long wanted = smallest<long>(W, size - d);
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i)
                if (i < wanted) store<T>(columns + (d + i) * width + lane, block[i] * factor);
        }
    }
    return finite.holds();
}

// Copies rows to a contiguous block, zero behind `size`; returns whether all numbers are finite.
template <class T, class S>
bool copy_rows(const S* from, long stride, long count, long size, T* to, long width) {
    Finite<T> finite;
    for (long row = 0; row < count; ++row, from += stride, to += width)
        for (long d = 0; d < size; d += lanes<T>) {
            const Vector<T> values = load_first<T>(from + d, size - d);
            finite.see(values);
            store<T>(to + d, values);
        }
    return finite.holds();
}

template <class T>
bool all_finite(const T* from, long stride, long count, long size) {
    Finite<T> finite;
    for (long row = 0; row < count; ++row, from += stride)
        for (long d = 0; d < size; d += lanes<T>) finite.see(load_first<T>(from + d, size - d));
    return finite.holds();
}

}  // namespace regard::REGARD_ISA
