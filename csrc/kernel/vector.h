// One generic vector type, as wide as the instruction set that this file is compiled for.
//
// The compilers' vector extensions turn it into that instruction set's registers; only what they express badly is spelled
// out in intrinsics. Everything lives in a namespace of the instruction set, so that no function compiled for a newer
// machine can be linked in place of one for an older machine: for the same reason nothing here uses the standard library's
// templates.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__AVX512F__)
#define REGARD_ISA avx512
#elif defined(__AVX2__)
#define REGARD_ISA avx2
#else
#define REGARD_ISA generic
#endif

#define REGARD_INLINE inline __attribute__((always_inline))

namespace regard::REGARD_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
constexpr int most_vectors = 4;  // of a row of accumulators: 6 rows x 4 of the 32 registers
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
constexpr int most_vectors = 2;  // 6 rows x 2 of the 16 registers
#else
constexpr int vector_bytes = 16;
constexpr int most_vectors = 2;
#endif

template <class T>
struct Types;
template <>
struct Types<float> {
    typedef float Vector __attribute__((vector_size(vector_bytes)));
    typedef float Loose __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
    typedef int32_t Int;
    typedef int32_t Ints __attribute__((vector_size(vector_bytes)));
    typedef int32_t LooseInts __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
};
template <>
struct Types<double> {
    typedef double Vector __attribute__((vector_size(vector_bytes)));
    typedef double Loose __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
    typedef int64_t Int;
    typedef int64_t Ints __attribute__((vector_size(vector_bytes)));
    typedef int64_t LooseInts __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
};

template <class T>
using Vector = typename Types<T>::Vector;
template <class T>
using Ints = typename Types<T>::Ints;
template <class T>
using Int = typename Types<T>::Int;

template <class T>
constexpr int lanes = vector_bytes / int(sizeof(T));
// Queries that one panel holds, a lane each.
template <class T>
constexpr int panel_lanes = most_vectors * lanes<T>;

template <class T>
REGARD_INLINE Vector<T> load(const T* from) {
    return *reinterpret_cast<const typename Types<T>::Loose*>(from);
}
template <class T>
REGARD_INLINE void store(T* to, Vector<T> vector) {
    *reinterpret_cast<typename Types<T>::Loose*>(to) = vector;
}
template <class T>
REGARD_INLINE Ints<T> load_ints(const Int<T>* from) {
    return *reinterpret_cast<const typename Types<T>::LooseInts*>(from);
}
template <class T>
REGARD_INLINE Vector<T> all(T number) {
    return number - Vector<T>{};
}
template <class T>
REGARD_INLINE Ints<T> all_ints(Int<T> number) {
    return number - Ints<T>{};
}
// A NaN in `b` stays, one in `a` is dropped.
template <class T>
REGARD_INLINE Vector<T> larger(Vector<T> a, Vector<T> b) {
    return a > b ? a : b;
}

template <class T>
REGARD_INLINE T smallest(T a, T b) {
    return b < a ? b : a;
}
template <class T>
REGARD_INLINE T largest(T a, T b) {
    return a < b ? b : a;
}
template <class T>
constexpr T infinity = T(__builtin_inf());

constexpr long round_up(long number, long unit) { return (number + unit - 1) / unit * unit; }

}  // namespace regard::REGARD_ISA
