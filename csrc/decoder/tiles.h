// Products of few rows with a panel of packed weights: one tile of accumulators, by kinds of numbers.
//
// Every sum runs over the depth in one order, however many rows stand beside: a row's result does not depend on them.
#pragma once

#include "../kernel/vector.h"
#include "stack.h"

namespace regard::REGARD_ISA::stacks {

using decoder::Kind;
using decoder::Matrix;

constexpr int panel_vectors = most_vectors;
constexpr long panel_columns = panel_vectors * lanes<float>;

// The rows of a product: activations as the kind of the matrix wants them, and where the results go.
struct Sides {
    const char* a;
    long a_row;            // bytes
    const float* a_scale;  // int8: of each row
    float* c;
    long c_row;
    bool add;  // to what stands there
};

// Of one panel.
struct Weights {
    const uint32_t* words;
    long groups;
    const float *bias, *scales;
    const int32_t* sums;
};

REGARD_INLINE Ints<float> load_words(const uint32_t* from) { return load_ints<float>(reinterpret_cast<const int32_t*>(from)); }

template <class T>
REGARD_INLINE T number_at(const char* from) {
    T number;
    __builtin_memcpy(&number, from, sizeof(T));
    return number;
}

struct Float32 {
    using Sum = Vector<float>;
    static constexpr int most_rows = 6;
    static constexpr bool integers = false;
    static constexpr long bytes = 4;  // of the activations of one word
    static REGARD_INLINE void load(const uint32_t* words, Vector<float>* row) {
#pragma GCC unroll 4
        for (int j = 0; j < panel_vectors; ++j)
            row[j] = REGARD_ISA::load<float>(reinterpret_cast<const float*>(words) + j * lanes<float>);
    }
    static REGARD_INLINE void add(const Vector<float>* row, const char* a, Sum* sums) {
        const Vector<float> factor = all<float>(number_at<float>(a));
#pragma GCC unroll 4
        for (int j = 0; j < panel_vectors; ++j) sums[j] += factor * row[j];
    }
    using Row = Vector<float>[panel_vectors];
};

// The upper half of a word is the number of the odd place, the lower that of the even.
struct Bfloat16Wide {
    using Sum = Vector<float>;
    static constexpr int most_rows = 3;
    static constexpr bool integers = false;
    static constexpr long bytes = 8;
    using Row = Vector<float>[2 * panel_vectors];
    static REGARD_INLINE void load(const uint32_t* words, Vector<float>* row) {
#pragma GCC unroll 4
        for (int j = 0; j < panel_vectors; ++j) {
            const Ints<float> word = load_words(words + j * lanes<float>);
            row[2 * j] = (Vector<float>)(word << 16);
            row[2 * j + 1] = (Vector<float>)(word & all_ints<float>(int32_t(0xffff0000u)));
        }
    }
    static REGARD_INLINE void add(const Vector<float>* row, const char* a, Sum* sums) {
        const Vector<float> even = all<float>(number_at<float>(a)), odd = all<float>(number_at<float>(a + 4));
#pragma GCC unroll 4
        for (int j = 0; j < panel_vectors; ++j) {
            sums[j] += even * row[2 * j];
            sums[j] += odd * row[2 * j + 1];
        }
    }
};

struct Int8Plain {
    using Sum = Ints<float>;
    static constexpr int most_rows = 2;
    static constexpr bool integers = true;
    static constexpr long bytes = 8;
    using Row = Ints<float>[panel_vectors];
    static REGARD_INLINE void load(const uint32_t* words, Ints<float>* row) {
#pragma GCC unroll 4
        for (int j = 0; j < panel_vectors; ++j) row[j] = load_words(words + j * lanes<float>);
    }
    static REGARD_INLINE void add(const Ints<float>* row, const char* a, Sum* sums) {
#pragma GCC unroll 4
        for (int place = 0; place < 4; ++place) {
            const int32_t factor = number_at<int16_t>(a + 2 * place);
#pragma GCC unroll 4
            for (int j = 0; j < panel_vectors; ++j) sums[j] += ((row[j] << (24 - 8 * place)) >> 24) * factor;
        }
    }
};

#if defined(__AVX512F__)
// The compiler need not know these instructions; who runs them has asked whether the machine does.
struct Bfloat16Pairs {
    using Sum = Vector<float>;
    static constexpr int most_rows = 6;
    static constexpr bool integers = false;
    static constexpr long bytes = 4;
    using Row = Ints<float>[panel_vectors];
    static REGARD_INLINE void load(const uint32_t* words, Ints<float>* row) { Int8Plain::load(words, row); }
    static REGARD_INLINE void add(const Ints<float>* row, const char* a, Sum* sums) {
        const Ints<float> factor = all_ints<float>(number_at<int32_t>(a));
#pragma GCC unroll 4
        for (int j = 0; j < panel_vectors; ++j) asm("vdpbf16ps %2, %1, %0" : "+v"(sums[j]) : "v"(factor), "v"(row[j]));
    }
};

struct Int8Quads {
    using Sum = Ints<float>;
    static constexpr int most_rows = 6;
    static constexpr bool integers = true;
    static constexpr long bytes = 4;
    using Row = Ints<float>[panel_vectors];
    static REGARD_INLINE void load(const uint32_t* words, Ints<float>* row) { Int8Plain::load(words, row); }
    static REGARD_INLINE void add(const Ints<float>* row, const char* a, Sum* sums) {
        const Ints<float> factor = all_ints<float>(number_at<int32_t>(a));
#pragma GCC unroll 4
        for (int j = 0; j < panel_vectors; ++j) asm("vpdpbusd %2, %1, %0" : "+v"(sums[j]) : "v"(factor), "v"(row[j]));
    }
};
#endif

// Accumulators to results. The steps of rounding are the same for every height of a tile.
template <class Sum>
REGARD_INLINE void finish(const Sum* sums, const Weights& w, float scale, float* c, bool add) {
    constexpr int W = lanes<float>;
#pragma GCC unroll 4
    for (int j = 0; j < panel_vectors; ++j) {
        Vector<float> value;
        if constexpr (__is_same(Sum, Vector<float>)) {
            value = sums[j];
        } else {
            const Ints<float> whole = w.sums ? sums[j] - load_ints<float>(w.sums + j * W) : sums[j];
            value = __builtin_convertvector(whole, Vector<float>) * (load<float>(w.scales + j * W) * scale);
        }
        if (w.bias) value += load<float>(w.bias + j * W);
        store<float>(c + j * W, add ? load<float>(c + j * W) + value : value);
    }
}

template <class Numbers, int M>
__attribute__((noinline)) void tile(const Weights& w, const Sides& x) {
    typename Numbers::Sum sums[M][panel_vectors];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < panel_vectors; ++j) sums[i][j] = typename Numbers::Sum{};
    const uint32_t* words = w.words;
    const char* a = x.a;
    for (long g = w.groups; g > 0; --g) {
        typename Numbers::Row row;
        Numbers::load(words, row);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) Numbers::add(row, a + i * x.a_row, sums[i]);
        words += panel_columns;
        a += Numbers::bytes;
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) finish(sums[i], w, Numbers::integers ? x.a_scale[i] : 0.f, x.c + i * x.c_row, x.add);
}

#if defined(__AVX2__)
// Bytes widened to 16 bits: products of neighbours are added exactly, and a column's two sums only in the end. Sixteen columns at
// a time, in registers of 32 bytes also where there are wider ones.
struct Int8Madd {
    static constexpr int most_rows = 3;
    static constexpr long bytes = 8;
};

template <int M>
REGARD_INLINE void sixteen_columns(const uint32_t* words, long groups, const char* a, long a_row, int32_t* found) {
    __m256i sums[M][4];
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) sums[i][j] = _mm256_setzero_si256();
    for (long g = 0; g < groups; ++g) {
        __m256i row[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) row[j] = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words + 4 * j)));
#pragma GCC unroll 4
        for (int i = 0; i < M; ++i) {
            const __m256i factor = _mm256_set1_epi64x(number_at<int64_t>(a + i * a_row));
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) sums[i][j] = _mm256_add_epi32(sums[i][j], _mm256_madd_epi16(row[j], factor));
        }
        words += panel_columns;
        a += Int8Madd::bytes;
    }
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < 4; j += 2) {
            const __m256i joined = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[i][j], sums[i][j + 1]), 0xd8);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(found + i * panel_columns + 4 * j), joined);
        }
}

template <int M>
__attribute__((noinline)) void madd_tile(const Weights& w, const Sides& x) {
    alignas(64) int32_t found[M * panel_columns];
    for (long column = 0; column < panel_columns; column += 16)
        sixteen_columns<M>(w.words + column, w.groups, x.a, x.a_row, found + column);
    for (int i = 0; i < M; ++i) {
        Ints<float> sums[panel_vectors];
        for (int j = 0; j < panel_vectors; ++j) sums[j] = load_ints<float>(found + i * panel_columns + j * lanes<float>);
        finish(sums, w, x.a_scale[i], x.c + i * x.c_row, x.add);
    }
}

#endif

template <class Numbers, int M = Numbers::most_rows>
REGARD_INLINE void tile_of(long rows, const Weights& w, const Sides& x) {
    if constexpr (M > 1) {
        if (rows < M) return tile_of<Numbers, M - 1>(rows, w, x);
    }
#if defined(__AVX2__)
    if constexpr (__is_same(Numbers, Int8Madd)) return madd_tile<M>(w, x);
    else
#endif
        tile<Numbers, M>(w, x);
}

}  // namespace regard::REGARD_ISA::stacks
