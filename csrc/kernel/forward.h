// The forward pass: a running softmax over blocks of keys (Dao et al. 2022), transposed.
//
// Scores are held as (keys, lanes): queries stand in lanes, so that maxima, sums, positions and random numbers of a row need
// no work across lanes, and keys and values are read where they lie.
#pragma once

#include "multiply.h"
#include "scores.h"

namespace regard::REGARD_ISA {

// Hands out aligned pieces of a thread's room; with no room it only counts.
class Room {
   public:
    explicit Room(void* start) : start_(static_cast<char*>(start)) {}
    template <class T>
    T* take(long count) {
        char* piece = start_ + used_;
        used_ += size_t(round_up(count * long(sizeof(T)), 64));
        return reinterpret_cast<T*>(piece);
    }
    size_t used() const { return used_; }

   private:
    char* start_;
    size_t used_ = 0;
};

constexpr int most_states = most_heads > most_panels ? most_heads : most_panels;  // of one unit: its panels or its heads

template <class T>
struct ForwardState {  // of one panel
    Panel<T>* panel;
    long kv_head;
    bool few;    // see few_lanes
    T* queries;  // (D, width); few lanes: (lanes, D padded)
    T *scores, *tile;  // of few lanes: a unit computes several heads side by side
    Cut cut;
    T* sums;     // (lanes, V padded): of weight * value
    T* top;      // (lanes): largest score
    T* mass;     // (lanes): sum of weights
    bool begun;
};

template <class T>
struct ForwardRoom {
    ForwardState<T> states[most_states];
    T *scores, *tile, *kept, *keys, *values, *fade;
    Upcoming upcoming;

    ForwardRoom(const Call& call, Room& room) {
        const Sizes& sizes = call.problem->sizes;
        const long panel = panel_lanes<T>, padded = round_up(sizes.value_dim, lanes<T>);
        for (auto& state : states) {
            state.panel = room.take<Panel<T>>(1);
            state.queries = room.take<T>(round_up(sizes.dim, lanes<T>) * panel);
            state.sums = room.take<T>(panel * padded);
            state.top = room.take<T>(panel);
            state.mass = room.take<T>(panel);
            state.scores = room.take<T>(key_block * lanes<T>);
            state.tile = room.take<T>(key_block * lanes<T>);
        }
        scores = room.take<T>(key_block * panel);
        tile = room.take<T>(key_block * panel);
        kept = room.take<T>(key_block * panel);
        keys = room.take<T>(key_block * round_up(sizes.dim, lanes<T>));
        values = room.take<T>(key_block * padded);
        fade = room.take<T>(panel);
    }
};

template <class T>
REGARD_INLINE const T* row_of(const Rows& rows, long row, long head) {
    return static_cast<const T*>(rows.values) + row * rows.row + head * rows.head;
}
template <class T>
REGARD_INLINE T* row_to(const Rows& rows, long row, long head) {
    return static_cast<T*>(rows.values) + row * rows.row + head * rows.head;
}

struct Sized {
    const Rows* rows;
    long size;
};

// A block of keys or values: where it lies, or copied where that pays.
template <class T>
struct Block {
    const T* rows;
    long stride;
};

template <class T>
REGARD_INLINE Block<T> block_of(const Call& call, const Rows& from, const Span& span, long kv_head, long key) {
    const long step = call.problem->step;
    return {row_of<T>(from, span.k_begin + span.key_first + key * step, kv_head), from.row * step};
}

template <class T>
void begin_panel(const Call& call, ForwardState<T>& state, const Span& span, long kv_head, long lane, long lane_end) {
    Panel<T>& panel = *state.panel;
    set_up(*call.problem, panel, span, kv_head, lane, lane_end);
    const long size = call.problem->sizes.dim, padded = round_up(size, lanes<T>);
    const T factor = T(score_factor(*call.problem));
    const T* rows[Panel<T>::most];
    for (int i = 0; i < panel.count; ++i) rows[i] = row_of<T>(call.query, span.q_begin + panel.row[i], panel.head[i]);
    state.kv_head = kv_head;
    state.few = panel.count <= few_lanes<T>;
    if (state.few) {
        for (int i = 0; i < panel.count; ++i)
            for (long d = 0; d < padded; d += lanes<T>) store<T>(state.queries + i * padded + d, load_first<T>(rows[i] + d, size - d) * factor);
    } else {
        transpose_rows<T>(rows, panel.count, size, factor, state.queries, panel.width, nullptr, 0);
    }
    state.begun = false;
    for (long i = 0; i < panel.width; ++i) state.top[i] = -infinity<T>, state.mass[i] = T(0);
}

// Scores become weights exp(score - top); `fade` is what earlier weights are multiplied by.
template <class T>
void weigh(const Scores<T>& scores, ForwardState<T>& state, T* fade) {
    const Panel<T>& panel = scores.panel;
    for (int v = 0; v < panel.vectors; ++v) {
        const long shift = v * lanes<T>, width = panel.width;
        T* values = scores.values + shift;
        const Range seen = scores.seen[v];
        const Vector<T> old = load<T>(state.top + shift);
        Vector<T> tops[4] = {old, old, old, old};
        long key = seen.begin;
        for (; key + 4 <= seen.end; key += 4)
            for (int i = 0; i < 4; ++i) tops[i] = larger<T>(load<T>(values + (key + i) * width), tops[i]);
        for (; key < seen.end; ++key) tops[0] = larger<T>(load<T>(values + key * width), tops[0]);
        const Vector<T> top = larger<T>(larger<T>(tops[0], tops[1]), larger<T>(tops[2], tops[3]));
        // A lane that has seen nothing has no largest score; any finite number stands in for it.
        const Vector<T> base = top == -infinity<T> ? Vector<T>{} : top;
        const Vector<T> faded = exponential<T>(old - base);
        Vector<T> sums[2] = {};
        for (key = seen.begin; key + 2 <= seen.end; key += 2)
            for (int i = 0; i < 2; ++i) {
                const Vector<T> weight = exponential<T>(load<T>(values + (key + i) * width) - base);
                sums[i] += weight;
                store<T>(values + (key + i) * width, weight);
            }
        for (; key < seen.end; ++key) {
            const Vector<T> weight = exponential<T>(load<T>(values + key * width) - base);
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
    Scores<T> scores{call, problem, *state.panel, cut_and_fill(call, *state.panel, keys, room.tile), room.scores, room.tile, room.upcoming, {}};
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
    const bool broken = scores.partial() && !finite && !all_finite<T>(value_rows.rows, value_rows.stride, scores.keys(), problem.sizes.value_dim);
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
void write(const Call& call, const Panel<T>& panel, const T* sums, const T* share, const T* lse, bool begun) {
    const Sizes& sizes = call.problem->sizes;
    const long padded = round_up(sizes.value_dim, lanes<T>);
    for (int i = 0; i < panel.count; ++i) {
        const long row = panel.span->q_begin + panel.row[i];
        T* out = row_to<T>(call.out, row, panel.head[i]);
        static_cast<T*>(call.lse)[row * sizes.heads + panel.head[i]] = lse[i];
        const T* from = sums + i * padded;
        // A weight of 0 for all keys must not meet an infinite value.
        const bool nothing = !begun || lse[i] == -infinity<T>;
        long d = 0;
        for (; d + lanes<T> <= sizes.value_dim; d += lanes<T>) store<T>(out + d, nothing ? Vector<T>{} : load<T>(from + d) * share[i]);
        for (; d < sizes.value_dim; ++d) out[d] = nothing ? T(0) : from[d] * share[i];
    }
}

template <class T>
REGARD_INLINE void expect_queries(const Call& call, Upcoming& upcoming, const Rows& rows, const Span& span, long head, long first,
                                  long count, long size, bool writing = false) {
    const long step = call.problem->step;
    upcoming.add(row_of<T>(rows, span.q_begin + span.row_first + first * step, head), rows.row * step, count, size, writing);
}

template <class T>
REGARD_INLINE void expect_keys(const Call& call, Upcoming& upcoming, const Span& span, long kv_head, long first, long count) {
    for (const auto& [rows, size] : {Sized{&call.key, call.problem->sizes.dim}, Sized{&call.value, call.problem->sizes.value_dim}}) {
        const Block<T> block = block_of<T>(call, *rows, span, kv_head, first);
        upcoming.add(block.rows, block.stride, count, size);
    }
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
    const long rows = keys.end - keys.begin, padded_key = round_up(sizes.dim, lanes<T>), padded_value = round_up(sizes.value_dim, lanes<T>);
    Block<T> key_rows = block_of<T>(call, call.key, span, kv_head, keys.begin);
    Block<T> value_rows = block_of<T>(call, call.value, span, kv_head, keys.begin);
    bool finite = false;
    if (panels > 2) {
        copy_rows<T>(key_rows.rows, key_rows.stride, rows, sizes.dim, room.keys, padded_key);
        key_rows = {room.keys, padded_key};
    }
    if (panels > 1 || padded_value != sizes.value_dim) {
        finite = copy_rows<T>(value_rows.rows, value_rows.stride, rows, sizes.value_dim, room.values, padded_value);
        value_rows = {room.values, padded_value};
    }
    for (int p = 0; p < panels; ++p) attend(call, room.states[p], room, keys, key_rows, value_rows, finite);
}

// One score: a key of one of a unit's heads and a lane.
template <class T>
struct Pair {
    const T *key, *query;
    T* score;
};

// Dot products of up to W pairs.
template <class T>
void score_pairs(const Pair<T>* pairs, int count, long depth) {
    constexpr int W = lanes<T>;
    const T *keys[W], *queries[W];
    for (int i = 0; i < W; ++i) keys[i] = pairs[smallest(i, count - 1)].key, queries[i] = pairs[smallest(i, count - 1)].query;
    Vector<T> sums[W];
    // Pair by pair: the machine's prefetching wants lines in their order.
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
        Vector<T> sum{};
        long d = 0;
        for (; d + W <= depth; d += W) sum += load<T>(keys[i] + d) * load<T>(queries[i] + d);
        if (d < depth) sum += load_first<T>(keys[i] + d, depth - d) * load<T>(queries[i] + d);
        sums[i] = sum;
    }
    transpose_block<T>(sums);
    Vector<T> total = sums[0];
#pragma GCC unroll 16
    for (int i = 1; i < W; ++i) total += sums[i];
    for (int i = 0; i < count; ++i) *pairs[i].score = total[i];
}

// A head's rows of keys or values, and the scores that belong to them, key after key.
template <class T>
struct Stream {
    const T* row;
    long stride;
    T* scores;
    long width;
    const Range* keys;
    int lanes;
    long ahead;  // whole rows, some kilobytes in all

    // The machine's own prefetching stops at the end of every page.
    REGARD_INLINE void ask(long size) const {
        for (long d = 0; d < size; d += 64 / long(sizeof(T))) __builtin_prefetch(row + ahead + d, 0, 2);
    }
};

template <class T>
void open_streams(const Call& call, ForwardRoom<T>& room, const Rows& from, const Span& span, Range keys, int heads, Stream<T>* streams) {
    for (int p = 0; p < heads; ++p) {
        ForwardState<T>& state = room.states[p];
        const Block<T> rows = block_of<T>(call, from, span, state.kv_head, keys.begin);
        const long width = state.panel->width, ceiling = 8192 / largest(1L, rows.stride * long(sizeof(T))) + 1;
        streams[p] = {rows.rows, rows.stride, state.scores + (keys.begin - state.cut.keys.begin) * width, width, &state.cut.keys, state.panel->count,
                      ceiling * rows.stride};
    }
}

// Scores of few queries of several heads, key by key for all heads, so that memory is read in its order.
template <class T>
void fill_heads(const Call& call, ForwardRoom<T>& room, const Span& span, Range keys, int heads) {
    const long depth = call.problem->sizes.dim, padded = round_up(depth, lanes<T>);
    Stream<T> streams[most_heads];
    open_streams(call, room, call.key, span, keys, heads, streams);
    Pair<T> pairs[lanes<T>];
    int count = 0;
    for (long key = keys.begin; key < keys.end; ++key)
        for (int p = 0; p < heads; ++p) {
            Stream<T>& stream = streams[p];
            if (key >= stream.keys->begin && key < stream.keys->end) {
                // Lanes without a query hold numbers too.
                store<T>(stream.scores, Vector<T>{});
                for (int lane = 0; lane < stream.lanes; ++lane) {
                    pairs[count++] = {stream.row, room.states[p].queries + lane * padded, stream.scores + lane};
                    if (count == lanes<T>) score_pairs(pairs, count, depth), count = 0;
                }
            }
            stream.ask(depth);
            stream.row += stream.stride;
            stream.scores += stream.width;
        }
    if (count) score_pairs(pairs, count, depth);
}

// sums += weights^T values, key by key for all heads.
template <class T>
void collect_heads(const Call& call, ForwardRoom<T>& room, const Span& span, Range keys, int heads) {
    const long size = call.problem->sizes.value_dim, padded = round_up(size, lanes<T>);
    Stream<T> streams[most_heads];
    open_streams(call, room, call.value, span, keys, heads, streams);
    for (long key = keys.begin; key < keys.end; ++key)
        for (int p = 0; p < heads; ++p) {
            Stream<T>& stream = streams[p];
            if (key >= stream.keys->begin && key < stream.keys->end)
                for (int lane = 0; lane < stream.lanes; ++lane) {
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
    fill_heads(call, room, span, keys, heads);
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
    collect_heads(call, room, span, keys, heads);
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
    long lane = unit.lane;
    Range hull{unit.key_end, unit.key};
    for (int p = 0; p < count; ++p) {
        const long width = heads > 1 ? unit.lane_end - unit.lane : (vectors / panels + (p < vectors % panels)) * lanes<T>;
        const long last = smallest(lane + width, unit.lane_end);
        begin_panel(call, room.states[p], span, heads > 1 ? unit.kv_head + p : unit.kv_head, lane, last);
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
        if (heads > 1) attend_heads(call, room, span, {key, smallest(later, hull.end)}, heads);
        else attend_block(call, room, span, unit.kv_head, {key, smallest(later, hull.end)}, panels);
    }
    for (int p = 0; p < count; ++p) {
        ForwardState<T>& state = room.states[p];
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
            if (share == T(0)) continue;
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
    for (long row = 0; row < sizes.total_queries; ++row)
        for (long head = 0; head < sizes.heads; ++head) {
            T* out = row_to<T>(call.out, row, head);
            for (long d = 0; d < sizes.value_dim; ++d) out[d] = T(0);
            static_cast<T*>(call.lse)[row * sizes.heads + head] = -infinity<T>;
        }
}

template <class T>
size_t forward_room(const Call& call) {
    Room room(nullptr);
    ForwardRoom<T> counted(call, room);
    return room.used();
}

}  // namespace regard::REGARD_ISA
