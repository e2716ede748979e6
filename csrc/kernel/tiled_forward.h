// A block of the forward pass through the matrix unit: scores = K Q^T as elsewhere, and sums that stand turned, (V, lanes), because
// weights (keys, lanes) are then read as they lie.
//
// Queries, keys and values are multiplied as they are given; weights are rounded to bfloat16 for their product with the values.
#pragma once

#include "softmax.h"

namespace regard::REGARD_ISA {

#if defined(__AVX512F__)
// The panel's queries as words of pairs of d, (words, width), not yet scaled.
template <class T>
void load_query_words(const Call& call, ForwardState<T>& state, ForwardRoom<T>& room) {
    const Panel<T>& panel = *state.panel;
    const long size = call.problem->sizes.dim;
    copy_words(
        [&](long i) {
            return i < panel.count ? row_of<bfloat16>(call.query, panel.span->q_begin + panel.row[i], panel.head[i]) : nullptr;
        },
        panel.width, size, room.words);
    turn(room.words, words_of(size), panel.width, words_of(size), state.queries, panel.width);
}

// Queries are multiplied as they are given, so their scores still have to be scaled: here, where something is added to them or bends
// them before they become weights, or then. Returns what is left to multiply by.
template <class T>
T scale_or_leave(const Scores<T>& scores) {
    const T factor = T(score_factor(scores.problem));
    if (factor > T(0) && !scores.cut.tile && scores.problem.softcap <= 0) return factor;
    for (long i = 0; i < scores.keys() * scores.panel.width; i += lanes<T>)
        store<T>(scores.values + i, load<T>(scores.values + i) * factor);
    return T(1);
}

// values = rows of words, from number `first` on, by the words of the panel's lanes.
template <class T>
void fill_by_tiles(const Scores<T>& scores, const T* rows, long first, const T* columns, long size, T* values) {
    const long width = scores.panel.width, depth = words_of(size);
    tile_product(round_up(scores.keys(), tile_side), scores.panel.vectors,
                 {rows + first * depth, depth, columns, width, values, width, depth, nullptr, &scores.upcoming}, Old::none);
}

// As `collect`, for values that hold NaN or infinities, which masked pairs must not meet.
template <class T>
void collect_carefully(const Scores<T>& scores, ForwardState<T>& state, const T* words, long size) {
    const long width = scores.panel.width;
    for (long key = 0; key < scores.keys(); ++key) {
        const auto* row = reinterpret_cast<const bfloat16*>(words + key * words_of(size));
        for (int lane = 0; lane < scores.panel.count; ++lane) {
            const T weight = scores.values[key * width + lane];
            if (weight == T(0)) continue;
            for (long d = 0; d < size; ++d) {
                const bfloat16 some[lanes<T>] = {row[d]};
                state.sums[d * width + lane] += weight * load<T>(some)[0];
            }
        }
    }
}

// Earlier sums, by what their weights fade; mostly the largest scores stand, and nothing does.
template <class T>
void fade_sums(const ForwardState<T>& state, const T* fade, long padded) {
    const long width = state.panel->width;
    for (long lane = 0; lane < width; lane += lanes<T>) {
        const Vector<T> by = load<T>(fade + lane);
        if (_mm512_cmp_ps_mask(__m512(by), _mm512_set1_ps(1.f), _CMP_NEQ_UQ) == 0) continue;
        for (long d = 0; d < padded; ++d) {
            T* sums = state.sums + d * width + lane;
            store<T>(sums, load<T>(sums) * by);
        }
    }
}

template <class T>
void attend_by_tiles(const Call& call, ForwardState<T>& state, ForwardRoom<T>& room, Range keys, bool finite) {
    const Problem& problem = *call.problem;
    const Panel<T>& panel = *state.panel;
    Scores<T> scores{call, problem, *state.panel, cut_and_fill(call, *state.panel, keys, room.tile), room.scores, room.tile, room.upcoming,
                     {}};
    if (scores.cut.keys.empty()) return;
    const Sizes& sizes = problem.sizes;
    const long skipped = scores.cut.keys.begin - keys.begin, width = panel.width, padded = round_up(sizes.value_dim, tile_side);
    find_seen(scores);
    fill_by_tiles(scores, room.key_words, skipped, state.queries, sizes.dim, scores.values);
    const T factor = scale_or_leave(scores);
    apply<T>(scores, nullptr);
    weigh(scores, state, room.fade, factor);
    if (problem.dropout > 0) {
        fill_kept(scores, room.kept);
        drop(scores, scores.values, room.kept);
    }
    const bool begun = state.begun;
    if (begun) fade_sums(state, room.fade, padded);
    state.begun = true;
    // Pairs and tiles of keys hold those beside the cut too.
    const bool whole = !scores.partial() && scores.keys() == keys.end - keys.begin;
    if (!finite && !whole) {
        for (long i = 0; !begun && i < padded * width; ++i) state.sums[i] = T(0);
        return collect_carefully(scores, state, room.words + skipped * words_of(sizes.value_dim), sizes.value_dim);
    }
    const long lead = skipped % (2 * tile_side);  // pairs and tiles of keys begin where those of the values do
    pair_keys(scores.values, scores.keys(), width, lead, room.pairs);
    tile_product(padded, panel.vectors,
                 {room.value_words + (skipped - lead) / 2, key_block / 2, room.pairs, width, state.sums, width,
                  words_of(lead + scores.keys()), nullptr, &scores.upcoming}, begun ? Old::added : Old::none);
}

// One block of keys for all panels of a head.
template <class T>
void attend_block_by_tiles(const Call& call, ForwardRoom<T>& room, const Span& span, long kv_head, Range keys, int panels) {
    const Sizes& sizes = call.problem->sizes;
    const long count = keys.end - keys.begin, padded = round_up(sizes.value_dim, tile_side);
    const Block<bfloat16> key_rows = block_of<bfloat16>(call, call.key, span, kv_head, keys.begin);
    const Block<bfloat16> value_rows = block_of<bfloat16>(call, call.value, span, kv_head, keys.begin);
    copy_words([&](long i) { return key_rows.rows + i * key_rows.stride; }, count, sizes.dim, room.key_words);
    const bool finite = copy_words([&](long i) { return value_rows.rows + i * value_rows.stride; }, count, sizes.value_dim, room.words);
    pair_rows(room.words, count, words_of(sizes.value_dim), padded, words_of(count), room.pairs);
    turn(room.pairs, padded, words_of(count), padded, room.value_words, key_block / 2);
    for (int p = 0; p < panels; ++p) attend_by_tiles(call, room.states[p], room, keys, finite);
}

// The sums as rows of lanes, as they are written.
template <class T>
void turn_sums(const Call& call, ForwardState<T>& state, ForwardRoom<T>& room) {
    const long padded = round_up(call.problem->sizes.value_dim, tile_side);
    if (state.begun) turn(state.sums, state.panel->width, padded, state.panel->width, room.turned, padded);
    state.sums = room.turned;
}
#endif

}  // namespace regard::REGARD_ISA
