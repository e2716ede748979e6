// Arrays whose numbers lie narrower than the kernel computes: widened where rows are read, and where they are written rounded to
// nearest, ties to even.
#pragma once

#include "../kernel.h"
#include "vector.h"

namespace regard::REGARD_ISA {

struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

// As many as a vector of floats has.
typedef uint16_t Halves __attribute__((vector_size(vector_bytes / 2)));
typedef uint16_t LooseHalves __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));
typedef uint32_t Bits __attribute__((vector_size(vector_bytes)));

REGARD_INLINE Vector<float> widened(Halves halves, bfloat16) { return (Vector<float>)(__builtin_convertvector(halves, Bits) << 16); }

REGARD_INLINE Halves rounded(Vector<float> numbers, bfloat16) {
    const Bits bits = (Bits)numbers, nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(numbers == numbers ? nearest : (bits >> 16 | 0x40), Halves);
}

#if defined(__AVX512F__)
REGARD_INLINE Vector<float> widened(Halves halves, float16) { return (Vector<float>)_mm512_cvtph_ps((__m256i)halves); }
REGARD_INLINE Halves rounded(Vector<float> numbers, float16) {
    return (Halves)_mm512_cvtps_ph((__m512)numbers, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__)
REGARD_INLINE Vector<float> widened(Halves halves, float16) { return (Vector<float>)_mm256_cvtph_ps((__m128i)halves); }
REGARD_INLINE Halves rounded(Vector<float> numbers, float16) {
    return (Halves)_mm256_cvtps_ph((__m256)numbers, _MM_FROUND_TO_NEAREST_INT);
}
#else
// By integers, which the modes of the float unit leave alone: it may take subnormal numbers for 0.
REGARD_INLINE Vector<float> widened(Halves halves, float16) {
    const Bits all = __builtin_convertvector(halves, Bits), size = (all & 0x7FFF) << 13, exponent = size & 0x0F800000;
    const Bits normal = size + (112u << 23), special = size + (224u << 23);
    // A subnormal number is what 2^-14 grows by.
    const Bits small = (Bits)((Vector<float>)(size + (113u << 23)) - 0x1p-14f);
    const Bits found = exponent == 0x0F800000 ? special : (exponent == 0 ? small : normal);
    return (Vector<float>)(found | (all & 0x8000) << 16);
}
REGARD_INLINE Halves rounded(Vector<float> numbers, float16) {
    const Bits all = (Bits)numbers, size = all & 0x7FFFFFFF;
    const Bits normal = (size - (112u << 23) + 0xFFF + ((size >> 13) & 1)) >> 13;
    const Bits small = (Bits)((Vector<float>)size + 0.5f) - (126u << 23);  // the unit in the last place of 1/2 is 2^-24
    const Bits special = size > 0x7F800000 ? Bits{} + 0x7E00 : Bits{} + 0x7C00;
    const Bits found = size >= (143u << 23) ? special : (size < (113u << 23) ? small : normal);
    return __builtin_convertvector(found | (all >> 16 & 0x8000), Halves);
}
#endif

template <class T>
REGARD_INLINE Vector<T> load(const bfloat16* from) {
    return widened(*reinterpret_cast<const LooseHalves*>(from), bfloat16{});
}
template <class T>
REGARD_INLINE Vector<T> load(const float16* from) {
    return widened(*reinterpret_cast<const LooseHalves*>(from), float16{});
}

template <class T, class S>
__attribute__((noinline)) Vector<T> load_some(const S* from, long count) {
    S some[lanes<T>] = {};
    for (long i = 0; i < count; ++i) some[i] = from[i];
    return load<T>(some);
}

// The first `count` numbers, zero behind them.
template <class T, class S>
REGARD_INLINE Vector<T> load_first(const S* from, long count) {
    if (count >= lanes<T>) return load<T>(from);
    if constexpr (sizeof(S) == sizeof(T)) {
        Vector<T> vector{};
        for (long i = 0; i < count; ++i) vector[i] = from[i];
        return vector;
    } else {
        return load_some<T>(from, count);
    }
}

template <class S>
void round_numbers(const float* from, long size, S* to) {
    for (long d = 0; d < size; d += lanes<float>) {
        const Halves halves = rounded(load_first<float>(from + d, size - d), S{});
        if (size - d >= lanes<float>) *reinterpret_cast<LooseHalves*>(to + d) = halves;
        else for (long i = 0; i < size - d; ++i) to[d + i].bits = halves[i];
    }
}

REGARD_INLINE bool is_narrow(const Rows& rows) { return rows.stored != Stored::whole; }

// `body` is called with a pointer that points nowhere but has the type of an array's numbers where they lie.
template <class T, class Body>
REGARD_INLINE auto as_stored(const Rows& rows, const Body& body) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (rows.stored == Stored::bfloat16) return body(static_cast<const bfloat16*>(nullptr));
        if (rows.stored == Stored::float16) return body(static_cast<const float16*>(nullptr));
    }
    return body(static_cast<const T*>(nullptr));
}

template <class S>
REGARD_INLINE const S* row_of(const Rows& rows, long row, long head) {
    return static_cast<const S*>(rows.values) + row * rows.row + head * rows.head;
}
template <class S>
REGARD_INLINE S* row_to(const Rows& rows, long row, long head) {
    return static_cast<S*>(rows.values) + row * rows.row + head * rows.head;
}

template <class T>
__attribute__((noinline)) const T* widen_row(const Rows& rows, long row, long head, long size, T* room) {
    as_stored<T>(rows, [&]<class S>(const S*) {
        const S* from = row_of<S>(rows, row, head);
        for (long d = 0; d < size; d += lanes<T>) store<T>(room + d, load_first<T>(from + d, size - d));
    });
    return room;
}

// A row as the kernel computes: where it lies, or widened into `room`, zero behind `size`.
template <class T>
REGARD_INLINE const T* row_in(const Rows& rows, long row, long head, long size, T* room) {
    return is_narrow(rows) ? widen_row(rows, row, head, size, room) : row_of<T>(rows, row, head);
}

// Where a row is computed: where it shall lie, or, where that is narrow, in `room`, from which `round_row` brings it there.
template <class T>
REGARD_INLINE T* row_out(const Rows& rows, long row, long head, T* room) {
    return is_narrow(rows) ? room : row_to<T>(rows, row, head);
}
template <class T>
__attribute__((noinline)) void round_row(const Rows& rows, long row, long head, const T* from, long size) {
    as_stored<T>(rows, [&]<class S>(const S*) {
        if constexpr (sizeof(S) < sizeof(T)) round_numbers(from, size, row_to<S>(rows, row, head));
    });
}

template <class T>
void clear_rows(const Rows& rows, long count, long heads, long size) {
    as_stored<T>(rows, [&]<class S>(const S*) {
        for (long row = 0; row < count; ++row)
            for (long head = 0; head < heads; ++head)
                for (long d = 0; d < size; ++d) row_to<S>(rows, row, head)[d] = S{};
    });
}

}  // namespace regard::REGARD_ISA
