// The forward pass, unit by unit.
#pragma once

#include "heads.h"
#include "tiled_forward.h"

namespace regard::REGARD_ISA {

template <class T>
REGARD_INLINE void expect_queries(const Call& call, Upcoming& upcoming, const Rows& rows, const Span& span, long head, long first,
                                  long count, long size, bool writing = false) {
    const long step = call.problem->step;
    as_stored<T>(rows, [&]<class S>(const S*) {
        upcoming.add(row_of<S>(rows, span.q_begin + span.row_first + first * step, head), rows.row * step, count, size, writing);
    });
}

template <class T>
REGARD_INLINE void expect_block(const Call& call, Upcoming& upcoming, const Sized& part, const Span& span, long kv_head, long first,
                                long count, bool writing = false) {
    as_stored<T>(*part.rows, [&]<class S>(const S*) {
        const Block<S> block = block_of<S>(call, *part.rows, span, kv_head, first);
        upcoming.add(block.rows, block.stride, count, part.size, writing);
    });
}

template <class T>
REGARD_INLINE void expect_keys(const Call& call, Upcoming& upcoming, const Span& span, long kv_head, long first, long count) {
    for (const Sized& part : {Sized{&call.key, call.problem->sizes.dim}, Sized{&call.value, call.problem->sizes.value_dim}})
        expect_block<T>(call, upcoming, part, span, kv_head, first, count);
}

// What a unit reads first: all of it, where it is short.
template <class T>
void expect_unit(const Call& call, Upcoming& upcoming, const ForwardUnit& unit) {
    const Problem& problem = *call.problem;
    const Span& span = problem.spans[unit.span];
    if (problem.group_size() == 1) {
        const long rows = smallest<long>(panel_lanes<T>, unit.lane_end - unit.lane);
        expect_queries<T>(call, upcoming, call.query, span, unit.kv_head, unit.lane, rows, problem.sizes.dim);
        expect_queries<T>(call, upcoming, call.out, span, unit.kv_head, unit.lane, rows, problem.sizes.value_dim, true);
    }
    expect_keys<T>(call, upcoming, span, unit.kv_head, unit.key, smallest(key_block, unit.key_end - unit.key));
}

// Room for one panel's unfinished result: sums, largest scores, masses.
template <class T>
long partial_numbers(const Call& call) {
    return panel_lanes<T> * (round_up(call.problem->sizes.value_dim, lanes<T>) + 2) + lanes<T>;
}

template <class T>
void keep_partial(const Call& call, const ForwardState<T>& state, T* partial) {
    const long padded = round_up(call.problem->sizes.value_dim, lanes<T>);
    for (int i = 0; i < state.panel->count; ++i) {
        partial[i] = state.top[i];
        partial[panel_lanes<T> + i] = state.mass[i];
        T* sums = partial + 2 * panel_lanes<T> + i * padded;
        for (long d = 0; d < padded; ++d) sums[d] = state.begun ? state.sums[i * padded + d] : T(0);
    }
}

// One block of keys for all panels of a head, which share copies where those pay.
template <class T>
void attend_block(const Call& call, ForwardRoom<T>& room, const Span& span, long kv_head, Range keys, int panels) {
    const Sizes& sizes = call.problem->sizes;
    const long padded_key = round_up(sizes.dim, lanes<T>), padded_value = round_up(sizes.value_dim, lanes<T>);
    Block<T> key_rows = block_of<T>(call, call.key, span, kv_head, keys.begin);
    Block<T> value_rows = block_of<T>(call, call.value, span, kv_head, keys.begin);
    bool finite = false;
    if (panels > 2 || is_narrow(call.key)) {
        copy_block<T>(call, call.key, span, kv_head, keys, sizes.dim, room.keys);
        key_rows = {room.keys, padded_key};
    }
    if (panels > 1 || padded_value != sizes.value_dim || is_narrow(call.value)) {
        finite = copy_block<T>(call, call.value, span, kv_head, keys, sizes.value_dim, room.values);
        value_rows = {room.values, padded_value};
    }
    for (int p = 0; p < panels; ++p) attend(call, room.states[p], room, keys, key_rows, value_rows, finite);
}

template <class T>
void read_queries(const Call& call, ForwardState<T>& state, ForwardRoom<T>& room, bool tiled) {
    if constexpr (has_tiles<T>) {
        if (tiled) return load_query_words(call, state, room);
    }
    load_queries(call, state, room.keys);
}

// One block of keys for all heads or panels of a unit.
template <class T>
void attend_unit(const Call& call, ForwardRoom<T>& room, const Span& span, long kv_head, Range keys, int heads, int panels, bool tiled) {
    if (heads > 1) return attend_heads(call, room, span, keys, heads);
    if constexpr (has_tiles<T>) {
        if (tiled) return attend_block_by_tiles(call, room, span, kv_head, keys, panels);
    }
    attend_block(call, room, span, kv_head, keys, panels);
}

template <class T>
void forward_unit(const Call& call, const ForwardUnit& unit, const ForwardUnit* next, void* partials, void* scratch) {
    const Problem& problem = *call.problem;
    const Sizes& sizes = problem.sizes;
    const Span& span = problem.spans[unit.span];
    Room pieces(scratch);
    ForwardRoom<T> room(call, pieces);

    const int vectors = int((unit.lane_end - unit.lane + lanes<T> - 1) / lanes<T>);
    const int panels = (vectors + most_vectors - 1) / most_vectors, heads = int(unit.kv_head_end - unit.kv_head);
    const int count = largest(panels, heads);  // of states: one head has many panels, or many heads have one each
    const bool tiled = room.tiles && heads == 1 && fills_tiles(unit.lane_end - unit.lane) && fills_tiles(span.keys);
    const TileShapes shapes(tiled);
    long lane = unit.lane;
    Range hull{unit.key_end, unit.key};
    for (int p = 0; p < count; ++p) {
        const long width = heads > 1 ? unit.lane_end - unit.lane : (vectors / panels + (p < vectors % panels)) * lanes<T>;
        const long last = smallest(lane + width, unit.lane_end);
        begin_panel(call, room.states[p], span, heads > 1 ? unit.kv_head + p : unit.kv_head, lane, last);
        read_queries(call, room.states[p], room, tiled);
        const Range seen = room.states[p].panel->hull;
        if (!seen.empty()) hull = {smallest(hull.begin, seen.begin), largest(hull.end, seen.end)};
        if (heads == 1) lane = last;
    }
    hull = {largest(hull.begin, unit.key), smallest(hull.end, unit.key_end)};
    for (long key = hull.begin; key < hull.end; key += key_block) {
        room.upcoming.clear();
        const long later = key + key_block;
        if (heads > 1) {
            // The heads' own loops ask for what follows.
        } else if (later < hull.end) {
            expect_keys<T>(call, room.upcoming, span, unit.kv_head, later, smallest(key_block, hull.end - later));
        } else if (next) {
            expect_unit<T>(call, room.upcoming, *next);
        }
        attend_unit(call, room, span, unit.kv_head, {key, smallest(later, hull.end)}, heads, panels, tiled);
    }
    for (int p = 0; p < count; ++p) {
        ForwardState<T>& state = room.states[p];
        if constexpr (has_tiles<T>) {
            if (tiled) turn_sums(call, state, room);
        }
        if (unit.partial >= 0) {
            keep_partial(call, state, static_cast<T*>(partials) + (unit.partial + (heads > 1 ? p : 0)) * partial_numbers<T>(call));
            continue;
        }
        settle(call, *state.panel, state.top, state.mass, room.fade, room.scores);
        write(call, *state.panel, state.sums, room.fade, room.scores, state.begun);
    }
}

template <class T>
void join_partials(const Call& call, const Join& join, void* partials, void* scratch) {
    Room pieces(scratch);
    ForwardRoom<T> room(call, pieces);
    ForwardState<T>& state = room.states[0];
    Panel<T>& panel = *state.panel;
    set_up(*call.problem, panel, call.problem->spans[join.span], join.kv_head, 0, join.lanes);
    const long padded = round_up(call.problem->sizes.value_dim, lanes<T>), size = partial_numbers<T>(call);
    const T* first = static_cast<const T*>(partials) + join.first * size;
    for (int i = 0; i < panel.width; ++i) {
        state.top[i] = -infinity<T>, state.mass[i] = T(0);
        if (i >= panel.count) continue;
        for (long part = 0; part < join.count; ++part) state.top[i] = largest(state.top[i], first[part * join.stride * size + i]);
        const T base = state.top[i] == -infinity<T> ? T(0) : state.top[i];
        T* sums = state.sums + i * padded;
        for (long d = 0; d < padded; ++d) sums[d] = T(0);
        for (long part = 0; part < join.count; ++part) {
            const T* from = first + part * join.stride * size;
            const T share = exponential<T>(all<T>(from[i] - base))[0];
            if (from[panel_lanes<T> + i] == T(0)) continue;
            state.mass[i] += share * from[panel_lanes<T> + i];
            for (long d = 0; d < padded; ++d) sums[d] += share * from[2 * panel_lanes<T> + i * padded + d];
        }
    }
    settle(call, panel, state.top, state.mass, room.fade, room.scores);
    write(call, panel, state.sums, room.fade, room.scores, true);
}

// Queries outside all spans give 0 and see nothing.
template <class T>
void no_queries(const Call& call) {
    const Sizes& sizes = call.problem->sizes;
    clear_rows<T>(call.out, sizes.total_queries, sizes.heads, sizes.value_dim);
    for (long i = 0; i < sizes.total_queries * sizes.heads; ++i) static_cast<T*>(call.lse)[i] = -infinity<T>;
}

template <class T>
size_t forward_room(const Call& call) {
    Room room(nullptr);
    ForwardRoom<T> counted(call, room);
    return room.used();
}

}  // namespace regard::REGARD_ISA
