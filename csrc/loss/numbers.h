// Logits as they lie in memory, and as they are computed with.
#pragma once

#include "../kernel/functions.h"

namespace regard::REGARD_ISA {

struct Bfloat16 {
    uint16_t bits;
};

typedef uint16_t Halves __attribute__((vector_size(vector_bytes / 2)));
typedef uint16_t LooseHalves __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));
typedef uint32_t Words __attribute__((vector_size(vector_bytes)));

// The type to compute in.
template <class S>
struct Widened {
    typedef S Type;
};
template <>
struct Widened<Bfloat16> {
    typedef float Type;
};
template <class S>
using Wide = typename Widened<S>::Type;

template <class S>
REGARD_INLINE Vector<S> widened(const S* from) {
    return load<S>(from);
}
REGARD_INLINE Vector<float> widened(const Bfloat16* from) {
    const Halves halves = *reinterpret_cast<const LooseHalves*>(from);
    return (Vector<float>)(__builtin_convertvector(halves, Words) << 16);
}

template <class S>
REGARD_INLINE void narrowed(S* to, Vector<S> numbers) {
    store<S>(to, numbers);
}
// To the nearest, halfway to the even one; a NaN becomes a NaN whatever its bits are.
REGARD_INLINE void narrowed(Bfloat16* to, Vector<float> numbers) {
    const Words bits = (Words)numbers;
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words kept = numbers == numbers ? rounded : (bits >> 16) | 0x40u;
    *reinterpret_cast<LooseHalves*>(to) = __builtin_convertvector(kept, Halves);
}

}  // namespace regard::REGARD_ISA
