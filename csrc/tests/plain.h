// Attention pair by pair in float64: what the kernel is compared with.
#pragma once

#include <cmath>
#include <vector>

#include "narrow.h"
#include "../problem.h"

namespace regard::tests {

// All that a call says, apart from how the kernel cuts it.
template <class T>
struct Task {
    long count = 0;  // of sequences
    Sizes sizes{};
    std::vector<int64_t> spans;  // five rows: see Problem
    double scale = 1, softcap = 0, dropout = 0;
    long step = 1;
    long boxes_of_each = 0;
    std::vector<int64_t> boxes;
    bool has_intervals = false, by_head = false;
    Array<int32_t> starts, ends;  // (heads or 1, rows, count)
    bool has_mask = false, has_bias = false, has_distances = false, has_sinks = false, wants_bias = true, has_grad_lse = true;
    Array<uint8_t> mask;  // (N, H, T, S), each whole or 1; T and S perhaps shorter
    Array<T> bias;        // likewise
    long first_distance = 0;
    Array<T> distances;  // (H, L)
    Array<T> sinks;      // (H)
    uint64_t seed = 0;
    Array<T> query, key, value, grad_out, grad_lse;
    // Where numbers lie narrow those above are what these are; the backward pass may start from the output before it was rounded.
    Stored stored = Stored::whole;
    Array<uint16_t> narrow_query, narrow_key, narrow_value, narrow_grad_out;
    bool keeps_out = false;

    long q_begin(long n) const { return spans[size_t(n)]; }
    long q_length(long n) const { return spans[size_t(count + n)]; }
    long k_begin(long n) const { return spans[size_t(2 * count + n)]; }
    long k_length(long n) const { return spans[size_t(3 * count + n)]; }
    long start(long n) const { return spans[size_t(4 * count + n)]; }
    long kv_head(long head) const { return head / (sizes.heads / sizes.kv_heads); }
};

// Philox4x32-10, one counter.
inline bool is_kept(uint64_t seed, double p, uint32_t sequence, uint32_t head, uint32_t position, uint32_t key) {
    uint32_t c[4] = {key / 4, position, head, sequence}, k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t left = uint64_t(c[0]) * 0xD2511F53u, right = uint64_t(c[2]) * 0xCD9E8D57u;
        const uint32_t next[4] = {uint32_t(right >> 32) ^ c[1] ^ k0, uint32_t(right), uint32_t(left >> 32) ^ c[3] ^ k1, uint32_t(left)};
        std::copy(next, next + 4, c);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c[key % 4] >= uint64_t(p * 4294967296.0);
}

// Where a pair finds its number in an array that broadcasts to (N, H, T, S); null where it stands outside.
template <class T>
T* found(const Array<T>& array, long n, long head, long row, long key) {
    const auto& shape = array.shape;
    if ((shape[2] != 1 && row >= shape[2]) || (shape[3] != 1 && key >= shape[3])) return nullptr;
    return &array(shape[0] == 1 ? 0 : n, shape[1] == 1 ? 0 : head, shape[2] == 1 ? 0 : row, shape[3] == 1 ? 0 : key);
}

template <class T>
bool is_seen(const Task<T>& task, long n, long head, long row, long interval_row, long key) {
    const long position = task.start(n) + row;
    if ((position - key) % task.step) return false;
    if (task.has_intervals) {
        bool inside = false;
        for (long i = 0; i < task.starts.shape[2]; ++i) {
            const long h = task.by_head ? head : 0;
            inside |= task.starts(h, interval_row, i) <= key && key < task.ends(h, interval_row, i);
        }
        if (!inside) return false;
    } else if (task.boxes_of_each) {
        bool inside = false;
        for (long b = 0; b < task.boxes_of_each; ++b) {
            const int64_t* box = task.boxes.data() + (n * task.boxes_of_each + b) * 6;
            inside |= box[0] <= position && position < box[1] && std::max(box[2], position + box[4]) <= key &&
                      key < std::min(box[3], position + box[5]);
        }
        if (!inside) return false;
    }
    if (task.has_mask) {
        const uint8_t* bit = found(task.mask, n, head, row, key);
        if (!bit || !*bit) return false;
    }
    if (task.has_bias) {
        const T* bias = found(task.bias, n, head, row, key);
        if (!bias || *bias == -std::numeric_limits<T>::infinity()) return false;
    }
    return !task.has_distances || task.distances(head, position - key - task.first_distance) != -std::numeric_limits<T>::infinity();
}

struct Results {
    Array<double> out, lse, query, key, value, bias, distances, sinks, weights, key_sums;
};

inline Array<double> compact(std::array<long, 4> s, double fill = 0) {
    return Array<double>(s, {s[1] * s[2] * s[3], s[2] * s[3], s[3], 1}, fill);
}

// One query's pairs: the keys it sees and what stands at them.
struct Pair {
    long key;
    double logit, slope, weight, share, kept;
};

template <class T>
std::vector<Pair> pairs_of(const Task<T>& task, long n, long head, long row, long interval_row) {
    std::vector<Pair> pairs;
    for (long key = 0; key < task.k_length(n); ++key) {
        if (!is_seen(task, n, head, row, interval_row, key)) continue;
        double score = 0, slope = 1;
        for (long d = 0; d < task.sizes.dim; ++d)
            score += double(task.query(task.q_begin(n) + row, head, d)) * double(task.key(task.k_begin(n) + key, task.kv_head(head), d));
        score *= task.scale;
        if (task.softcap > 0) {
            const double bent = std::tanh(score / task.softcap);
            score = bent * task.softcap;
            slope = 1 - bent * bent;
        }
        const long position = task.start(n) + row;
        if (task.has_bias) score += double(*found(task.bias, n, head, row, key));
        if (task.has_distances) score += double(task.distances(head, position - key - task.first_distance));
        const bool kept = task.dropout == 0 || is_kept(task.seed, task.dropout, uint32_t(n), uint32_t(head), uint32_t(position),
                                                       uint32_t(key));
        pairs.push_back({key, score, slope, 0, 0, kept ? 1 / (1 - task.dropout) : 0});
    }
    return pairs;
}

template <class T>
void add_query(const Task<T>& task, Results& results, long n, long head, long row, long interval_row) {
    const double infinity = std::numeric_limits<double>::infinity();
    std::vector<Pair> pairs = pairs_of(task, n, head, row, interval_row);
    if (pairs.empty()) return;
    const long query = task.q_begin(n) + row, j = task.kv_head(head), begin = task.k_begin(n), V = task.sizes.value_dim;
    double top = -infinity, mass = 0;
    for (const Pair& pair : pairs) top = std::max(top, pair.logit);
    for (const Pair& pair : pairs) mass += std::exp(pair.logit - top);
    const double lse = top + std::log(mass), sink = task.has_sinks ? double(task.sinks(head)) : -infinity;
    const double high = std::max(lse, sink), whole = high + std::log(std::exp(lse - high) + std::exp(sink - high));
    results.lse(query, head) = lse;
    double mean = 0;
    for (Pair& pair : pairs) {
        pair.weight = std::exp(pair.logit - whole);
        pair.share = std::exp(pair.logit - lse);
        results.weights(query, head, pair.key) = pair.weight;
        results.key_sums(begin + pair.key, head) += pair.weight;
        for (long d = 0; d < V; ++d) {
            results.out(query, head, d) += pair.weight * pair.kept * double(task.value(begin + pair.key, j, d));
            mean += pair.weight * pair.kept * double(task.value(begin + pair.key, j, d)) * double(task.grad_out(query, head, d));
        }
    }
    if (task.has_sinks) results.sinks(head) -= std::exp(sink - whole) * mean;
    for (const Pair& pair : pairs) {
        double gradient = 0;
        for (long d = 0; d < V; ++d) {
            const double up = double(task.grad_out(query, head, d));
            gradient += up * double(task.value(begin + pair.key, j, d)) * pair.kept;
            results.value(begin + pair.key, j, d) += pair.weight * pair.kept * up;
        }
        double flow = pair.weight * (gradient - mean);
        if (task.has_grad_lse) flow += pair.share * double(task.grad_lse(query, head));
        if (task.has_bias) *found(results.bias, n, head, row, pair.key) += flow;
        if (task.has_distances) results.distances(head, task.start(n) + row - pair.key - task.first_distance) += flow;
        flow *= pair.slope * task.scale;
        for (long d = 0; d < task.sizes.dim; ++d) {
            results.query(query, head, d) += flow * double(task.key(begin + pair.key, j, d));
            results.key(begin + pair.key, j, d) += flow * double(task.query(query, head, d));
        }
    }
}

template <class T>
Results plain(const Task<T>& task) {
    const Sizes& s = task.sizes;
    long width = 0, interval_row = 0;
    for (long n = 0; n < task.count; ++n) width = std::max(width, task.k_length(n));
    Results results{compact({s.total_queries, s.heads, s.value_dim, 1}),
                    compact({s.total_queries, s.heads, 1, 1}, -std::numeric_limits<double>::infinity()),
                    compact({s.total_queries, s.heads, s.dim, 1}),
                    compact({s.total_keys, s.kv_heads, s.dim, 1}),
                    compact({s.total_keys, s.kv_heads, s.value_dim, 1}),
                    compact(task.bias.shape),
                    compact(task.distances.shape),
                    compact(task.sinks.shape),
                    compact({s.total_queries, s.heads, width, 1}),
                    compact({s.total_keys, s.heads, 1, 1})};
    for (long n = 0; n < task.count; ++n)
        for (long row = 0; row < task.q_length(n); ++row, ++interval_row)
            for (long head = 0; head < s.heads; ++head) add_query(task, results, n, head, row, interval_row);
    return results;
}

}  // namespace regard::tests
