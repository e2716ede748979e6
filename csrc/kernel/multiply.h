// The one matrix product: C = A B, C + A B or factor * C + A B, with rows of A broadcast and rows of B in registers.
//
// All seven products of attention's forward and backward pass are this one, where they do not go through the matrix unit, and those of
// linear layers. A tile is M rows of C by N
// vectors; the M x N accumulators fill the register file.
#pragma once

#include "upcoming.h"

namespace regard::REGARD_ISA {

// How C's old content enters.
enum class Old { none, added, scaled };

// A is read as a[row * a_row + k * a_col]; one of the two strides is 1.
enum class Unit { row, column };

template <class T>
struct Matrices {
    const T* a;
    long a_stride;  // the stride that is not 1
    const T* b;
    long b_row;
    T* c;
    long c_row;
    long depth;
    const T* factor;  // of each row of C, for Old::scaled
    Upcoming* upcoming;
};

// What a number of A and a vector of B add to a sum.
template <class T>
struct MultiplyAdd {
    static REGARD_INLINE void add(Vector<T>& sum, Vector<T> factor, Vector<T> row) { sum += factor * row; }
};

template <class T, int M, int N, Unit unit, class Step>
__attribute__((noinline)) void tile(const Matrices<T>& x, Old old) {
    constexpr int W = lanes<T>;
    Vector<T> sums[M][N];
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) sums[i][j] = Vector<T>{};
    const T* a = x.a;
    const T* b = x.b;
    const long stride = x.a_stride, b_row = x.b_row;
    for (long k = x.depth; k > 0; --k) {
        Vector<T> row[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) row[j] = load<T>(b + j * W);
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i) {
            const Vector<T> factor = all<T>(a[unit == Unit::row ? i : i * stride]);
#pragma GCC unroll 4
            for (int j = 0; j < N; ++j) Step::add(sums[i][j], factor, row[j]);
        }
        a += unit == Unit::row ? stride : 1;
        b += b_row;
    }
    // Old content joins at the end: sums of blocks lose fewer digits than one long chain.
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) {
            T* c = x.c + i * x.c_row + j * W;
            if (old == Old::none) store<T>(c, sums[i][j]);
            else if (old == Old::added) store<T>(c, load<T>(c) + sums[i][j]);
            else store<T>(c, load<T>(c) * x.factor[i] + sums[i][j]);
        }
}

// With few vectors a row, more rows fill the registers.
constexpr int rows_of_tile(int vectors) { return vectors >= 3 || 2 * vectors > most_vectors ? 6 : 12; }

template <class T, int N, Unit unit, class Step, int M = rows_of_tile(N)>
REGARD_INLINE void rows_tile(int rows, const Matrices<T>& x, Old old) {
    if constexpr (M > 1) {
        if (rows < M) return rows_tile<T, N, unit, Step, M - 1>(rows, x, old);
    }
    tile<T, M, N, unit, Step>(x, old);
}

template <class T, int N, Unit unit, class Step>
void product_of(long rows, Matrices<T> x, Old old) {
    constexpr int most = rows_of_tile(N);
    // Tiles of nearly one height: a last tile of one row would cost as much as one of four.
    const long tiles = (rows + most - 1) / most;
    for (long t = 0; t < tiles; ++t) {
        const long height = rows / tiles + (t < rows % tiles);
        x.upcoming->some();
        rows_tile<T, N, unit, Step>(int(height), x, old);
        x.a += height * (unit == Unit::row ? 1 : x.a_stride);
        x.c += height * x.c_row;
        if (x.factor) x.factor += height;
    }
}

template <class T, Unit unit, class Step = MultiplyAdd<T>>
void product(long rows, int vectors, const Matrices<T>& x, Old old) {
    switch (vectors) {
        case 1: return product_of<T, 1, unit, Step>(rows, x, old);
        case 2: return product_of<T, 2, unit, Step>(rows, x, old);
#if defined(__AVX512F__)
        case 3: return product_of<T, 3, unit, Step>(rows, x, old);
        default: return product_of<T, 4, unit, Step>(rows, x, old);
#else
        default: return;
#endif
    }
}

// As `product`, over as many vectors as wanted: panels of nearly one width.
template <class T, Unit unit>
void wide_product(long rows, int vectors, Matrices<T> x, Old old) {
    const int panels = (vectors + most_vectors - 1) / most_vectors;
    for (int p = 0; p < panels; ++p) {
        const int width = vectors / panels + (p < vectors % panels);
        product<T, unit>(rows, width, x, old);
        x.b += width * lanes<T>;
        x.c += width * lanes<T>;
    }
}

}  // namespace regard::REGARD_ISA
