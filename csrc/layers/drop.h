// Dropout by counter: the bytes of a word decide over four entries, and nothing needs to be kept for the backward pass.
//
// Entries of a row stand in blocks of 64: byte b of word w of a block decides over its entry 16 * b + w, on every instruction set.
// The words are a hash of their numbers (Wellons 2018, "lowbias32", twice with two keys), which is half the work of Philox here.
#pragma once

#include "layers.h"
#include "row.h"

namespace regard::REGARD_ISA::layers {

constexpr long block_entries = 64, block_words = 16;

template <class Word>
REGARD_INLINE Word mixed(Word word) {
    word = (word ^ (word >> 16)) * 0x7FEB352Du;
    word = (word ^ (word >> 15)) * 0x846CA68Bu;
    return word ^ (word >> 16);
}

template <class T>
class Drop {
   public:
    // Of a row of so many entries.
    REGARD_INLINE Drop(const Dropping& dropping, long row, long size)
        : dropping_(dropping), block_(uint32_t(row * ((size + block_entries - 1) / block_entries))) {}

    // What the entries from `first` on are multiplied by; to be asked for in order.
    REGARD_INLINE Vector<T> factors(long first) {
        const Vector<T> kept = all<T>(T(dropping_.factor));
        if (dropping_.threshold == 0) return kept;
        if (first % block_entries == 0) draw();
        const int shift = int(first % block_entries / block_words) * 8;
        const Ints<T> bytes = (words(first % block_words) >> shift) & 255;
        return bytes < all_ints<T>(dropping_.threshold) ? Vector<T>{} : kept;
    }

   private:
    typedef int32_t SomeWords __attribute__((vector_size(4 * lanes<T>)));
    typedef int32_t LooseWords __attribute__((vector_size(4 * lanes<T>), aligned(4), may_alias));

    REGARD_INLINE Ints<T> words(long first) const {
        return __builtin_convertvector(SomeWords(*reinterpret_cast<const LooseWords*>(words_ + first)), Ints<T>);
    }

    REGARD_INLINE void draw() {
        Bits place;
        for (int i = 0; i < lanes<float>; ++i) place[i] = uint32_t(i);
        for (long first = 0; first < block_words; first += lanes<float>) {
            const Bits number = place + (block_ * uint32_t(block_words) + uint32_t(first));
            const Bits found = mixed(mixed(number ^ dropping_.keys[0]) ^ dropping_.keys[1]);
            __builtin_memcpy(words_ + first, &found, sizeof found);
        }
        ++block_;
    }

    const Dropping& dropping_;
    uint32_t block_;
    alignas(64) uint32_t words_[block_words];
};

}  // namespace regard::REGARD_ISA::layers
