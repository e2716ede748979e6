// Pairs of bfloat16 in words of 32 bits, as the matrix unit reads them: of two neighbours along the depth of a product the first is
// the lower half. A is rows of words, B one row for each word of the depth; both come in whole tiles, filled with zeros.
#pragma once

#include "tiles.h"
#include "transpose.h"

namespace regard::REGARD_ISA {

#if defined(__AVX512F__)
typedef uint16_t Numbers __attribute__((vector_size(vector_bytes)));

// All numbers of the one, then all of the other, rounded. The compiler need not know the instruction; who calls has asked whether
// the machine does.
REGARD_INLINE Vector<float> both(Vector<float> first, Vector<float> second) {
    Vector<float> found;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(found) : "v"(first), "v"(second));
    return found;
}

// One of the first half, one of the second, and so on.
REGARD_INLINE Vector<float> alternating(Vector<float> halves) {
    const Numbers all = (Numbers)halves;
    return (Vector<float>)__builtin_shufflevector(all, all, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26,
                                                  11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

constexpr long words_of(long numbers) { return round_up(numbers, 2 * tile_side) / 2; }

// Rows of bfloat16, `row(i)` for each, as rows of words, zero behind `size`; a null row is zeros. Returns whether all numbers are
// finite.
template <class Row>
bool copy_words(const Row& row, long count, long size, float* to) {
    const long width = words_of(size);
    __mmask32 wild = 0;
    const __m512i exponent = _mm512_set1_epi16(0x7F80);
    for (long i = 0; i < count; ++i, to += width) {
        const bfloat16* from = row(i);
        for (long d = 0; d < 2 * width; d += 2 * tile_side) {
            const long left = from ? size - d : 0;
            const __mmask32 wanted = left >= 2 * tile_side ? ~__mmask32(0) : __mmask32((uint64_t(1) << largest(left, 0L)) - 1);
            const __m512i words = _mm512_maskz_loadu_epi16(wanted, from ? from + d : nullptr);
            wild |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(words, exponent), exponent);
            _mm512_storeu_si512(to + d / 2, words);
        }
    }
    return !wild;
}

// to[column][row] = from[row][column], words or floats, for whole tiles of both.
inline void turn(const float* from, long from_width, long rows, long columns, float* to, long to_width) {
    for (long row = 0; row < rows; row += tile_side)
        for (long column = 0; column < columns; column += tile_side) {
            Vector<float> block[tile_side];
#pragma GCC unroll 16
            for (int i = 0; i < tile_side; ++i) block[i] = load<float>(from + (row + i) * from_width + column);
            transpose_block<float>(block);
#pragma GCC unroll 16
            for (int i = 0; i < tile_side; ++i) store<float>(to + (column + i) * to_width + row, block[i]);
        }
}

// Rows of words, each a pair of columns, become words of pairs of rows: to[pair][column], for `columns`, a multiple of a tile's side;
// zero behind `count` rows, up to `pairs`.
inline void pair_rows(const float* from, long count, long words, long columns, long pairs, float* to) {
    const Vector<float> none{};
    for (long pair = 0; pair < pairs; ++pair)
        for (long column = 0; column < columns; column += tile_side) {
            // Every other block of columns is the upper half of the same words.
            const long place = column / (2 * tile_side) * tile_side;
            const float* row = from + 2 * pair * words + place;
            const Numbers even = (Numbers)(2 * pair < count ? load<float>(row) : none);
            const Numbers odd = (Numbers)(2 * pair + 1 < count ? load<float>(row + words) : none);
            const Numbers found = column % (2 * tile_side)
                                      ? __builtin_shufflevector(even, odd, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                                24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63)
                                      : __builtin_shufflevector(even, odd, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40,
                                                                9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47);
            store<float>(to + pair * columns + column, (Vector<float>)found);
        }
}

// Numbers (keys, width) rounded, as words of pairs of keys: to[pair][lane] for whole tiles of pairs. `skipped` keys before them, and
// those behind, are zero.
inline void pair_keys(const float* values, long keys, long width, long skipped, float* to) {
    const long pairs = words_of(skipped + keys);
    const auto number = [&](long key, long lane) {
        return key >= 0 && key < keys ? load<float>(values + key * width + lane) : Vector<float>{};
    };
    for (long pair = 0; pair < pairs; ++pair, to += width) {
        const long key = 2 * pair - skipped;
        if (key >= 0 && key + 1 < keys) {
            const float* from = values + key * width;
            for (long lane = 0; lane < width; lane += tile_side)
                store<float>(to + lane, alternating(both(load<float>(from + lane), load<float>(from + width + lane))));
        } else {
            for (long lane = 0; lane < width; lane += tile_side)
                store<float>(to + lane, alternating(both(number(key, lane), number(key + 1, lane))));
        }
    }
}

// Numbers (keys, width) rounded, as rows of words of pairs of lanes, for whole tiles of keys and words.
inline void pair_lanes(const float* values, long keys, long width, float* to) {
    const long words = words_of(width), rows = round_up(keys, tile_side);
    const Vector<float> none{};
    for (long key = 0; key < rows; ++key)
        for (long lane = 0; lane < 2 * words; lane += 2 * tile_side) {
            const float* from = values + key * width + lane;
            const Vector<float> first = key < keys ? load<float>(from) : none;
            const Vector<float> second = key < keys && lane + tile_side < width ? load<float>(from + tile_side) : none;
            store<float>(to + key * words + lane / 2, both(first, second));
        }
}
#endif

// Fewer keys, or queries of the forward pass, cost more by tiles, which are mostly empty then.
REGARD_INLINE bool fills_tiles(long count) { return count > 16; }

// Whether a call's products go through the matrix unit: of bfloat16 alone, whose numbers need no rounding for it.
template <class T>
bool uses_tiles(const Call& call) {
    const auto fits = [](const Rows& rows) { return rows.stored == Stored::bfloat16; };
    return has_tiles<T> && call.tiles && fits(call.query) && fits(call.key) && fits(call.value);
}

}  // namespace regard::REGARD_ISA
