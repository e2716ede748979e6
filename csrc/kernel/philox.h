// Philox4x32-10, a counter in every lane (Salmon, Moraes, Dror, Shaw, SC 2011).
#pragma once

#include "vector.h"

namespace regard::REGARD_ISA {

typedef uint32_t Words __attribute__((vector_size(vector_bytes)));
typedef uint64_t Wide __attribute__((vector_size(vector_bytes)));
constexpr int word_lanes = vector_bytes / 4;

// The product of the even 32-bit lanes of `a` with a number, 64 bits wide.
REGARD_INLINE Wide even_products(Words a, uint32_t number) {
#if defined(__AVX512F__)
    return (Wide)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi32(int(number)));
#elif defined(__AVX2__)
    return (Wide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi32(int(number)));
#elif defined(__SSE2__)
    return (Wide)_mm_mul_epu32((__m128i)a, _mm_set1_epi32(int(number)));
#else
    return ((Wide)a & 0xFFFFFFFFull) * uint64_t(number);
#endif
}

struct Product {
    Words high, low;
};

REGARD_INLINE Product multiply_wide(Words a, uint32_t number) {
    const Wide even = even_products(a, number), odd = even_products((Words)((Wide)a >> 32), number);
    const Wide low_half = Wide{} + 0xFFFFFFFFull;
    return {(Words)((even >> 32) | (odd & ~low_half)), (Words)((even & low_half) | (odd << 32))};
}

struct FourWords {
    Words word[4];
};

REGARD_INLINE FourWords philox(Words c0, Words c1, Words c2, Words c3, uint32_t k0, uint32_t k1) {
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const Product left = multiply_wide(c0, 0xD2511F53u), right = multiply_wide(c2, 0xCD9E8D57u);
        c0 = right.high ^ c1 ^ k0;
        c1 = right.low;
        c2 = left.high ^ c3 ^ k1;
        c3 = left.low;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

}  // namespace regard::REGARD_ISA
