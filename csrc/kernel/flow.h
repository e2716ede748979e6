// What flows back through a block of scores: weights recomputed from the lse, and the gradients of scores and biases.
#pragma once

#include "forward.h"

namespace regard::REGARD_ISA {

template <class T>
struct BackwardRoom {
    Panel<T>* panel;
    T *queries, *out_grads;          // (D, width), (V, width)
    T *query_rows, *out_grad_rows;   // (lanes, D padded), (lanes, V padded)
    T *weights, *flow, *dropped, *kept, *slope, *tile;  // (keys, width)
    T *keys, *values, *key_grads, *value_grads;         // (keys, D or V padded)
    T *query_grads;                  // (lanes, D padded)
    bool tiles;
    // For the matrix unit: rows of words of keys and values; keys turned, (D, pairs of keys); queries and gradients as words of pairs
    // of d, (words, width), and of lanes, (pairs, D or V padded); words on their way; the gradient of the queries turned.
    T *key_words, *value_words, *turned_keys, *query_words, *out_grad_words, *query_pairs, *out_grad_pairs, *words, *turned_grads;
    mutable Upcoming upcoming;
    T* zeros;                        // (D or V)
    T *base, *delta, *share;         // (lanes): what scores and gradients are reduced by, what sinks leave

    BackwardRoom(const Call& call, Room& room) {
        const Sizes& sizes = call.problem->sizes;
        const long width = panel_lanes<T>, dim = round_up(sizes.dim, lanes<T>), value_dim = round_up(sizes.value_dim, lanes<T>);
        panel = room.take<Panel<T>>(1);
        queries = room.take<T>(sizes.dim * width);
        out_grads = room.take<T>(sizes.value_dim * width);
        query_rows = room.take<T>(width * dim);
        out_grad_rows = room.take<T>(width * value_dim);
        for (T** block : {&weights, &flow, &dropped, &kept, &slope, &tile}) *block = room.take<T>(backward_block * width);
        keys = room.take<T>(backward_block * dim);
        values = room.take<T>(backward_block * value_dim);
        const long most = backward_block + lanes<T>;  // rows of a tile may begin anywhere
        key_grads = room.take<T>(most * dim);
        value_grads = room.take<T>(most * value_dim);
        query_grads = room.take<T>(width * dim);
        zeros = room.take<T>(dim > value_dim ? dim : value_dim);
        base = room.take<T>(Panel<T>::most);
        delta = room.take<T>(Panel<T>::most);
        share = room.take<T>(Panel<T>::most);
        tiles = uses_tiles<T>(call) && !call.sinks;
#if defined(__AVX512F__)
        if (!tiles) return;
        key_words = room.take<T>(most * words_of(sizes.dim));
        value_words = room.take<T>(most * words_of(sizes.value_dim));
        turned_keys = room.take<T>(dim * backward_block / 2);
        query_words = room.take<T>(words_of(sizes.dim) * width);
        out_grad_words = room.take<T>(words_of(sizes.value_dim) * width);
        query_pairs = room.take<T>(words_of(width) * dim);
        out_grad_pairs = room.take<T>(words_of(width) * value_dim);
        words = room.take<T>(largest(backward_block * largest(words_of(width), dim), width * words_of(sizes.value_dim)));
        turned_grads = room.take<T>(dim * width);
#endif
    }
};

// One block of keys, its arrays and the sums of its gradients.
template <class T>
struct OwnedKeys {
    Range range;
    Block<T> keys, values;
    T *key_grads, *value_grads;
    long dim, value_dim, padded_dim, padded_value;
    bool tiled;  // by the matrix unit, for which words were made of keys and values; these are wide only where a panel is not tiled
};

template <class T>
T sum_of_products(const T* a, const T* b, long size) {
    Vector<T> sums{};
    long d = 0;
    for (; d + lanes<T> <= size; d += lanes<T>) sums += load<T>(a + d) * load<T>(b + d);
    T halves[lanes<T>];
    store<T>(halves, sums);
#pragma GCC unroll 4
    for (int half = lanes<T> / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) halves[i] += halves[i + half];
    for (; d < size; ++d) halves[0] += a[d] * b[d];
    return halves[0];
}

REGARD_INLINE long lse_place(const Call& call, long row, long head) { return row * call.problem->sizes.heads + head; }

// delta = the sum of out * gradient of out of a query, 0 where it sees nothing.
template <class T>
T delta_of(const Call& call, const Gradients& gradients, const BackwardRoom<T>& room, long row, long head) {
    if (static_cast<const T*>(call.lse)[lse_place(call, row, head)] == -infinity<T>) return T(0);
    const long size = call.problem->sizes.value_dim;
    const T* out = row_in<T>(call.out, row, head, size, room.out_grad_rows);
    return sum_of_products<T>(out, row_in<T>(gradients.out, row, head, size, room.out_grad_rows + round_up(size, lanes<T>)), size);
}

template <class T>
void delta_of_span(const Call& call, const Gradients& gradients, long number, void* scratch) {
    const Problem& problem = *call.problem;
    Room pieces(scratch);
    const BackwardRoom<T> room(call, pieces);
    const Span& span = problem.spans[number];
    for (long i = 0; i < span.rows; ++i)
        for (long head = 0; head < problem.sizes.heads; ++head) {
            const long row = span.q_begin + span.row_first + i * problem.step;
            static_cast<T*>(gradients.delta)[lse_place(call, row, head)] = delta_of<T>(call, gradients, room, row, head);
        }
}

// The logarithm of what the weights of a query are divided by: its lse joined with the head's sink.
template <class T>
T whole_lse(const Call& call, T lse, long head) {
    if (!call.sinks) return lse;
    const T sink = static_cast<const T*>(call.sinks)[head], high = largest(lse, sink), low = smallest(lse, sink);
    if (high == infinity<T>) return high;
    const Vector<T> part = logarithm<T>(T(1) + exponential<T>(all<T>(low - high)));
    return high + part[0];
}

REGARD_INLINE long lane_place(const Call& call, const auto& panel, int lane) {
    return lse_place(call, panel.span->q_begin + panel.row[lane], panel.head[lane]);
}

// What the scores of each lane are reduced by: infinity where it sees nothing. `share`: what the sinks leave of each lane's weights.
template <class T>
void load_base(const Call& call, const Panel<T>& panel, T* base, T* share) {
    for (int i = 0; i < panel.width; ++i) {
        base[i] = infinity<T>, share[i] = T(1);
        if (i >= panel.count) continue;
        const T lse = static_cast<const T*>(call.lse)[lane_place(call, panel, i)];
        if (lse == -infinity<T>) continue;
        base[i] = lse;
        if (call.sinks) share[i] = exponential<T>(all<T>(lse - whole_lse(call, lse, panel.head[i])))[0];
    }
}

// What the gradients of each lane's weights are reduced by, from the sums in Gradients::delta and the gradient of the lse.
template <class T>
void load_delta(const Call& call, const Gradients& gradients, const Panel<T>& panel, const T* base, const T* share, T* delta) {
    for (int i = 0; i < panel.width; ++i) {
        delta[i] = T(0);
        if (i >= panel.count || base[i] == infinity<T>) continue;
        const long place = lane_place(call, panel, i);
        delta[i] = static_cast<const T*>(gradients.delta)[place] * share[i];
        if (gradients.lse) delta[i] -= static_cast<const T*>(gradients.lse)[place];
    }
}

// Where one block holds all keys, delta is the sum of weight * gradient of weight, and the output need not be read. Weights that
// come from a rounded lse sum to a little more or less than they should, which is divided out.
template <class T>
void find_delta(const Call& call, const Gradients& gradients, const Scores<T>& scores, const T* dropped, const T* flow) {
    const Panel<T>& panel = scores.panel;
    T sums[Panel<T>::most], masses[Panel<T>::most];
    for (int v = 0; v < panel.vectors; ++v) {
        Vector<T> sum{}, mass{};
        for (long key = scores.seen[v].begin; key < scores.seen[v].end; ++key) {
            const long at = key * panel.width + v * lanes<T>;
            const Vector<T> weight = load<T>(dropped + at), part = weight * load<T>(flow + at);
            sum += weight == T(0) ? Vector<T>{} : part;
            mass += load<T>(scores.values + at);
        }
        store<T>(sums + v * lanes<T>, sum);
        store<T>(masses + v * lanes<T>, mass);
    }
    for (int i = 0; i < panel.count; ++i)
        static_cast<T*>(gradients.delta)[lane_place(call, panel, i)] = masses[i] > T(0) ? sums[i] / masses[i] : sums[i];
}

template <class T>
void weigh_again(const Scores<T>& scores, const T* base, T factor) {
    const long width = scores.panel.width;
    for (int v = 0; v < scores.panel.vectors; ++v) {
        const Vector<T> by = load<T>(base + v * lanes<T>);
        T* values = scores.values + v * lanes<T>;
        for (long key = scores.seen[v].begin; key < scores.seen[v].end; ++key) {
            const Vector<T> score = load<T>(values + key * width), weight = exponential<T>(score * factor - by);
            // A masked pair of a row whose lse is NaN weighs nothing either.
            store<T>(values + key * width, score == -infinity<T> ? Vector<T>{} : weight);
        }
    }
    clear_unseen(scores, scores.values);
}

// flow = weight * (gradient of weight - delta) * factor; 0 where the weight is, whatever the gradient holds.
template <class T>
void turn_into_flow(const Scores<T>& scores, const T* kept, const T* delta, T factor, T* flow) {
    const long width = scores.panel.width;
    for (int v = 0; v < scores.panel.vectors; ++v) {
        const Vector<T> less = load<T>(delta + v * lanes<T>);
        for (long key = scores.seen[v].begin; key < scores.seen[v].end; ++key) {
            const long at = key * width + v * lanes<T>;
            Vector<T> gradient = load<T>(flow + at);
            if (kept) gradient *= load<T>(kept + at);
            const Vector<T> weight = load<T>(scores.values + at);
            gradient = weight * (gradient - less) * factor;
            store<T>(flow + at, weight == T(0) ? Vector<T>{} : gradient);
        }
    }
    clear_unseen(scores, flow);
}

template <class T>
void add_to_bias(const Call& call, const Gradients& gradients, const Scores<T>& scores, const T* flow) {
    const Panel<T>& panel = scores.panel;
    const Span& span = *panel.span;
    const long step = call.problem->step;
    const Range keys = scores.cut.keys;
    if (gradients.bias.values) {
        const Dense& bias = gradients.bias;
        for (int lane = 0; lane < panel.count; ++lane) {
            if (panel.row[lane] >= bias.rows) continue;
            T* to = static_cast<T*>(const_cast<void*>(bias.values)) + span.sequence * bias.sequence_stride +
                    panel.head[lane] * bias.head_stride + panel.row[lane] * bias.row_stride;
            for (long key = keys.begin; key < keys.end; ++key) {
                const long number = span.key_first + key * step;
                if (number < bias.keys) to[number * bias.key_stride] += flow[(key - keys.begin) * panel.width + lane];
            }
        }
    }
    if (gradients.distances.values) {
        const Distances& bias = gradients.distances;
        T* values = static_cast<T*>(const_cast<void*>(bias.values));
        for (int lane = 0; lane < panel.count;) {
            T* to = values + panel.head[lane] * bias.head_stride + position_of(panel, lane) - bias.first;
            const bool together = panel.one_head && step == 1 && lane + lanes<T> <= panel.count;
            for (long key = keys.begin; key < keys.end; ++key) {
                T* place = to - (span.key_first + key * step);
                const T* from = flow + (key - keys.begin) * panel.width + lane;
                if (together) store<T>(place, load<T>(place) + load<T>(from));
                else *place += *from;
            }
            lane += together ? lanes<T> : 1;
        }
    }
}

template <class T>
void bend(const Scores<T>& scores, const T* slope, T factor, T* flow) {
    for (int v = 0; v < scores.panel.vectors; ++v)
        for (long key = scores.seen[v].begin; key < scores.seen[v].end; ++key) {
            const long at = key * scores.panel.width + v * lanes<T>;
            Vector<T> bent = load<T>(flow + at) * factor;
            if (slope) bent = bent == T(0) ? bent : bent * load<T>(slope + at);
            store<T>(flow + at, bent);
        }
}

}  // namespace regard::REGARD_ISA
