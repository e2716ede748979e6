// Numbers of a factor as the tiles read them: words of 32 bits, each one number of the depth or a pair of them.
#pragma once

#include "../kernel/pairs.h"

namespace regard::REGARD_ISA::products {

constexpr int W = lanes<float>;

struct OneByOne {
    static constexpr int unit = 1;  // rows, and words of the depth, that are multiplied together
    struct Setting {};              // what a thread holds while it multiplies
};

struct Floats : OneByOne {
    static constexpr int numbers = 1;  // of a word
    static constexpr bool rounds = false;
    using Step = MultiplyAdd<float>;
    static REGARD_INLINE Halves narrowed(Vector<float> sums) { return REGARD_ISA::rounded(sums, bfloat16{}); }
};

struct Rounded : OneByOne {
    static constexpr int numbers = 1;
    static constexpr bool rounds = true;
    using Step = MultiplyAdd<float>;
    static REGARD_INLINE Halves narrowed(Vector<float> sums) { return REGARD_ISA::rounded(sums, bfloat16{}); }
};

#if defined(__AVX512F__)
// The lower half of a word is the number of the even place. The compiler need not know the instruction; who calls has asked
// whether the machine does.
struct Pairs : OneByOne {
    static constexpr int numbers = 2;
    struct Step {
        static REGARD_INLINE void add(Vector<float>& sum, Vector<float> factor, Vector<float> row) {
            asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(factor), "v"(row));
        }
    };
    static REGARD_INLINE Halves narrowed(Vector<float> sums) {
        Halves found;
        asm("vcvtneps2bf16 %1, %0" : "=v"(found) : "v"(sums));
        return found;
    }
    static REGARD_INLINE Vector<float> both(Vector<float> first, Vector<float> second) { return REGARD_ISA::both(first, second); }
    static REGARD_INLINE Vector<float> alternating(Vector<float> halves) { return REGARD_ISA::alternating(halves); }
};

// Pairs as well, by the matrix unit.
struct Tiles : Pairs {
    static constexpr int unit = tile_side;
    using Setting = TileShapes;
    static void product(long rows, int vectors, const Matrices<float>& x, Old old) { tile_product(rows, vectors, x, old); }
};
#endif

// The first `count` numbers, at least one; zero behind them.
template <class S>
REGARD_INLINE Vector<float> first_of(const S* from, long count) {
    if (count >= W) return load<float>(from);
#if defined(__AVX512F__)
    const __mmask16 wanted = __mmask16((1u << count) - 1);
    if constexpr (sizeof(S) == 4) return (Vector<float>)_mm512_maskz_loadu_ps(wanted, from);
    else return widened((Halves)_mm256_maskz_loadu_epi16(wanted, from), bfloat16{});
#else
    return load_first<float>(from, count);
#endif
}

template <class Kind, class S>
REGARD_INLINE Vector<float> numbers_at(const S* from, long count) {
    const Vector<float> found = first_of(from, count);
    if constexpr (Kind::rounds && sizeof(S) == 4) return widened(rounded(found, bfloat16{}), bfloat16{});
    else return found;
}

// Words [first, first + W) of a row that runs along the depth; zero behind its end.
template <class Kind, class S>
REGARD_INLINE Vector<float> words_along(const S* row, long first, long depth) {
    if constexpr (Kind::numbers == 1) {
        return numbers_at<Kind>(row + first, depth - first);
    } else {
        const S* from = row + 2 * first;
        const long count = depth - 2 * first;
        if constexpr (sizeof(S) == 2) {
            if (count >= 2 * W) return load<float>(reinterpret_cast<const float*>(from));
        }
        if (count <= 0) return Vector<float>{};
        return Kind::both(first_of(from, count), count > W ? first_of(from + W, count - W) : Vector<float>{});
    }
}

// Word `word` of the W rows or columns that stand side by side at `from`, of which there are `count`; zero behind the depth's end.
template <class Kind, class S>
REGARD_INLINE Vector<float> words_across(const S* from, long row, long word, long depth, long count) {
    if (Kind::unit > 1 && word * Kind::numbers >= depth) return Vector<float>{};
    const S* first = from + word * Kind::numbers * row;
    if constexpr (Kind::numbers == 1) {
        return numbers_at<Kind>(first, count);
    } else {
        const Vector<float> even = first_of(first, count);
        const Vector<float> odd = 2 * word + 1 < depth ? first_of(first + row, count) : Vector<float>{};
        if constexpr (sizeof(S) == 2) return (Vector<float>)((Bits)even >> 16 | (Bits)odd);
        else return Kind::alternating(Kind::both(even, odd));
    }
}

}  // namespace regard::REGARD_ISA::products
