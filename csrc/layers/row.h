// The numbers of a row, a vector at a time, whatever they are stored as.
#pragma once

#include "../kernel/vector.h"

namespace regard::REGARD_ISA::layers {

struct Bfloat16 {
    uint16_t bits;
};

// The type in which numbers of a stored type are computed.
template <class Stored>
struct ComputedAs {
    typedef Stored Type;
};
template <>
struct ComputedAs<Bfloat16> {
    typedef float Type;
};
template <class Stored>
using Computed = typename ComputedAs<Stored>::Type;

// How many numbers of a vector are meant: all, or those before the end of the row.
struct Whole {};
struct Part {
    long count;
};

typedef uint32_t Bits __attribute__((vector_size(vector_bytes)));
typedef uint16_t Halves __attribute__((vector_size(vector_bytes / 2)));
typedef uint16_t LooseHalves __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));

REGARD_INLINE Vector<double> read(const double* from, Whole) { return load(from); }
REGARD_INLINE Vector<float> read(const float* from, Whole) { return load(from); }
REGARD_INLINE Vector<float> read(const Bfloat16* from, Whole) {
    const Halves halves = *reinterpret_cast<const LooseHalves*>(from);
    return (Vector<float>)(__builtin_convertvector(halves, Bits) << 16);
}

REGARD_INLINE void write(double* to, Vector<double> numbers, Whole) { store(to, numbers); }
REGARD_INLINE void write(float* to, Vector<float> numbers, Whole) { store(to, numbers); }
// Rounded to nearest, to even where two are as near; rounding must not carry a NaN into infinity.
REGARD_INLINE void write(Bfloat16* to, Vector<float> numbers, Whole) {
    const Bits bits = (Bits)numbers;
    const Bits rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
    const Bits chosen = numbers == numbers ? rounded : (bits | 0x400000u);
    *reinterpret_cast<LooseHalves*>(to) = __builtin_convertvector(chosen >> 16, Halves);
}

template <class Stored>
REGARD_INLINE Vector<Computed<Stored>> read(const Stored* from, Part part) {
    Stored numbers[lanes<Computed<Stored>>] = {};
    for (long i = 0; i < part.count; ++i) numbers[i] = from[i];
    return read(numbers, Whole{});
}
template <class Stored>
REGARD_INLINE void write(Stored* to, Vector<Computed<Stored>> vector, Part part) {
    Stored numbers[lanes<Computed<Stored>>];
    write(numbers, vector, Whole{});
    for (long i = 0; i < part.count; ++i) to[i] = numbers[i];
}

// A row of an array that may not be there.
template <class Stored>
REGARD_INLINE Stored* row_of(void* array, long offset) {
    return array ? static_cast<Stored*>(array) + offset : nullptr;
}
template <class Stored>
REGARD_INLINE const Stored* row_of(const void* array, long offset) {
    return array ? static_cast<const Stored*>(array) + offset : nullptr;
}

// Calls body(first, Whole or Part) for the vectors of a row.
template <class T, class Body>
REGARD_INLINE void along(long size, const Body& body) {
    long first = 0;
    for (; first + lanes<T> <= size; first += lanes<T>) body(first, Whole{});
    if (first < size) body(first, Part{size - first});
}

// The numbers of lanes, as constants: halves of a vector, and its pairs of neighbors.
template <class T, int... lane>
struct Lanes {
    static constexpr int count = sizeof...(lane);
    typedef T Full __attribute__((vector_size(count * sizeof(T))));
    typedef T Double __attribute__((vector_size(2 * count * sizeof(T))));
    static REGARD_INLINE Full sum_of_halves(Double x) {
        return __builtin_shufflevector(x, x, lane...) + __builtin_shufflevector(x, x, (lane + count)...);
    }
    // The numbers of each pair in the other order; its first number twice; its second number twice.
    static REGARD_INLINE Full swapped(Full x) { return __builtin_shufflevector(x, x, (lane ^ 1)...); }
    static REGARD_INLINE Full first(Full x) { return __builtin_shufflevector(x, x, (lane & ~1)...); }
    static REGARD_INLINE Full second(Full x) { return __builtin_shufflevector(x, x, (lane | 1)...); }
    static REGARD_INLINE Full sign() { return Full{(lane & 1 ? T(1) : T(-1))...}; }
};
template <class T, int count>
struct LanesOf;
template <class T>
struct LanesOf<T, 2> : Lanes<T, 0, 1> {};
template <class T>
struct LanesOf<T, 4> : Lanes<T, 0, 1, 2, 3> {};
template <class T>
struct LanesOf<T, 8> : Lanes<T, 0, 1, 2, 3, 4, 5, 6, 7> {};
template <class T>
struct LanesOf<T, 16> : Lanes<T, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15> {};

template <class T, int count>
REGARD_INLINE T sum_of_lanes(typename LanesOf<T, count>::Full vector) {
    if constexpr (count == 2) return vector[0] + vector[1];
    else return sum_of_lanes<T, count / 2>(LanesOf<T, count / 2>::sum_of_halves(vector));
}
template <class T>
REGARD_INLINE T sum_of(Vector<T> vector) {
    return sum_of_lanes<T, lanes<T>>(vector);
}

template <class T>
REGARD_INLINE T inverse_root(T number) {
    return T(1) / (sizeof(T) == 4 ? __builtin_sqrtf(float(number)) : T(__builtin_sqrt(double(number))));
}

}  // namespace regard::REGARD_ISA::layers
