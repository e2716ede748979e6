// The backward pass: weights recomputed from the lse, one block of keys after the other.
//
// A unit owns a block of keys and sums their gradients; the gradients of queries that several blocks reach are added in the
// order of the blocks: each panel of queries counts whose turn it is. Units are started in that order, so the one that is
// waited for always runs.
#pragma once

#include <sched.h>

#include "tiled_backward.h"

namespace regard::REGARD_ISA {

// Products over allowed pairs alone: arrays hold NaN or infinities, and some pairs are masked.
template <class T>
void add_carefully(const Scores<T>& scores, const BackwardRoom<T>& room, const T* weights, const OwnedKeys<T>& own) {
    const long first = scores.cut.keys.begin - own.range.begin;
    for (int lane = 0; lane < scores.panel.count; ++lane) {
        T* query_grads = room.query_grads + lane * own.padded_dim;
        for (long d = 0; d < own.padded_dim; ++d) query_grads[d] = T(0);
        for (long key = 0; key < scores.keys(); ++key) {
            const T weight = weights[key * scores.panel.width + lane], flow = room.flow[key * scores.panel.width + lane];
            const long own_key = first + key;
            if (weight != T(0))
                for (long d = 0; d < own.value_dim; ++d)
                    own.value_grads[own_key * own.padded_value + d] += weight * room.out_grad_rows[lane * own.padded_value + d];
            if (flow == T(0)) continue;
            for (long d = 0; d < own.dim; ++d) {
                own.key_grads[own_key * own.padded_dim + d] += flow * room.query_rows[lane * own.padded_dim + d];
                query_grads[d] += flow * own.keys.rows[own_key * own.keys.stride + d];
            }
        }
    }
}

template <class T>
void add_products(const Scores<T>& scores, const BackwardRoom<T>& room, const T* weights, const OwnedKeys<T>& own) {
    const Panel<T>& panel = scores.panel;
    const long first = scores.cut.keys.begin - own.range.begin, width = panel.width;
    const int dim_vectors = int(own.padded_dim / lanes<T>), value_vectors = int(own.padded_value / lanes<T>);
    Segment segments[2 * most_vectors + 1];
    const int count = segments_of(scores, segments);
    for (int s = 0; s < count; ++s) {
        const Segment& segment = segments[s];
        const long lane = segment.first * lanes<T>, depth = smallest<long>(panel.count, segment.last * lanes<T>) - lane;
        const long rows = segment.keys.end - segment.keys.begin, from = segment.keys.begin * width + lane, to = first + segment.keys.begin;
        wide_product<T, Unit::column>(rows, value_vectors,
                                      {weights + from, width, room.out_grad_rows + lane * own.padded_value, own.padded_value,
                                       own.value_grads + to * own.padded_value, own.padded_value, depth, nullptr, &room.upcoming},
                                      Old::added);
        wide_product<T, Unit::column>(rows, dim_vectors,
                                      {room.flow + from, width, room.query_rows + lane * own.padded_dim, own.padded_dim,
                                       own.key_grads + to * own.padded_dim, own.padded_dim, depth, nullptr, &room.upcoming},
                                      Old::added);
    }
    const int height = scores.cut.intervals ? 6 : panel.count;
    for (int lane = 0; lane < panel.count; lane += height) {
        const int last = smallest(lane + height, panel.count);
        const Range seen = seen_by_lanes(scores, lane, last);
        wide_product<T, Unit::row>(last - lane, dim_vectors,
                                   {room.flow + seen.begin * width + lane, width, own.keys.rows + (first + seen.begin) * own.keys.stride,
                                    own.keys.stride, room.query_grads + lane * own.padded_dim, own.padded_dim, seen.end - seen.begin,
                                    nullptr, &room.upcoming},
                                   Old::none);
    }
}

// With sinks in the denominator the output is a share of what it would be, and so is what reaches it.
template <class T>
void take_share(const BackwardRoom<T>& room, const OwnedKeys<T>& own) {
    const Panel<T>& panel = *room.panel;
    for (long d = 0; d < own.value_dim; ++d)
        for (long lane = 0; lane < panel.width; lane += lanes<T>) {
            T* place = room.out_grads + d * panel.width + lane;
            store<T>(place, load<T>(place) * load<T>(room.share + lane));
        }
    for (long lane = 0; lane < panel.count; ++lane)
        for (long d = 0; d < own.padded_value; ++d) room.out_grad_rows[lane * own.padded_value + d] *= room.share[lane];
}

// Reads the panel's queries and gradients; returns whether all of them are finite.
template <class T>
bool load_panel(const Call& call, const Gradients& gradients, const BackwardRoom<T>& room, const OwnedKeys<T>& own) {
    const Panel<T>& panel = *room.panel;
    const T *rows[Panel<T>::most], *out_rows[Panel<T>::most];
    for (int i = 0; i < panel.count; ++i) {
        const long row = panel.span->q_begin + panel.row[i];
        // A query that sees nothing must not hand on what its row holds.
        const bool blind = room.base[i] == infinity<T>;
        rows[i] = blind ? room.zeros : row_in<T>(call.query, row, panel.head[i], own.dim, room.query_rows + i * own.padded_dim);
        T* wide = room.out_grad_rows + i * own.padded_value;
        out_rows[i] = blind ? room.zeros : row_in<T>(gradients.out, row, panel.head[i], own.value_dim, wide);
    }
    const T factor = T(score_factor(*call.problem));
    const bool finite = transpose_rows<T>(rows, panel.count, own.dim, factor, room.queries, panel.width, room.query_rows, own.padded_dim);
    const bool out_finite = transpose_rows<T>(out_rows, panel.count, own.value_dim, T(1), room.out_grads, panel.width, room.out_grad_rows,
                                              own.padded_value);
    if (call.sinks) take_share(room, own);
    return finite && out_finite;
}

// Writes or adds the panel's rows of the gradient of the queries; zeros where `found` is false. Narrow ones are summed elsewhere and
// rounded once, by the last block.
template <class T>
void put_query_grads(const Call& call, const Gradients& gradients, const BackwardRoom<T>& room, const OwnedKeys<T>& own, bool first,
                     bool last, bool found) {
    const Panel<T>& panel = *room.panel;
    if (!first && !found && !(last && is_narrow(gradients.query))) return;
    for (int i = 0; i < panel.count; ++i) {
        const long row = panel.span->q_begin + panel.row[i], head = panel.head[i];
        T *from = room.query_grads + i * own.padded_dim, *sums = static_cast<T*>(gradients.query_sums);
        T* to = row_out<T>(gradients.query, row, head, first && last ? from : sums + lse_place(call, row, head) * own.dim);
        long d = 0;
        for (; d + lanes<T> <= own.dim; d += lanes<T>) {
            const Vector<T> part = found ? load<T>(from + d) : Vector<T>{};
            store<T>(to + d, first ? part : load<T>(to + d) + part);
        }
        for (; d < own.dim; ++d) to[d] = (first ? T(0) : to[d]) + (found ? from[d] : T(0));
        if (last && is_narrow(gradients.query)) round_row<T>(gradients.query, row, head, to, own.dim);
    }
}

inline void wait_for(const int32_t* turn, int32_t number) {
    for (int tries = 0; __atomic_load_n(turn, __ATOMIC_ACQUIRE) != number; ++tries) {
        // With more threads than cores the one that is waited for needs this one's.
        if (tries > 1000) sched_yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }
}

template <class T>
bool copy_keys(const Call& call, const Span& span, long kv_head, const BackwardRoom<T>& room, const OwnedKeys<T>& own) {
    const bool finite = copy_block<T>(call, call.key, span, kv_head, own.range, own.dim, room.keys);
    return copy_block<T>(call, call.value, span, kv_head, own.range, own.value_dim, room.values) && finite;
}

// How the scores of a panel were filled: whether by tiles, what they are still to be multiplied by, and whether queries, keys, values
// and gradients are finite.
template <class T>
struct Filled {
    bool tiled;
    T factor;
    bool finite;
};

// Scores and the gradients of weights.
template <class T>
Filled<T> fill_both(const Call& call, const Gradients& gradients, const Scores<T>& scores, const BackwardRoom<T>& room,
                    const OwnedKeys<T>& own, long kv_head, bool keys_finite) {
    const long first = scores.cut.keys.begin - own.range.begin;
    if constexpr (has_tiles<T>) {
        if (own.tiled && load_panel_words(call, gradients, room, own)) {
            fill_by_tiles(scores, room.key_words, first, room.query_words, own.dim, room.weights);
            fill_by_tiles(scores, room.value_words, first, room.out_grad_words, own.value_dim, room.flow);
            return {true, scale_or_leave(scores), true};
        }
    }
    if (own.tiled) copy_keys(call, *scores.panel.span, kv_head, room, own);
    const bool finite = load_panel(call, gradients, room, own) && keys_finite;
    fill(scores, own.keys.rows + first * own.keys.stride, own.keys.stride, room.queries, own.dim, room.weights);
    fill(scores, own.values.rows + first * own.values.stride, own.values.stride, room.out_grads, own.value_dim, room.flow);
    return {false, T(1), finite};
}

template <class T>
bool add_panel(const Call& call, const Gradients& gradients, const BackwardRoom<T>& room, const OwnedKeys<T>& own, long kv_head,
               bool keys_finite, bool delta_known) {
    const Problem& problem = *call.problem;
    Panel<T>& panel = *room.panel;
    const Range keys{own.range.begin, smallest(own.range.end, panel.span->keys)};
    Scores<T> scores{call, problem, panel, cut_and_fill(call, panel, keys, room.tile), room.weights, room.tile, room.upcoming, {}};
    if (scores.cut.keys.empty()) {
        for (int i = 0; !delta_known && i < panel.count; ++i) static_cast<T*>(gradients.delta)[lane_place(call, panel, i)] = T(0);
        return false;
    }
    load_base(call, panel, room.base, room.share);
    find_seen(scores);
    const Filled<T> filled = fill_both(call, gradients, scores, room, own, kv_head, keys_finite);
    const bool capped = problem.softcap > 0, dropping = problem.dropout > 0;
    apply<T>(scores, capped ? room.slope : nullptr);
    weigh_again(scores, room.base, filled.factor);
    const T* weights = room.weights;
    if (dropping) {
        fill_kept(scores, room.kept);
        for (long i = 0; i < scores.keys() * panel.width; i += lanes<T>)
            store<T>(room.dropped + i, load<T>(room.weights + i) * load<T>(room.kept + i));
        weights = room.dropped;
    }
    if (!delta_known) find_delta(call, gradients, scores, weights, room.flow);
    load_delta(call, gradients, panel, room.base, room.share, room.delta);
    const bool bias = gradients.bias.values || gradients.distances.values;
    const T factor = T(problem.scale);
    turn_into_flow(scores, dropping ? room.kept : nullptr, room.delta, bias || capped ? T(1) : factor, room.flow);
    if (bias) add_to_bias(call, gradients, scores, room.flow);
    if (bias || capped) bend(scores, capped ? room.slope : nullptr, factor, room.flow);
    if constexpr (has_tiles<T>) {
        if (filled.tiled) return add_by_tiles(scores, room, weights, own), true;
    }
    if (!filled.finite && scores.partial()) add_carefully(scores, room, weights, own);
    else add_products(scores, room, weights, own);
    return true;
}

template <class T>
void expect_panel(const Call& call, const Gradients& gradients, Upcoming& upcoming, const Span& span, long head, long first, long rows) {
    const Sizes& sizes = call.problem->sizes;
    expect_queries<T>(call, upcoming, call.query, span, head, first, rows, sizes.dim);
    expect_queries<T>(call, upcoming, gradients.out, span, head, first, rows, sizes.value_dim);
    expect_queries<T>(call, upcoming, gradients.query, span, head, first, rows, sizes.dim, true);
}

template <class T>
void expect_unit(const Call& call, const Gradients& gradients, Upcoming& upcoming, const BackwardUnit& unit) {
    const Problem& problem = *call.problem;
    const Group& group = problem.groups[unit.group];
    const Span& span = problem.spans[problem.span_order[group.begin]];
    const long first = unit.block * backward_block, keys = smallest(backward_block, group.keys - first);
    const long rows = smallest<long>(panel_lanes<T>, span.rows);
    expect_keys<T>(call, upcoming, span, unit.kv_head, first, keys);
    if (problem.group_size() > 1) return;
    expect_panel<T>(call, gradients, upcoming, span, unit.kv_head, 0, rows);
    for (const Sized& part : {Sized{&gradients.key, problem.sizes.dim}, Sized{&gradients.value, problem.sizes.value_dim}})
        expect_block<T>(call, upcoming, part, span, unit.kv_head, first, keys, true);
}

template <class T>
void backward_span(const Call& call, const Gradients& gradients, const Problem::Backward& work, const BackwardUnit& unit, long number,
                   const BackwardUnit* next, const BackwardRoom<T>& room, const OwnedKeys<T>& own, bool keys_finite) {
    const Problem& problem = *call.problem;
    const Span& span = problem.spans[number];
    const long all = problem.lanes_of(span), vectors = (all + lanes<T> - 1) / lanes<T>;
    const long panels = (vectors + most_vectors - 1) / most_vectors;
    const bool shared = work.turn_begin[number] >= 0;
    long lane = 0;
    for (long p = 0; p < panels; ++p) {
        const long width = (vectors / panels + (p < vectors % panels)) * lanes<T>, last = smallest(lane + width, all);
        Panel<T>& panel = *room.panel;
        set_up(problem, panel, span, unit.kv_head, lane, last);
        room.upcoming.clear();
        if (p + 1 == panels && next) expect_unit<T>(call, gradients, room.upcoming, *next);
        if (p + 1 < panels && problem.group_size() == 1)
            expect_panel<T>(call, gradients, room.upcoming, span, unit.kv_head, last, smallest(width, all - last));
        lane = last;
        const Range hull{panel.hull.begin, smallest(panel.hull.end, span.keys)};
        const long first = hull.empty() ? 0 : hull.begin / backward_block, final = hull.empty() ? 0 : (hull.end - 1) / backward_block;
        if (unit.block < first || unit.block > final) continue;
        const bool found = add_panel(call, gradients, room, own, unit.kv_head, keys_finite, shared);
        int32_t* turn = shared ? gradients.turns + work.turn_begin[number] + unit.kv_head * panels + p : nullptr;
        if (turn) wait_for(turn, int32_t(unit.block - first));
        put_query_grads(call, gradients, room, own, unit.block == first, unit.block == final, found);
        if (turn) __atomic_store_n(turn, int32_t(unit.block - first + 1), __ATOMIC_RELEASE);
    }
}

template <class T>
void put_key_grads(const Problem& problem, const Rows& to, const Span& span, long kv_head, Range keys, const T* from, long size) {
    const long padded = round_up(size, lanes<T>);
    for (long key = keys.begin; key < keys.end; ++key, from += padded) {
        const long row = span.k_begin + span.key_first + key * problem.step;
        if (is_narrow(to)) {
            round_row<T>(to, row, kv_head, from, size);
            continue;
        }
        T* place = row_to<T>(to, row, kv_head);
        long d = 0;
        for (; d + lanes<T> <= size; d += lanes<T>) store<T>(place + d, load<T>(from + d));
        for (; d < size; ++d) place[d] = from[d];
    }
}

// Words of keys and values where they are finite; else, and elsewhere, both are made wide.
template <class T>
OwnedKeys<T> own_keys(const Call& call, const BackwardUnit& unit, const BackwardRoom<T>& room, bool tiled, bool* finite) {
    const Problem& problem = *call.problem;
    const Group& group = problem.groups[unit.group];
    const Sizes& sizes = problem.sizes;
    const long begin = unit.block * backward_block, end = smallest(begin + backward_block, group.keys);
    const Span& span = problem.spans[problem.span_order[group.begin]];
    OwnedKeys<T> own{{begin, end},
                     {room.keys, round_up(sizes.dim, lanes<T>)},
                     {room.values, round_up(sizes.value_dim, lanes<T>)},
                     room.key_grads,
                     room.value_grads,
                     sizes.dim,
                     sizes.value_dim,
                     round_up(sizes.dim, lanes<T>),
                     round_up(sizes.value_dim, lanes<T>),
                     tiled && fills_tiles(group.keys)};
    if constexpr (has_tiles<T>) {
        if (own.tiled) own.tiled = copy_key_words(call, span, unit.kv_head, room, own);
    }
    *finite = own.tiled || copy_keys(call, span, unit.kv_head, room, own);
    return own;
}

template <class T>
void backward_unit(const Call& call, const Gradients& gradients, const Problem::Backward& work, const BackwardUnit& unit,
                   const BackwardUnit* next, void* scratch) {
    const Problem& problem = *call.problem;
    const Group& group = problem.groups[unit.group];
    Room pieces(scratch);
    const BackwardRoom<T> room(call, pieces);
    const bool tiled = room.tiles && gradients.out.stored == Stored::bfloat16;
    const TileShapes shapes(tiled);
    bool finite;
    const OwnedKeys<T> own = own_keys(call, unit, room, tiled, &finite);
    const long count = own.range.end - own.range.begin;
    for (long i = 0; i < largest(own.padded_dim, own.padded_value); i += lanes<T>) store<T>(room.zeros + i, Vector<T>{});
    for (long i = 0; i < count * own.padded_dim; i += lanes<T>) store<T>(own.key_grads + i, Vector<T>{});
    for (long i = 0; i < count * own.padded_value; i += lanes<T>) store<T>(own.value_grads + i, Vector<T>{});
    for (long i = group.begin; i < group.end; ++i) {
        const long number = problem.span_order[i];
        // A span without keys still has queries, whose gradients are 0.
        if (problem.spans[number].keys > own.range.begin || unit.block == 0)
            backward_span(call, gradients, work, unit, number, next, room, own, finite);
    }
    const Span& span = problem.spans[problem.span_order[group.begin]];
    put_key_grads(problem, gradients.key, span, unit.kv_head, own.range, own.key_grads, own.dim);
    put_key_grads(problem, gradients.value, span, unit.kv_head, own.range, own.value_grads, own.value_dim);
}

// Queries and keys outside all spans get no gradient.
template <class T>
void no_gradients(const Call& call, const Gradients& gradients) {
    const Sizes& sizes = call.problem->sizes;
    if (!call.problem->covers_queries) {
        clear_rows<T>(gradients.query, sizes.total_queries, sizes.heads, sizes.dim);
        for (long i = 0; i < sizes.total_queries * sizes.heads; ++i) static_cast<T*>(gradients.delta)[i] = T(0);
    }
    if (call.problem->covers_keys) return;
    clear_rows<T>(gradients.key, sizes.total_keys, sizes.kv_heads, sizes.dim);
    clear_rows<T>(gradients.value, sizes.total_keys, sizes.kv_heads, sizes.value_dim);
}

template <class T>
void sink_gradient(const Call& call, const Gradients& gradients, long head) {
    const T sink = static_cast<const T*>(call.sinks)[head];
    double sum = 0;  // over all queries
    for (long row = 0; row < call.problem->sizes.total_queries; ++row) {
        const long place = lse_place(call, row, head);
        const T lse = static_cast<const T*>(call.lse)[place];
        if (lse == -infinity<T>) continue;
        const T share = sink == infinity<T> ? T(1) : exponential<T>(all<T>(sink - whole_lse(call, lse, head)))[0];
        sum -= double(share) * double(static_cast<const T*>(gradients.delta)[place]);
    }
    static_cast<T*>(gradients.sinks)[head] = T(sum);
}

template <class T>
size_t backward_room(const Call& call) {
    Room room(nullptr);
    BackwardRoom<T> counted(call, room);
    return room.used();
}

}  // namespace regard::REGARD_ISA
