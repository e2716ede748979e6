// The products of the backward pass through the matrix unit: queries, keys, values and the gradients of the output as they are given,
// weights and what flows back through scores rounded to bfloat16.
#pragma once

#include "flow.h"

namespace regard::REGARD_ISA {

#if defined(__AVX512F__)
// Words of a block of keys and values, and of the keys turned; whether all of them are finite.
template <class T>
bool copy_key_words(const Call& call, const Span& span, long kv_head, const BackwardRoom<T>& room, const OwnedKeys<T>& own) {
    const long count = own.range.end - own.range.begin;
    const Block<bfloat16> keys = block_of<bfloat16>(call, call.key, span, kv_head, own.range.begin);
    const Block<bfloat16> values = block_of<bfloat16>(call, call.value, span, kv_head, own.range.begin);
    const bool finite = copy_words([&](long i) { return keys.rows + i * keys.stride; }, count, own.dim, room.key_words);
    pair_rows(room.key_words, count, words_of(own.dim), own.padded_dim, words_of(count), room.words);
    turn(room.words, own.padded_dim, words_of(count), own.padded_dim, room.turned_keys, backward_block / 2);
    return copy_words([&](long i) { return values.rows + i * values.stride; }, count, own.value_dim, room.value_words) && finite;
}

// Words of the rows of a panel's lanes: of pairs of d, turned, and of pairs of lanes. Whether all of them are finite.
template <class T>
bool load_lane_words(const Rows& rows, const BackwardRoom<T>& room, long size, long padded, T* words, T* pairs) {
    const Panel<T>& panel = *room.panel;
    const bool finite = copy_words(
        [&](long i) {
            // A query that sees nothing must not hand on what its row holds.
            const bool blind = i >= panel.count || room.base[i] == infinity<T>;
            return blind ? nullptr : row_of<bfloat16>(rows, panel.span->q_begin + panel.row[i], panel.head[i]);
        },
        panel.width, size, room.words);
    turn(room.words, words_of(size), panel.width, words_of(size), words, panel.width);
    pair_rows(room.words, panel.width, words_of(size), padded, words_of(panel.width), pairs);
    return finite;
}

template <class T>
bool load_panel_words(const Call& call, const Gradients& gradients, const BackwardRoom<T>& room, const OwnedKeys<T>& own) {
    return load_lane_words(call.query, room, own.dim, own.padded_dim, room.query_words, room.query_pairs) &&
           load_lane_words(gradients.out, room, own.value_dim, own.padded_value, room.out_grad_words, room.out_grad_pairs);
}

// As `add_products`; weights and flow are rounded to bfloat16 for it.
template <class T>
void add_by_tiles(const Scores<T>& scores, const BackwardRoom<T>& room, const T* weights, const OwnedKeys<T>& own) {
    const long first = scores.cut.keys.begin - own.range.begin, width = scores.panel.width, depth = words_of(width);
    const long rows = round_up(scores.keys(), tile_side);
    pair_lanes(weights, scores.keys(), width, room.words);
    tile_product(rows, int(own.padded_value / tile_side),
                 {room.words, depth, room.out_grad_pairs, own.padded_value, own.value_grads + first * own.padded_value,
                  own.padded_value, depth, nullptr, &room.upcoming}, Old::added);
    pair_lanes(room.flow, scores.keys(), width, room.words);
    tile_product(rows, int(own.padded_dim / tile_side),
                 {room.words, depth, room.query_pairs, own.padded_dim, own.key_grads + first * own.padded_dim, own.padded_dim, depth,
                  nullptr, &room.upcoming}, Old::added);
    const long lead = first % (2 * tile_side);  // pairs and tiles of keys begin where those of the turned keys do
    pair_keys(room.flow, scores.keys(), width, lead, room.words);
    tile_product(own.padded_dim, scores.panel.vectors,
                 {room.turned_keys + (first - lead) / 2, backward_block / 2, room.words, width, room.turned_grads, width,
                  words_of(lead + scores.keys()), nullptr, &room.upcoming}, Old::none);
    turn(room.turned_grads, width, own.padded_dim, width, room.query_grads, own.padded_dim);
}
#endif

}  // namespace regard::REGARD_ISA
