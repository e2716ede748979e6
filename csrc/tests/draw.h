// Tasks drawn at random: every option of a call, lengths around the borders of blocks, arrays of any layout.
#pragma once

#include "plain.h"

namespace regard::tests {

class Draw {
   public:
    explicit Draw(uint64_t seed) : random(seed) {}

    long upto(long most) { return long(random() % uint64_t(most + 1)); }
    bool one_in(long count) { return upto(count - 1) == 0; }
    long among(std::initializer_list<long> numbers) { return numbers.begin()[upto(long(numbers.size()) - 1)]; }
    long length(long most) {
        const long found = one_in(3) ? among({0, 1, 2, 4, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 130, 255, 257}) : upto(40);
        return std::min(found, most);
    }

    std::mt19937_64 random;
};

struct Wanted {
    long longest = 300, sequences = 5;
};

template <class T>
void draw_spans(Draw& draw, Task<T>& task, Wanted wanted) {
    const long N = task.count = draw.upto(wanted.sequences), keys_held = 1 + draw.upto(2);
    std::vector<std::array<long, 5>> spans;
    std::vector<std::array<long, 2>> keys;
    long queries = 0, total = 0;
    for (long i = 0; i < keys_held; ++i) {
        total += draw.one_in(3) ? draw.upto(3) : 0;
        keys.push_back({total, draw.length(wanted.longest)});
        total += keys.back()[1];
    }
    const bool shared = draw.one_in(2);
    for (long n = 0; n < N; ++n) {
        queries += draw.one_in(3) ? draw.upto(3) : 0;
        const long q_length = draw.length(wanted.longest);
        std::array<long, 2> read = keys[size_t(draw.upto(keys_held - 1))];
        if (!shared) {
            total += draw.one_in(3) ? draw.upto(3) : 0;
            read = {total, draw.length(wanted.longest)};
            total += read[1];
        } else if (draw.one_in(4)) {
            read[1] = draw.upto(read[1]);  // a prefix of the same keys
        }
        const long start = draw.one_in(3) ? draw.upto(40) - 20 : draw.one_in(20) ? (1L << 33) + 3 : read[1] - q_length;
        spans.push_back({queries, q_length, read[0], read[1], start});
        queries += q_length;
    }
    std::shuffle(spans.begin(), spans.end(), draw.random);
    for (int field = 0; field < 5; ++field)
        for (const auto& span : spans) task.spans.push_back(span[size_t(field)]);
    task.sizes.total_queries = queries + (draw.one_in(3) ? draw.upto(3) : 0);
    task.sizes.total_keys = total + (draw.one_in(3) ? draw.upto(3) : 0);
}

inline int64_t bound(Draw& draw, int64_t open) {
    if (draw.one_in(2)) return open;
    if (draw.one_in(10)) return draw.one_in(2) ? std::numeric_limits<int64_t>::max() / 4 : std::numeric_limits<int64_t>::min() / 4;
    return draw.upto(draw.one_in(2) ? 300 : 20) - (draw.one_in(2) ? 10 : 0);
}

template <class T>
void draw_mask(Draw& draw, Task<T>& task) {
    constexpr int64_t far = 1L << 40;
    const Sizes& s = task.sizes;
    long rows = 0, longest_q = 1, longest_k = 1;
    for (long n = 0; n < task.count; ++n) {
        rows += task.q_length(n);
        longest_q = std::max(longest_q, task.q_length(n)), longest_k = std::max(longest_k, task.k_length(n));
    }
    if (draw.one_in(4)) task.step = draw.among({2, 3, 5, 64, 1000});
    if (draw.one_in(2)) {
        task.boxes_of_each = 1 + (draw.one_in(2) ? draw.upto(3) : 0);
        const bool causal = draw.one_in(2);
        for (long i = 0; i < task.count * task.boxes_of_each; ++i) {
            const int64_t box[] = {bound(draw, -far), bound(draw, far), bound(draw, -far), bound(draw, far), -bound(draw, far),
                                   causal ? 1 : bound(draw, far)};
            task.boxes.insert(task.boxes.end(), box, box + 6);
        }
    } else if (draw.one_in(3)) {
        task.has_intervals = true;
        task.by_head = draw.one_in(2);
        const long heads = task.by_head ? s.heads : 1, count = draw.upto(4);
        task.starts = Array<int32_t>({heads, rows, count, 1}, {rows * count, count, 1, 0});
        task.ends = Array<int32_t>({heads, rows, count, 1}, {rows * count, count, 1, 0});
        for (long head = 0; head < heads; ++head)
            for (long row = 0; row < rows; ++row)
                for (long i = 0, at = 0; i < count; ++i) {
                    if (draw.one_in(4)) continue;  // empty: 0, 0
                    task.starts(head, row, i) = int32_t(at += draw.upto(30));
                    task.ends(head, row, i) = int32_t(at += 1 + draw.upto(60));
                }
    }
    const auto shape = [&] {
        std::array<long, 4> found{draw.one_in(2) ? task.count : 1, draw.one_in(2) ? s.heads : 1, draw.one_in(2) ? longest_q : 1,
                                  draw.one_in(2) ? longest_k : 1};
        if (draw.one_in(5)) found[2] = std::max(1L, found[2] - 2);
        if (draw.one_in(5)) found[3] = std::max(1L, found[3] - 2);
        return found;
    };
    const auto strides = [&](std::array<long, 4> shape) {
        std::array<long, 4> found{shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
        if (draw.one_in(3)) found = {found[0], found[1], 1, shape[2]};
        if (draw.one_in(4)) found[2] = -found[2];
        return found;
    };
    if (task.count && draw.one_in(4)) {
        const auto size = shape();
        task.has_mask = true;
        task.mask = Array<uint8_t>(size, strides(size));
        for (uint8_t& bit : task.mask) bit = draw.upto(3) ? uint8_t(1 + draw.upto(254)) : 0;
    }
    if (task.count && draw.one_in(3)) {
        const auto size = shape();
        task.has_bias = true;
        task.bias = Array<T>(size, strides(size));
        fill_normal(draw.random, task.bias);
        if (draw.one_in(2))
            for (T& number : task.bias)
                if (draw.one_in(4)) number = -std::numeric_limits<T>::infinity();
    }
}

template <class T>
void draw_distances(Draw& draw, Task<T>& task) {
    long least = 0, most = -1;
    bool some = false;
    for (long n = 0; n < task.count; ++n) {
        if (!task.q_length(n) || !task.k_length(n)) continue;
        const long low = task.start(n) - task.k_length(n) + 1, high = task.start(n) + task.q_length(n) - 1;
        least = some ? std::min(least, low) : low, most = some ? std::max(most, high) : high;
        some = true;
    }
    if (most - least > 5000) return;
    const long count = most - least + 1;
    task.has_distances = true;
    task.first_distance = least;
    task.distances = Array<T>({task.sizes.heads, count, 1, 1}, {count, 1, 0, 0});
    fill_normal(draw.random, task.distances);
    if (draw.one_in(2))
        for (T& number : task.distances)
            if (draw.one_in(6)) number = -std::numeric_limits<T>::infinity();
}

template <class T>
void draw_arrays(Draw& draw, Task<T>& task) {
    const Sizes& s = task.sizes;
    task.query = rows_array<T>(draw.random, s.total_queries, s.heads, s.dim, true, T(0));
    task.key = rows_array<T>(draw.random, s.total_keys, s.kv_heads, s.dim, true, T(0));
    task.value = rows_array<T>(draw.random, s.total_keys, s.kv_heads, s.value_dim, true, T(0));
    task.grad_out = rows_array<T>(draw.random, s.total_queries, s.heads, s.value_dim, true, T(0));
    task.grad_lse = Array<T>({s.total_queries, s.heads, 1, 1}, {s.heads, 1, 0, 0});
    for (const Array<T>* array : {&task.query, &task.key, &task.value, &task.grad_out, &task.grad_lse}) fill_normal(draw.random, *array);
}

// NaN or infinities in every row that takes no part, and in what lies between the rows.
template <class T>
void poison(Draw& draw, Task<T>& task) {
    const double infinity = std::numeric_limits<double>::infinity();
    const T poison = T(draw.one_in(2) ? std::numeric_limits<double>::quiet_NaN() : draw.one_in(2) ? infinity : -infinity);
    const Sizes& s = task.sizes;
    std::vector<char> sees(size_t(s.total_queries * s.heads), 0), seen(size_t(s.total_keys * s.kv_heads), 0);
    long interval_row = 0;
    for (long n = 0; n < task.count; ++n)
        for (long row = 0; row < task.q_length(n); ++row, ++interval_row)
            for (long head = 0; head < s.heads; ++head)
                for (long key = 0; key < task.k_length(n); ++key)
                    if (is_seen(task, n, head, row, interval_row, key)) {
                        sees[size_t((task.q_begin(n) + row) * s.heads + head)] = 1;
                        seen[size_t((task.k_begin(n) + key) * s.kv_heads + task.kv_head(head))] = 1;
                    }
    const auto spoil = [&](Array<T>& array, const std::vector<char>& part) {
        Array<T> other(array.shape, array.strides, poison);
        const auto& shape = array.shape;
        for (long row = 0; row < shape[0]; ++row)
            for (long head = 0; head < shape[1]; ++head)
                for (long d = 0; d < shape[2]; ++d)
                    if (part[size_t(row * shape[1] + head)]) other(row, head, d) = array(row, head, d);
        array = std::move(other);
    };
    spoil(task.query, sees);
    spoil(task.grad_out, sees);
    spoil(task.grad_lse, sees);
    spoil(task.key, seen);
    spoil(task.value, seen);
}

template <class T>
void make_narrow(Task<T>& task, Stored stored, bool keeps_out) {
    task.stored = stored, task.keeps_out = keeps_out;
    for (const auto& [array, narrowed] : {std::pair{&task.query, &task.narrow_query}, {&task.key, &task.narrow_key},
                                          {&task.value, &task.narrow_value}, {&task.grad_out, &task.narrow_grad_out}}) {
        *narrowed = narrow(*array, stored);
        widen(*narrowed, stored, *array);
    }
}

template <class T>
Task<T> draw_task(Draw& draw, Wanted wanted = {}) {
    Task<T> task;
    draw_spans(draw, task, wanted);
    Sizes& s = task.sizes;
    s.kv_heads = 1 + draw.upto(2);
    s.heads = s.kv_heads * draw.among({1, 1, 2, 3, 5});
    s.dim = draw.one_in(3) ? draw.among({0, 1, 16, 17, 32, 64, 80}) : draw.upto(20);
    s.value_dim = draw.one_in(3) ? draw.among({0, 1, 16, 17, 32, 64, 80}) : draw.upto(20);
    task.scale = draw.one_in(4) ? 1.0 : 0.3;
    task.softcap = draw.one_in(4) ? 1.5 : 0;
    task.dropout = draw.one_in(4) ? 0.3 : 0;
    task.seed = draw.random();
    draw_mask(draw, task);
    if (!task.has_bias && draw.one_in(4)) draw_distances(draw, task);
    task.wants_bias = !draw.one_in(4);
    task.has_grad_lse = draw.one_in(2);
    if (draw.one_in(3)) {
        task.has_sinks = true;
        task.sinks = Array<T>({s.heads, 1, 1, 1}, {1, 0, 0, 0});
        fill_normal(draw.random, task.sinks);
        if (draw.one_in(3)) task.sinks(0) = -std::numeric_limits<T>::infinity();
    }
    draw_arrays(draw, task);
    if (draw.one_in(2)) poison(draw, task);
    if (sizeof(T) == sizeof(float) && draw.one_in(2))
        make_narrow(task, draw.one_in(2) ? Stored::bfloat16 : Stored::float16, draw.one_in(2));
    return task;
}

}  // namespace regard::tests
