// What happens to a block of scores, (keys, lanes), between the products: soft cap, biases, masks, dropout.
#pragma once

#include "functions.h"
#include "multiply.h"
#include "panel.h"
#include "philox.h"
#include "transpose.h"

namespace regard::REGARD_ISA {

template <class T>
struct Scores {
    const Call& call;
    const Problem& problem;
    Panel<T>& panel;
    Cut cut;
    T* values;  // (keys, panel.width)
    T* tile;    // additions, where cut.tile
    Upcoming& upcoming;
    // Of each vector of lanes: the keys (from cut.keys.begin) that some of its lanes may see.
    Range seen[most_vectors];

    long keys() const { return cut.keys.end - cut.keys.begin; }
    bool partial() const { return cut.intervals || cut.tile; }
};

// What multiplies q k^T before anything else.
inline double score_factor(const Problem& problem) {
    return problem.softcap > 0 ? problem.scale / problem.softcap : problem.scale;
}

template <class T>
REGARD_INLINE bool has_bias(const Call& call) {
    return call.bias.values || call.distances.values;
}

template <class T>
void add_dense_bias(const Call& call, const Panel<T>& panel, Range keys, T* tile) {
    const Dense& bias = call.bias;
    const Span& span = *panel.span;
    const long step = call.problem->step;
    for (int lane = 0; lane < panel.count; ++lane) {
        const long row = panel.row[lane];
        const T* from = static_cast<const T*>(bias.values) + span.sequence * bias.sequence_stride + panel.head[lane] * bias.head_stride +
                        row * bias.row_stride;
        for (long key = keys.begin; key < keys.end; ++key) {
            const long number = span.key_first + key * step;
            T& place = tile[(key - keys.begin) * panel.width + lane];
            if (row >= bias.rows || number >= bias.keys) place = -infinity<T>;
            else if (place != -infinity<T>) place += from[number * bias.key_stride];
        }
    }
}

template <class T>
void add_distance_bias(const Call& call, const Panel<T>& panel, Range keys, T* tile) {
    const Distances& bias = call.distances;
    const Span& span = *panel.span;
    const long step = call.problem->step;
    const T* values = static_cast<const T*>(bias.values);
    if (panel.one_head && step == 1) {
        // Neighbouring lanes are neighbouring positions, and so are their distances; the last lanes of a panel read none.
        const T* from = values + panel.head[0] * bias.head_stride + position_of(panel, 0) - bias.first;
        for (long key = keys.begin; key < keys.end; ++key, tile += panel.width) {
            const T* row = from - key;
            int lane = 0;
            for (; lane + lanes<T> <= panel.count; lane += lanes<T>)
                store<T>(tile + lane, load<T>(tile + lane) + load<T>(row + lane));
            for (; lane < panel.count; ++lane) tile[lane] += row[lane];
        }
        return;
    }
    for (int lane = 0; lane < panel.count; ++lane) {
        const T* from = values + panel.head[lane] * bias.head_stride + position_of(panel, lane) - bias.first;
        for (long key = keys.begin; key < keys.end; ++key)
            tile[(key - keys.begin) * panel.width + lane] += from[-(span.key_first + key * step)];
    }
}

template <class T>
void close_by_bits(const Call& call, const Panel<T>& panel, Range keys, T* tile) {
    const Dense& mask = call.mask;
    const Span& span = *panel.span;
    for (int lane = 0; lane < panel.count; ++lane) {
        const long row = panel.row[lane];
        const uint8_t* from = static_cast<const uint8_t*>(mask.values) + span.sequence * mask.sequence_stride +
                              panel.head[lane] * mask.head_stride + row * mask.row_stride;
        for (long key = keys.begin; key < keys.end; ++key) {
            const long number = span.key_first + key * call.problem->step;
            if (row >= mask.rows || number >= mask.keys || !from[number * mask.key_stride])
                tile[(key - keys.begin) * panel.width + lane] = -infinity<T>;
        }
    }
}

// The block as masks and biases cut it; `keys` empty where nobody sees anything.
template <class T>
Cut cut_and_fill(const Call& call, Panel<T>& panel, Range keys, T* tile) {
    const Problem& problem = *call.problem;
    Cut cut = cut_block(problem, panel, keys, tile);
    if (cut.keys.empty() || !(has_bias<T>(call) || call.mask.values)) return cut;
    if (!cut.tile) clear_tile(tile, panel, cut.keys, T(0));
    cut.tile = true;
    if (call.mask.values) close_by_bits(call, panel, cut.keys, tile);
    if (call.bias.values) add_dense_bias(call, panel, cut.keys, tile);
    if (call.distances.values) add_distance_bias(call, panel, cut.keys, tile);
    return cut;
}

// Which keys each vector of lanes may see.
template <class T>
void find_seen(Scores<T>& scores) {
    const long first = scores.cut.keys.begin, keys = scores.keys();
    for (int v = 0; v < scores.panel.vectors; ++v) {
        scores.seen[v] = {0, keys};
        if (!scores.cut.intervals) continue;
        long begin = keys, end = 0;
        for (int i = v * lanes<T>; i < smallest((v + 1) * lanes<T>, scores.panel.count); ++i) {
            const long low = largest(long(scores.panel.low[i]) - first, 0L), high = smallest(long(scores.panel.high[i]) - first, keys);
            if (low < high) begin = smallest(begin, low), end = largest(end, high);
        }
        scores.seen[v] = begin < end ? Range{begin, end} : Range{0, 0};
    }
}

// Runs of keys that are seen by the same vectors of lanes [first, last).
struct Segment {
    Range keys;
    int first, last;
};

template <class T>
int segments_of(const Scores<T>& scores, Segment (&segments)[2 * most_vectors + 1]) {
    if (!scores.cut.intervals) {
        segments[0] = {{0, scores.keys()}, 0, scores.panel.vectors};
        return 1;
    }
    int count = 0;
    for (long begin = 0; begin < scores.keys();) {
        long end = scores.keys();
        int first = most_vectors, last = 0;
        for (int v = 0; v < scores.panel.vectors; ++v) {
            const Range& seen = scores.seen[v];
            if (seen.begin > begin) end = smallest(end, seen.begin);
            if (seen.end > begin) end = smallest(end, seen.end);
            if (seen.begin <= begin && begin < seen.end) first = smallest(first, v), last = v + 1;
        }
        if (first < last) segments[count++] = {{begin, end}, first, last};
        begin = end;
    }
    return count;
}

// The keys that lanes [first, last) may see: what a product over keys has to run over.
template <class T>
REGARD_INLINE Range seen_by_lanes(const Scores<T>& scores, int first, int last) {
    if (!scores.cut.intervals) return {0, scores.keys()};
    long begin = scores.keys(), end = 0;
    for (int i = first; i < last; ++i) {
        const long low = largest(long(scores.panel.low[i]) - scores.cut.keys.begin, 0L);
        const long high = smallest(long(scores.panel.high[i]) - scores.cut.keys.begin, scores.keys());
        if (low < high) begin = smallest(begin, low), end = largest(end, high);
    }
    return {begin, largest(begin, end)};
}

// values = lanes x keys of A B^T, where somebody sees them; elsewhere anything.
template <class T>
void fill(const Scores<T>& scores, const T* rows, long stride, const T* columns, long depth, T* values) {
    Segment segments[2 * most_vectors + 1];
    const int count = segments_of(scores, segments);
    const long width = scores.panel.width;
    for (int s = 0; s < count; ++s) {
        const Segment& segment = segments[s];
        const long shift = segment.first * lanes<T>;
        product<T, Unit::column>(segment.keys.end - segment.keys.begin, segment.last - segment.first,
                                 {rows + segment.keys.begin * stride, stride, columns + shift, width,
                                  values + segment.keys.begin * width + shift, width, depth, nullptr, &scores.upcoming},
                                 Old::none);
    }
}

// Up to so many queries, a lane each would leave most of a register idle: their scores are dot products, key by key.
template <class T>
constexpr int few_lanes = lanes<T> / 4;

// As `fill`, for few lanes whose queries lie in rows of `padded` numbers, and for some of the keys. Asks for keys to come: the rows
// after the last may lie outside the array, which asking allows.
template <class T>
void fill_few(const Scores<T>& scores, const T* rows, long stride, const T* queries, long padded, long depth, Range some) {
    constexpr int W = lanes<T>, line = 64 / int(sizeof(T));
    const long width = scores.panel.width;
    for (long key = some.begin; key < some.end; key += W) {
        const T* from[W];
        for (int i = 0; i < W; ++i) {
            from[i] = rows + smallest(key + i, some.end - 1) * stride;
            for (long d = 0; d < depth; d += line) __builtin_prefetch(from[i] + W * stride + d);
        }
        for (int lane = 0; lane < scores.panel.count; ++lane) {
            const T* query = queries + lane * padded;
            Vector<T> sums[W];
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) sums[i] = Vector<T>{};
            long d = 0;
            for (; d + W <= depth; d += W) {
                const Vector<T> part = load<T>(query + d);
#pragma GCC unroll 16
                for (int i = 0; i < W; ++i) sums[i] += load<T>(from[i] + d) * part;
            }
            if (d < depth)
                for (int i = 0; i < W; ++i) sums[i] += load_first<T>(from[i] + d, depth - d) * load<T>(query + d);
            transpose_block<T>(sums);
            Vector<T> total = sums[0];
#pragma GCC unroll 16
            for (int i = 1; i < W; ++i) total += sums[i];
            for (int i = 0; i < smallest<long>(W, some.end - key); ++i) scores.values[(key + i) * width + lane] = total[i];
        }
        // Lanes without a query hold numbers too.
        for (long i = key; i < smallest(key + W, some.end); ++i)
            for (long lane = scores.panel.count; lane < width; ++lane) scores.values[i * width + lane] = T(0);
    }
}

// Zero where a vector of lanes sees no key: other lanes' products run over these places.
template <class T>
REGARD_INLINE void clear_unseen(const Scores<T>& scores, T* values) {
    if (!scores.cut.intervals) return;
    for (int v = 0; v < scores.panel.vectors; ++v)
        for (long key = 0; key < scores.keys(); ++key) {
            if (key == scores.seen[v].begin) key = scores.seen[v].end;
            if (key < scores.keys()) store<T>(values + key * scores.panel.width + v * lanes<T>, Vector<T>{});
        }
}

// Masked scores become -inf, whatever stood there; the others get soft cap and bias. `slope`: d capped / d uncapped.
template <class T>
void apply(const Scores<T>& scores, T* slope) {
    const Panel<T>& panel = scores.panel;
    const T cap = T(scores.problem.softcap);
    const bool capped = scores.problem.softcap > 0;
    if (!capped && !scores.partial()) return;
    for (int v = 0; v < panel.vectors; ++v) {
        const long shift = v * lanes<T>;
        const Ints<T> low = load_ints<T>(panel.low + shift), high = load_ints<T>(panel.high + shift);
        for (long key = scores.seen[v].begin; key < scores.seen[v].end; ++key) {
            const long at = key * panel.width + shift;
            Vector<T> value = load<T>(scores.values + at);
            if (capped) {
                const Vector<T> bent = hyperbolic_tangent<T>(value);
                value = bent * cap;
                if (slope) store<T>(slope + at, T(1) - bent * bent);
            }
            if (scores.cut.tile) {
                const Vector<T> added = load<T>(scores.tile + at);
                value = added == -infinity<T> ? added : value + added;
            }
            if (scores.cut.intervals) {
                const Ints<T> number = all_ints<T>(Int<T>(scores.cut.keys.begin + key));
                const Ints<T> inside = (number >= low) & (number < high);
                value = inside ? value : all<T>(-infinity<T>);
            }
            store<T>(scores.values + at, value);
        }
    }
}

// Dropout's factors, 0 or 1 / (1 - p), for every key and lane.
template <class T>
void fill_kept(const Scores<T>& scores, T* kept) {
    const Panel<T>& panel = scores.panel;
    const Problem& problem = scores.problem;
    const uint32_t threshold = uint32_t(uint64_t(problem.dropout * 4294967296.0));
    const T share = T(1 / (1 - problem.dropout));
    const uint32_t sequence = uint32_t(panel.span->sequence), k0 = uint32_t(scores.call.seed), k1 = uint32_t(scores.call.seed >> 32);
    for (int lane = 0; lane < panel.count; lane += word_lanes) {
        Words position{}, head{};
        const int some = smallest(word_lanes, panel.count - lane);
        for (int i = 0; i < some; ++i) position[i] = uint32_t(position_of(panel, lane + i)), head[i] = uint32_t(panel.head[lane + i]);
        long drawn = -1;
        FourWords words;
        for (long key = 0; key < scores.keys(); ++key) {
            const long number = panel.span->key_first + (scores.cut.keys.begin + key) * problem.step;
            if (number >> 2 != drawn) {
                drawn = number >> 2;
                words = philox(Words{} + uint32_t(drawn), position, head, Words{} + sequence, k0, k1);
            }
            const Words word = words.word[number & 3];
            T* row = kept + key * panel.width + lane;
            if constexpr (sizeof(T) == 4) {
                store<T>(row, word >= threshold ? all<T>(share) : Vector<T>{});
            } else {
                for (int i = 0; i < some; ++i) row[i] = word[i] >= threshold ? share : T(0);
            }
        }
    }
}

}  // namespace regard::REGARD_ISA
