// What happens to single rows between products: normalization, turning by position, the gate; and attention of one row.
#pragma once

#include "../kernel/functions.h"
#include "product.h"

namespace regard::REGARD_ISA::stacks {

using decoder::Sizes;
using decoder::Stack;
using decoder::Turns;

REGARD_INLINE float inverse_root(float x) { return 1.f / __builtin_sqrtf(x); }

REGARD_INLINE float inverse_size(const float* x, long n, float epsilon) {
    Vector<float> squares{};
    for (long i = 0; i < n; i += lanes<float>) {
        const Vector<float> value = load_below(x, i, n);
        squares += value * value;
    }
    return inverse_root(total(squares) / float(n) + epsilon);
}

// Rows have room behind them for a last vector.
inline void normalize(const float* x, long n, float epsilon, float* to) {
    const float factor = inverse_size(x, n, epsilon);
    for (long i = 0; i < n; i += lanes<float>) store<float>(to + i, load<float>(x + i) * factor);
}

REGARD_INLINE Vector<float> neighbours_exchanged(Vector<float> x) {
#if defined(__AVX512F__)
    return (Vector<float>)_mm512_permute_ps(__m512(x), 0xb1);
#elif defined(__AVX2__)
    return (Vector<float>)_mm256_permute_ps(__m256(x), 0xb1);
#else
    return __builtin_shufflevector(x, x, 1, 0, 3, 2);
#endif
}

// What makes the mean square of one or several heads 1, where they are normalized.
REGARD_INLINE float head_factor(const Sizes& sizes, const float* x, long n) {
    return sizes.head_norm ? inverse_size(x, n, sizes.head_epsilon) : 1.f;
}

// One head, scaled, and turned by its position if there are turns; zeros fill it up to whole vectors.
inline void make_head(const Sizes& sizes, const float* x, const Turns* turns, long position, long room, float scale, float* to) {
    for (long i = 0; i < room; i += lanes<float>) {
        Vector<float> value = load_below(x, i, sizes.head_dim) * scale;
        if (turns)
            value = value * load<float>(turns->cosines + position * room + i) +
                    neighbours_exchanged(value) * load<float>(turns->sines + position * room + i);
        store<float>(to + i, value);
    }
}

inline void copy_head(const float* x, long n, long room, float* to) {
    for (long i = 0; i < room; i += lanes<float>) store<float>(to + i, load_below(x, i, n));
}

// silu(gate) * up; `x` holds both, the result takes the place of the gate.
inline void gated(float* x, long hidden) {
    for (long i = 0; i < hidden; i += lanes<float>) {
        const Vector<float> gate = load<float>(x + i), up = load<float>(x + hidden + i);
        const Vector<float> small = exponential<float>(gate < 0.f ? gate : -gate);
        store<float>(x + i, up * gate * (gate < 0.f ? small : all<float>(1.f)) / (1.f + small));
    }
}

// Scores become e^(score - most), zeros up to whole vectors; returns what makes their sum 1.
inline float exponentials(float* scores, long n) {
    constexpr int W = lanes<float>;
    Ints<float> number;
    for (int i = 0; i < W; ++i) number[i] = i;
    const auto below = [&](long at) {
        const Vector<float> value = load<float>(scores + at);
        return at + W <= n ? value : (number < all_ints<float>(int32_t(n - at)) ? value : all<float>(-infinity<float>));
    };
    Vector<float> most = all<float>(-infinity<float>);
    for (long s = 0; s < n; s += W) most = larger<float>(below(s), most);
    const float top = largest_of(most);
    Vector<float> sums{};
    for (long s = 0; s < n; s += W) {
        const Vector<float> value = exponential<float>(below(s) - top);
        sums += value;
        store<float>(scores + s, value);
    }
    return 1.f / total(sums);
}

// Writes the sum of weighted values of one head, by the values' addresses.
template <class At>
REGARD_INLINE void mix(const float* weights, long n, float factor, At at, long head_dim, long room, float* to) {
    constexpr int W = lanes<float>;
    for (long i = 0; i < room; i += W) {
        Vector<float> sum{};
        for (long s = 0; s < n; ++s) sum += weights[s] * load<float>(at(s) + i);
        sum *= factor;
        if (i + W <= head_dim) store<float>(to + i, sum);
        else
            for (long j = i; j < head_dim; ++j) to[j] = sum[j - i];
    }
}

// Attention of one row's queries (heads, room) to keys (kv_heads, head_dim, whole vectors of n) and values (n, kv_heads, room).
inline void attend_context(const Stack& stack, const float* queries, const float* keys, const float* values, long n, float* scores,
                           float* out) {
    constexpr int W = lanes<float>;
    const Sizes& sizes = stack.sizes;
    const long room = stack.head_room, width = round_up(n, W), group = sizes.heads / sizes.kv_heads;
    for (long h = 0; h < sizes.heads; ++h) {
        const long j = h / group;
        const float *query = queries + h * room, *key = keys + j * sizes.head_dim * width;
        for (long s = 0; s < width; s += W) {
            // Two sums: additions to one would wait for each other.
            Vector<float> even{}, odd{};
            for (long d = 0; d < sizes.head_dim; d += 2) {
                even += query[d] * load<float>(key + d * width + s);
                odd += query[d + 1] * load<float>(key + (d + 1) * width + s);
            }
            store<float>(scores + s, even + odd);
        }
        const float factor = n ? exponentials(scores, n) : 0.f;
        const float* value = values + j * room;
        mix(scores, n, factor, [&](long s) { return value + s * sizes.kv_heads * room; }, sizes.head_dim, room, out + h * sizes.head_dim);
    }
}

// Attention to what stands before a row in its own hypothesis, at `cells`, `key` and `value` numbers further.
inline void attend_written(const Stack& stack, const float* queries, const float* const* cells, long key, long value, long n,
                           float* scores, float* out) {
    constexpr int W = lanes<float>;
    const Sizes& sizes = stack.sizes;
    const long room = stack.head_room, group = sizes.heads / sizes.kv_heads;
    for (long h = 0; h < sizes.heads; ++h) {
        const long head = h / group * room;
        const float* query = queries + h * room;
        for (long t = 0; t < n; ++t) {
            const float* at = cells[t] + key + head;
            Vector<float> sum = load<float>(query) * load<float>(at);
            for (long i = W; i < room; i += W) sum += load<float>(query + i) * load<float>(at + i);
            scores[t] = total(sum);
        }
        const float factor = exponentials(scores, n);
        mix(scores, n, factor, [&](long t) { return cells[t] + value + head; }, sizes.head_dim, room, out + h * sizes.head_dim);
    }
}

}  // namespace regard::REGARD_ISA::stacks
