// exp, log and tanh of a vector, to about one unit in the last place.
#pragma once

#include "vector.h"

namespace regard::REGARD_ISA {

constexpr double log2_e = 1.44269504088896340736;
constexpr double ln_2 = 0.69314718055994530942;

template <class T>
struct Format;
template <>
struct Format<float> {
    static constexpr int mantissa_bits = 23, bias = 127;
    static constexpr float rounder = 12582912.f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
    static constexpr float least_exponent = -126.f;
    // 2^x on [-1/2, 1/2] with a relative error of 1e-7, by least squares with weights raised where the error is large.
    static constexpr float powers[] = {1.f, 0.693146978f, 0.240222421f, 0.0555073375f, 0.00967151288f, 0.0013264724f};
    static constexpr int logarithm_terms = 5;
};
template <>
struct Format<double> {
    static constexpr int mantissa_bits = 52, bias = 1023;
    static constexpr double rounder = 6755399441055744.0;
    static constexpr double least_exponent = -1022.0;
    // ln(2)^k / k!
    static constexpr double powers[] = {1.0,
                                        0.69314718055994530942,
                                        0.24022650695910071233,
                                        0.055504108664821579953,
                                        0.0096181291076284771619,
                                        0.0013333558146428443423,
                                        0.00015403530393381609954,
                                        1.525273380405984028e-05,
                                        1.3215486790144309488e-06,
                                        1.0178086009239699728e-07,
                                        7.0549116208011233299e-09,
                                        4.4455382718708114976e-10,
                                        2.5678435993488205141e-11,
                                        1.3691488853904128881e-12};
    static constexpr int logarithm_terms = 11;
};

// e^x for x up to about 0; exactly 0 below the smallest normal number, so that a masked score weighs nothing; NaN stays.
// x is a difference of scores: scores stay in natural units, so that the difference of a score and its own logarithm is exact.
template <class T>
REGARD_INLINE Vector<T> exponential(Vector<T> x) {
    using F = Format<T>;
    constexpr int degree = int(sizeof(F::powers) / sizeof(T)) - 1;
    constexpr T least = T(double(F::least_exponent) * ln_2);
    const Vector<T> shifted = x * T(log2_e) + F::rounder;
    const Vector<T> whole = shifted - F::rounder;
    const Vector<T> part = x * T(log2_e) - whole;
    Vector<T> power = all<T>(F::powers[degree]);
#pragma GCC unroll 16
    for (int i = degree - 1; i >= 0; --i) power = power * part + F::powers[i];
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return (Vector<T>)_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(__m512(x), _mm512_set1_ps(least), _CMP_NLT_UQ), __m512(power),
                                                 __m512(whole));
    else
        return (Vector<T>)_mm512_maskz_scalef_pd(_mm512_cmp_pd_mask(__m512d(x), _mm512_set1_pd(least), _CMP_NLT_UQ), __m512d(power),
                                                 __m512d(whole));
#else
    const Vector<T> scale = (Vector<T>)(((Ints<T>)shifted + F::bias) << F::mantissa_bits);
    return x < least ? Vector<T>{} : power * scale;
#endif
}

// The natural logarithm of positive normal numbers; -inf for 0; NaN and inf stay.
template <class T>
REGARD_INLINE Vector<T> logarithm(Vector<T> x) {
    using F = Format<T>;
    // x = mantissa * 2^exponent with the mantissa in [sqrt(1/2), sqrt(2)).
    const Ints<T> half = (Ints<T>)all<T>(T(0.70710678118654752440));
    const Ints<T> shifted = (Ints<T>)x - half;
    const Ints<T> exponent = shifted >> F::mantissa_bits;
    const Vector<T> mantissa = (Vector<T>)((Ints<T>)x - (exponent << F::mantissa_bits));
    const Vector<T> s = (mantissa - T(1)) / (mantissa + T(1)), square = s * s;
    Vector<T> series = all<T>(T(1) / T(2 * F::logarithm_terms + 1));
#pragma GCC unroll 16
    for (int i = F::logarithm_terms - 1; i >= 0; --i) series = series * square + T(1) / T(2 * i + 1);
    const Vector<T> found = __builtin_convertvector(exponent, Vector<T>) * T(ln_2) + T(2) * s * series;
    const Vector<T> special = x == T(0) ? all<T>(-infinity<T>) : x;
    return (x > T(0)) & (x < infinity<T>) ? found : special;
}

// tanh by the rational function of Cephes near 0, where 1 - 2 / (exp(2x) + 1) loses digits.
template <class T>
REGARD_INLINE Vector<T> hyperbolic_tangent(Vector<T> x) {
    const Vector<T> size = x < T(0) ? -x : x, square = x * x;
    const Vector<T> above = (T(-9.64399179425052238628e-1) * square + T(-9.92877231001918586564e1)) * square + T(-1.61468768441708447952e3);
    const Vector<T> upper = (square + T(1.12811678491632931402e2)) * square + T(2.23548839060100448583e3);
    const Vector<T> below = upper * square + T(4.84406305325125486048e3);
    const Vector<T> near = x + x * square * (above / below);
    const Vector<T> small = exponential<T>(size * T(-2));
    const Vector<T> far = (T(1) - small) / (T(1) + small);
    return size < T(0.625) ? near : (x < T(0) ? -far : far);
}

}  // namespace regard::REGARD_ISA
