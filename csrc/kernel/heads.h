// Few queries against many keys: memory sets the pace, so all heads of a key are read together, in memory's order.
#pragma once

#include "softmax.h"

namespace regard::REGARD_ISA {

// One score: a key of one of a unit's heads and a lane.
template <class T, class S>
struct Pair {
    const S* key;
    const T* query;
    T* score;
};

// Dot products of up to W pairs, of which none is left.
template <class T, class S>
void score_pairs(Pair<T, S>* pairs, int& count, long depth) {
    constexpr int W = lanes<T>;
    for (int i = count; i < W; ++i) pairs[i] = pairs[count - 1];
    Vector<T> sums[W];
    // Pair by pair: the machine's prefetching wants lines in their order.
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
        Vector<T> sum{};
        long d = 0;
        for (; d + W <= depth; d += W) sum += load<T>(pairs[i].key + d) * load<T>(pairs[i].query + d);
        if (d < depth) sum += load_first<T>(pairs[i].key + d, depth - d) * load<T>(pairs[i].query + d);
        sums[i] = sum;
    }
    transpose_block<T>(sums);
    Vector<T> total = sums[0];
#pragma GCC unroll 16
    for (int i = 1; i < W; ++i) total += sums[i];
    for (int i = 0; i < W; ++i) *pairs[i].score = total[i];
    count = 0;
}

// The same, out of line: numbers that are widened take many instructions, and time goes elsewhere.
template <class T, class S>
__attribute__((noinline)) void score_narrow_pairs(Pair<T, S>* pairs, int& count, long depth) {
    score_pairs(pairs, count, depth);
}

// A head's rows of keys or values, and the scores that belong to them, key after key.
template <class T, class S>
struct Stream {
    const S* row;
    long stride;
    T* scores;
    long width;
    const Range* keys;
    int count;  // of lanes
    long ahead;  // whole rows, some kilobytes in all

    // The machine's own prefetching stops at the end of every page.
    REGARD_INLINE void ask(long size) const {
        for (long d = 0; d < size; d += 64 / long(sizeof(S))) __builtin_prefetch(row + ahead + d, 0, 2);
    }
};

template <class T, class S>
void open_streams(const Call& call, ForwardRoom<T>& room, const Rows& from, const Span& span, Range keys, int heads,
                  Stream<T, S>* streams) {
    for (int p = 0; p < heads; ++p) {
        ForwardState<T>& state = room.states[p];
        const Block<S> rows = block_of<S>(call, from, span, state.kv_head, keys.begin);
        const long width = state.panel->width, rows_ahead = 8192 / largest(1L, rows.stride * long(sizeof(S))) + 1;
        T* scores = state.scores + (keys.begin - state.cut.keys.begin) * width;
        streams[p] = {rows.rows, rows.stride, scores, width, &state.cut.keys, state.panel->count, rows_ahead * rows.stride};
    }
}

// Scores of few queries of several heads, key by key for all heads, so that memory is read in its order.
template <class T, class S>
void fill_heads(const Call& call, ForwardRoom<T>& room, const Span& span, Range keys, int heads) {
    const long depth = call.problem->sizes.dim, padded = round_up(depth, lanes<T>);
    Stream<T, S> streams[most_heads];
    open_streams(call, room, call.key, span, keys, heads, streams);
    Pair<T, S> pairs[lanes<T>];
    int count = 0;
    const auto score = [&] {
        if constexpr (sizeof(S) == sizeof(T)) score_pairs(pairs, count, depth);
        else score_narrow_pairs(pairs, count, depth);
    };
    for (long key = keys.begin; key < keys.end; ++key)
        for (int p = 0; p < heads; ++p) {
            Stream<T, S>& stream = streams[p];
            if (key >= stream.keys->begin && key < stream.keys->end) {
                // Lanes without a query hold numbers too.
                store<T>(stream.scores, Vector<T>{});
                for (int lane = 0; lane < stream.count; ++lane) {
                    pairs[count++] = {stream.row, room.states[p].queries + lane * padded, stream.scores + lane};
                    if (count == lanes<T>) score();
                }
            }
            stream.ask(depth);
            stream.row += stream.stride;
            stream.scores += stream.width;
        }
    if (count) score();
}

// sums += weights^T values, key by key for all heads.
template <class T, class S>
void collect_heads(const Call& call, ForwardRoom<T>& room, const Span& span, Range keys, int heads) {
    const long size = call.problem->sizes.value_dim, padded = round_up(size, lanes<T>);
    Stream<T, S> streams[most_heads];
    open_streams(call, room, call.value, span, keys, heads, streams);
    for (long key = keys.begin; key < keys.end; ++key)
        for (int p = 0; p < heads; ++p) {
            Stream<T, S>& stream = streams[p];
            if (key >= stream.keys->begin && key < stream.keys->end)
                for (int lane = 0; lane < stream.count; ++lane) {
                    const T weight = stream.scores[lane];
                    // A masked pair has weight 0, and its value may be NaN.
                    if (weight == T(0)) continue;
                    T* sums = room.states[p].sums + lane * padded;
                    long d = 0;
                    for (; d + lanes<T> <= size; d += lanes<T>) store<T>(sums + d, load<T>(sums + d) + load<T>(stream.row + d) * weight);
                    if (d < size) store<T>(sums + d, load<T>(sums + d) + load_first<T>(stream.row + d, size - d) * weight);
                }
            stream.ask(size);
            stream.row += stream.stride;
            stream.scores += stream.width;
        }
}

template <class T>
void attend_heads(const Call& call, ForwardRoom<T>& room, const Span& span, Range keys, int heads) {
    const Problem& problem = *call.problem;
    const long padded = round_up(problem.sizes.value_dim, lanes<T>);
    for (int p = 0; p < heads; ++p) room.states[p].cut = cut_and_fill(call, *room.states[p].panel, keys, room.states[p].tile);
    as_stored<T>(call.key, [&]<class S>(const S*) { fill_heads<T, S>(call, room, span, keys, heads); });
    for (int p = 0; p < heads; ++p) {
        ForwardState<T>& state = room.states[p];
        if (state.cut.keys.empty()) continue;
        Scores<T> scores{call, problem, *state.panel, state.cut, state.scores, state.tile, room.upcoming, {}};
        find_seen(scores);
        apply<T>(scores, nullptr);
        weigh(scores, state, room.fade);
        if (problem.dropout > 0) {
            fill_kept(scores, room.kept);
            drop(scores, scores.values, room.kept);
        }
        for (int lane = 0; lane < state.panel->count; ++lane)
            for (long d = 0; d < padded; ++d) {
                T& sum = state.sums[lane * padded + d];
                sum = state.begun ? sum * room.fade[lane] : T(0);
            }
        state.begun = true;
    }
    as_stored<T>(call.value, [&]<class S>(const S*) { collect_heads<T, S>(call, room, span, keys, heads); });
}

}  // namespace regard::REGARD_ISA
