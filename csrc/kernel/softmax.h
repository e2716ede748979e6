// The running softmax of one panel over blocks of keys (Dao et al. 2022), transposed.
//
// Scores are held as (keys, lanes): queries stand in lanes, so that maxima, sums, positions and random numbers of a row need
// no work across lanes, and keys and values are read where they lie.
#pragma once

#include "room.h"

namespace regard::REGARD_ISA {

// The panel's queries as the kernel multiplies them; `room`: for their rows.
template <class T>
void load_queries(const Call& call, ForwardState<T>& state, T* room) {
    const Panel<T>& panel = *state.panel;
    const long size = call.problem->sizes.dim, padded = round_up(size, lanes<T>);
    const T factor = T(score_factor(*call.problem));
    const T* rows[Panel<T>::most];
    for (int i = 0; i < panel.count; ++i)
        rows[i] = row_in<T>(call.query, panel.span->q_begin + panel.row[i], panel.head[i], size, room + i * padded);
    if (state.few) {
        for (int i = 0; i < panel.count; ++i)
            for (long d = 0; d < padded; d += lanes<T>)
                store<T>(state.queries + i * padded + d, load_first<T>(rows[i] + d, size - d) * factor);
    } else {
        transpose_rows<T>(rows, panel.count, size, factor, state.queries, panel.width, nullptr, 0);
    }
}

template <class T>
void begin_panel(const Call& call, ForwardState<T>& state, const Span& span, long kv_head, long lane, long lane_end) {
    Panel<T>& panel = *state.panel;
    set_up(*call.problem, panel, span, kv_head, lane, lane_end);
    state.kv_head = kv_head;
    state.few = panel.count <= few_lanes<T>;
    state.begun = false;
    for (long i = 0; i < panel.width; ++i) state.top[i] = -infinity<T>, state.mass[i] = T(0);
}

// Scores become weights exp(factor * score - top); `fade` is what earlier weights are multiplied by. The factor is above 0.
template <class T>
void weigh(const Scores<T>& scores, ForwardState<T>& state, T* fade, T factor = T(1)) {
    const Panel<T>& panel = scores.panel;
    for (int v = 0; v < panel.vectors; ++v) {
        const long shift = v * lanes<T>, width = panel.width;
        T* values = scores.values + shift;
        const Range seen = scores.seen[v];
        const Vector<T> old = load<T>(state.top + shift);
        const Vector<T> none = all<T>(-infinity<T>);
        Vector<T> tops[4] = {none, none, none, none};
        long key = seen.begin;
        for (; key + 4 <= seen.end; key += 4)
            for (int i = 0; i < 4; ++i) tops[i] = larger<T>(load<T>(values + (key + i) * width), tops[i]);
        for (; key < seen.end; ++key) tops[0] = larger<T>(load<T>(values + key * width), tops[0]);
        const Vector<T> top = larger<T>(larger<T>(larger<T>(tops[0], tops[1]), larger<T>(tops[2], tops[3])) * factor, old);
        // A lane that has seen nothing has no largest score; any finite number stands in for it.
        const Vector<T> base = top == -infinity<T> ? Vector<T>{} : top;
        const Vector<T> faded = exponential<T>(old - base);
        Vector<T> sums[2] = {};
        for (key = seen.begin; key + 2 <= seen.end; key += 2)
            for (int i = 0; i < 2; ++i) {
                const Vector<T> weight = exponential<T>(load<T>(values + (key + i) * width) * factor - base);
                sums[i] += weight;
                store<T>(values + (key + i) * width, weight);
            }
        for (; key < seen.end; ++key) {
            const Vector<T> weight = exponential<T>(load<T>(values + key * width) * factor - base);
            sums[0] += weight;
            store<T>(values + key * width, weight);
        }
        store<T>(state.mass + shift, load<T>(state.mass + shift) * faded + (sums[0] + sums[1]));
        store<T>(state.top + shift, top);
        store<T>(fade + shift, faded);
    }
    clear_unseen(scores, scores.values);
}

template <class T>
void drop(const Scores<T>& scores, T* values, const T* kept) {
    for (long i = 0; i < scores.keys() * scores.panel.width; i += lanes<T>)
        store<T>(values + i, load<T>(values + i) * load<T>(kept + i));
}

// sums = fade * sums + weights^T values. `broken`: the values hold NaN or infinities, which masked pairs must not meet.
template <class T>
void collect(const Scores<T>& scores, ForwardState<T>& state, const T* fade, Block<T> values, long size, bool broken) {
    const Panel<T>& panel = scores.panel;
    const int vectors = int((size + lanes<T> - 1) / lanes<T>);
    const long padded = vectors * lanes<T>;
    const Old old = state.begun ? Old::scaled : Old::none;
    if (broken && scores.partial()) {
        for (int lane = 0; lane < panel.count; ++lane) {
            T* sums = state.sums + lane * padded;
            for (long d = 0; d < padded; ++d) sums[d] = state.begun ? sums[d] * fade[lane] : T(0);
            for (long key = 0; key < scores.keys(); ++key) {
                const T weight = scores.values[key * panel.width + lane];
                if (weight == T(0)) continue;
                for (long d = 0; d < size; ++d) sums[d] += weight * values.rows[key * values.stride + d];
            }
        }
    } else if (!scores.cut.intervals) {
        wide_product<T, Unit::row>(panel.count, vectors,
                                   {scores.values, panel.width, values.rows, values.stride, state.sums, padded, scores.keys(), fade,
                                    &scores.upcoming}, old);
    } else {
        for (int lane = 0; lane < panel.count; lane += 6) {
            const int last = smallest(lane + 6, panel.count);
            const Range seen = seen_by_lanes(scores, lane, last);
            wide_product<T, Unit::row>(last - lane, vectors,
                                       {scores.values + seen.begin * panel.width + lane, panel.width,
                                        values.rows + seen.begin * values.stride, values.stride, state.sums + lane * padded, padded,
                                        seen.end - seen.begin, fade + lane, &scores.upcoming},
                                       old);
        }
    }
    state.begun = true;
}

template <class T>
void attend(const Call& call, ForwardState<T>& state, ForwardRoom<T>& room, Range keys, Block<T> key_rows, Block<T> value_rows,
            bool finite) {
    const Problem& problem = *call.problem;
    const Cut cut = cut_and_fill(call, *state.panel, keys, room.tile);
    Scores<T> scores{call, problem, *state.panel, cut, room.scores, room.tile, room.upcoming, {}};
    if (scores.cut.keys.empty()) return;
    const long skipped = scores.cut.keys.begin - keys.begin;
    key_rows.rows += skipped * key_rows.stride;
    value_rows.rows += skipped * value_rows.stride;
    find_seen(scores);
    const Sizes& sizes = problem.sizes;
    if (state.few)
        fill_few(scores, key_rows.rows, key_rows.stride, state.queries, round_up(sizes.dim, lanes<T>), sizes.dim, {0, scores.keys()});
    else fill(scores, key_rows.rows, key_rows.stride, state.queries, sizes.dim, scores.values);
    apply<T>(scores, nullptr);
    weigh(scores, state, room.fade);
    if (problem.dropout > 0) {
        fill_kept(scores, room.kept);
        drop(scores, scores.values, room.kept);
    }
    const bool known = finite || !scores.partial();
    const bool broken = !known && !all_finite<T>(value_rows.rows, value_rows.stride, scores.keys(), sizes.value_dim);
    collect(scores, state, room.fade, value_rows, problem.sizes.value_dim, broken);
}

// 1 / mass, with the sinks in the mass and 0 where there is none, and the lse.
template <class T>
void settle(const Call& call, const Panel<T>& panel, const T* top, const T* mass, T* share, T* lse) {
    for (int v = 0; v < panel.vectors; ++v) {
        const long shift = v * lanes<T>;
        const Vector<T> m = load<T>(mass + shift), t = load<T>(top + shift);
        store<T>(share + shift, m == T(0) ? Vector<T>{} : T(1) / m);
        store<T>(lse + shift, t + logarithm<T>(m));
    }
    if (!call.sinks) return;
    for (int i = 0; i < panel.count; ++i) {
        if (mass[i] == T(0)) continue;
        const T sink = static_cast<const T*>(call.sinks)[panel.head[i]], high = largest(sink, top[i]);
        const Vector<T> part = exponential<T>(Vector<T>{top[i] - high, sink - high});
        share[i] = sink == infinity<T> ? T(0) : part[0] / (mass[i] * part[0] + part[1]);
    }
}

template <class T>
void write(const Call& call, const Panel<T>& panel, T* sums, const T* share, const T* lse, bool begun) {
    const Sizes& sizes = call.problem->sizes;
    const long padded = round_up(sizes.value_dim, lanes<T>);
    for (int i = 0; i < panel.count; ++i) {
        const long row = panel.span->q_begin + panel.row[i];
        T *from = sums + i * padded, *out = row_out<T>(call.out, row, panel.head[i], from);
        static_cast<T*>(call.lse)[row * sizes.heads + panel.head[i]] = lse[i];
        // A weight of 0 for all keys must not meet an infinite value.
        const bool nothing = !begun || lse[i] == -infinity<T>;
        long d = 0;
        for (; d + lanes<T> <= sizes.value_dim; d += lanes<T>) store<T>(out + d, nothing ? Vector<T>{} : load<T>(from + d) * share[i]);
        for (; d < sizes.value_dim; ++d) out[d] = nothing ? T(0) : from[d] * share[i];
        if (is_narrow(call.out)) round_row<T>(call.out, row, panel.head[i], out, sizes.value_dim);
    }
}

}  // namespace regard::REGARD_ISA
