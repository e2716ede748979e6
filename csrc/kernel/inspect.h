// What a look at the weights gives: chosen rows, the largest of each query, sums over each key; all from the lse.
#pragma once

#include "backward.h"

namespace regard::REGARD_ISA {

// Puts a weight into a list of falling weights; of equal ones the first stays before.
template <class T>
void place_in(T weight, long key, long length, T* weights, int64_t* keys) {
    if (!(weight > weights[length - 1]) && keys[length - 1] >= 0) return;
    long at = length - 1;
    for (; at > 0 && (keys[at - 1] < 0 || weight > weights[at - 1]); --at) weights[at] = weights[at - 1], keys[at] = keys[at - 1];
    weights[at] = weight, keys[at] = key;
}

// Stands for the weight of a pair that is masked: a weight may be 0 by rounding.
template <class T>
constexpr T masked = T(-1);

template <class T>
void weigh_and_mark(const Scores<T>& scores, const T* base, const T* share) {
    const long width = scores.panel.width;
    for (int v = 0; v < scores.panel.vectors; ++v)
        for (long key = 0; key < scores.keys(); ++key) {
            T* values = scores.values + key * width + v * lanes<T>;
            const bool seen = key >= scores.seen[v].begin && key < scores.seen[v].end;
            const Vector<T> score = seen ? load<T>(values) : all<T>(-infinity<T>);
            const Vector<T> weight = exponential<T>(score - load<T>(base + v * lanes<T>)) * load<T>(share + v * lanes<T>);
            store<T>(values, score == -infinity<T> ? all<T>(masked<T>) : weight);
        }
}

template <class T>
void inspect_panel(const Call& call, const Inspection& wanted, const Scores<T>& scores) {
    const Panel<T>& panel = scores.panel;
    const Span& span = *panel.span;
    const long heads = call.problem->sizes.heads;
    for (int lane = 0; lane < panel.count; ++lane) {
        const long row = span.q_begin + panel.row[lane], place = row * heads + panel.head[lane];
        for (long key = 0; key < scores.keys(); ++key) {
            const T weight = scores.values[key * panel.width + lane];
            const long number = span.key_first + (scores.cut.keys.begin + key) * call.problem->step;
            if (weight == masked<T>) continue;
            if (wanted.top)
                place_in(weight, number, wanted.top, static_cast<T*>(wanted.top_weights) + place * wanted.top,
                         wanted.top_keys + place * wanted.top);
            if (wanted.key_sums) static_cast<T*>(wanted.key_sums)[(span.k_begin + number) * heads + panel.head[lane]] += weight;
        }
        for (long i = 0; i < wanted.row_count; ++i) {
            if (wanted.rows[i] != row) continue;
            T* to = static_cast<T*>(wanted.weights) + (i * heads + panel.head[lane]) * wanted.width;
            for (long key = 0; key < scores.keys(); ++key) {
                const T weight = scores.values[key * panel.width + lane];
                if (weight != masked<T>) to[span.key_first + (scores.cut.keys.begin + key) * call.problem->step] = weight;
            }
        }
    }
}

template <class T>
bool is_wanted(const Inspection& wanted, const Panel<T>& panel) {
    if (wanted.top || wanted.key_sums) return true;
    for (int lane = 0; lane < panel.count; ++lane)
        for (long i = 0; i < wanted.row_count; ++i)
            if (wanted.rows[i] == panel.span->q_begin + panel.row[lane]) return true;
    return false;
}

template <class T>
void inspect_unit(const Call& call, const Inspection& wanted, const BackwardUnit& unit, void* scratch) {
    const Problem& problem = *call.problem;
    const Group& group = problem.groups[unit.group];
    Room pieces(scratch);
    const BackwardRoom<T> room(call, pieces);
    bool finite;
    const OwnedKeys<T> own = own_keys(call, unit, room, false, &finite);
    for (long i = group.begin; i < group.end; ++i) {
        const Span& span = problem.spans[problem.span_order[i]];
        const Range keys{own.range.begin, smallest(own.range.end, span.keys)};
        if (keys.empty()) continue;
        for (long lane = 0; lane < problem.lanes_of(span); lane += panel_lanes<T>) {
            Panel<T>& panel = *room.panel;
            set_up(problem, panel, span, unit.kv_head, lane, smallest(lane + panel_lanes<T>, problem.lanes_of(span)));
            if (!is_wanted(wanted, panel)) continue;
            Scores<T> scores{call, problem, panel, cut_and_fill(call, panel, keys, room.tile), room.weights, room.tile, room.upcoming, {}};
            if (scores.cut.keys.empty()) continue;
            const T* rows[Panel<T>::most];
            for (int i = 0; i < panel.count; ++i)
                rows[i] = row_in<T>(call.query, span.q_begin + panel.row[i], panel.head[i], own.dim, room.query_rows + i * own.padded_dim);
            transpose_rows<T>(rows, panel.count, own.dim, T(score_factor(problem)), room.queries, panel.width, nullptr, 0);
            load_base(call, panel, room.base, room.share);
            find_seen(scores);
            const long first = scores.cut.keys.begin - own.range.begin;
            fill(scores, own.keys.rows + first * own.keys.stride, own.keys.stride, room.queries, own.dim, room.weights);
            apply<T>(scores, nullptr);
            weigh_and_mark(scores, room.base, room.share);
            inspect_panel(call, wanted, scores);
        }
    }
}

}  // namespace regard::REGARD_ISA
