// A linear layer on a block of rows: activations made ready for the kind of its matrix, then tile by tile.
#pragma once

#include "tiles.h"

namespace regard::REGARD_ISA::stacks {

constexpr long padded(long columns) { return round_up(columns, panel_columns); }

// Bytes of a row of activations made ready, of whatever kind.
constexpr long ready_bytes(long depth) { return round_up(depth, 4) * 4; }

// Lanes of a vector at `at` that are below `end`, the others 0: what stands behind a row is read and left out.
REGARD_INLINE Vector<float> load_below(const float* from, long at, long end) {
    constexpr int W = lanes<float>;
    const Vector<float> value = load<float>(from + at);
    if (at + W <= end) return value;
    Ints<float> number;
    for (int i = 0; i < W; ++i) number[i] = i;
    return number < all_ints<float>(int32_t(end - at)) ? value : Vector<float>{};
}

REGARD_INLINE float total(Vector<float> v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(__m512(v));
#else
    float sum = 0;
    for (int width = lanes<float> / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) v[i] += v[i + width];
    sum = v[0];
    return sum;
#endif
}

REGARD_INLINE float largest_of(Vector<float> v) {
    float most = v[0];
    for (int i = 1; i < lanes<float>; ++i) most = largest(most, v[i]);
    return most;
}

// To the nearest number of 16 bits, ties to even, as an integer whose upper half it is.
REGARD_INLINE uint32_t bfloat16_bits(float number) {
    uint32_t bits;
    __builtin_memcpy(&bits, &number, 4);
    return (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
}

// Whole numbers from -127 to 127 and what one is worth; `offset` is added.
template <class T>
void quantized(const float* x, long depth, T* to, float* scale, int offset) {
    constexpr int W = lanes<float>;
    constexpr float rounder = 12582912.f;
    Vector<float> size{};
    for (long k = 0; k < depth; k += W) {
        const Vector<float> value = load_below(x, k, depth);
        size = larger<float>(value < 0.f ? -value : value, size);
    }
    const float most = largest_of(size);
    *scale = most / 127.f;
    const float factor = most > 0.f ? 127.f / most : 0.f;
    typedef T Narrow __attribute__((vector_size(W * sizeof(T)), aligned(1), may_alias));
    long k = 0;
    for (; k + W <= depth; k += W) {
        const Ints<float> whole = (Ints<float>)(load<float>(x + k) * factor + rounder) - (Ints<float>)all<float>(rounder);
        *reinterpret_cast<Narrow*>(to + k) = __builtin_convertvector(whole + offset, Narrow);
    }
    for (; k < depth; ++k) {
        const float shifted = x[k] * factor + rounder;
        int32_t bits, base;
        __builtin_memcpy(&bits, &shifted, 4);
        __builtin_memcpy(&base, &rounder, 4);
        to[k] = T(bits - base + offset);
    }
    for (; k % 4; ++k) to[k] = T(offset);
}

// Activations as `kind` wants them, in `room` unless they serve as they are.
inline Sides made_ready(Kind kind, const float* x, long x_row, long rows, long depth, char* room, float* scales) {
    if (kind == Kind::float32) return {reinterpret_cast<const char*>(x), x_row * 4, scales, nullptr, 0, false};
    const long row = ready_bytes(depth);
    for (long i = 0; i < rows; ++i, x += x_row) {
        char* to = room + i * row;
        if (kind == Kind::int8_quads) quantized(x, depth, reinterpret_cast<uint8_t*>(to), scales + i, 128);
        else if (kind == Kind::int8_wide) quantized(x, depth, reinterpret_cast<int16_t*>(to), scales + i, 0);
        else {
            for (long k = 0; k < depth; ++k) {
                const uint32_t bits = bfloat16_bits(x[k]);
                const uint16_t upper = uint16_t(bits >> 16);
                if (kind == Kind::bfloat16_pairs) __builtin_memcpy(to + 2 * k, &upper, 2);
                else __builtin_memcpy(to + 4 * k, &bits, 4);
            }
            __builtin_memset(to + (kind == Kind::bfloat16_pairs ? 2 : 4) * depth, 0, kind == Kind::bfloat16_pairs ? 2 : 4);
        }
    }
    return {room, row, scales, nullptr, 0, false};
}

template <class Numbers>
void panel_product(long rows, const Weights& w, Sides x) {
    constexpr int most = Numbers::most_rows;
    // Tiles of nearly one height: a last tile of one row would cost as much as one of four.
    const long tiles = (rows + most - 1) / most;
    for (long t = 0; t < tiles; ++t) {
        const long height = rows / tiles + (t < rows % tiles);
        tile_of<Numbers>(height, w, x);
        x.a += height * x.a_row;
        x.a_scale += height;
        x.c += height * x.c_row;
    }
}

// Panels [begin, end) of C = A W^T + bias, or C + A W^T + bias; column 0 of C is the first of panel `begin`.
inline void panels_product(const Matrix& w, long begin, long end, const Sides& ready, long rows, float* c, long c_row, bool add) {
    Sides x = ready;
    x.c_row = c_row;
    x.add = add;
    for (long p = begin; p < end; ++p) {
        const long column = p * panel_columns;
        const Weights weights{w.words + p * w.groups * panel_columns, w.groups, w.bias ? w.bias + column : nullptr,
                              w.scales ? w.scales + column : nullptr, w.sums ? w.sums + column : nullptr};
        x.c = c + (p - begin) * panel_columns;
        switch (w.kind) {
            case Kind::float32: panel_product<Float32>(rows, weights, x); break;
            case Kind::bfloat16_wide: panel_product<Bfloat16Wide>(rows, weights, x); break;
#if defined(__AVX2__)
            case Kind::int8_wide: panel_product<Int8Madd>(rows, weights, x); break;
#else
            case Kind::int8_wide: panel_product<Int8Plain>(rows, weights, x); break;
#endif
#if defined(__AVX512F__)
            case Kind::bfloat16_pairs: panel_product<Bfloat16Pairs>(rows, weights, x); break;
            case Kind::int8_quads: panel_product<Int8Quads>(rows, weights, x); break;
#endif
            default: break;
        }
    }
}

}  // namespace regard::REGARD_ISA::stacks
