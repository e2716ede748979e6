// A task computed by the kernel, and compared with the plain result. The kernel's own interface is used in this file alone.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

#include "../run.h"
#include "plain.h"

namespace regard::tests {

template <class T>
constexpr Element element = sizeof(T) == 4 ? Element::float32 : Element::float64;

template <class T>
Rows rows_of(const Array<T>& array) {
    return {array.data(), array.strides[0], array.strides[1]};
}

template <class T>
Rows rows_of(const Array<T>& array, const Array<uint16_t>& narrow, Stored stored) {
    return stored == Stored::whole ? rows_of(array) : Rows{narrow.data(), narrow.strides[0], narrow.strides[1], stored};
}

template <class T>
Dense dense_of(const Array<T>& array) {
    Dense dense{array.data()};
    long* strides[] = {&dense.sequence_stride, &dense.head_stride, &dense.row_stride, &dense.key_stride};
    for (int axis = 0; axis < 4; ++axis) *strides[axis] = array.shape[axis] == 1 ? 0 : array.strides[axis];
    dense.rows = array.shape[2] == 1 ? std::numeric_limits<long>::max() : array.shape[2];
    dense.keys = array.shape[3] == 1 ? std::numeric_limits<long>::max() : array.shape[3];
    return dense;
}

// What the kernel wrote; poisoned before.
template <class T>
struct Found {
    Array<T> out, lse, query, key, value, bias, distances, sinks, weights, key_sums, top_weights;
    Array<int64_t> top_keys;
    std::vector<int64_t> rows;  // whose weights were wanted
};

template <class T>
Array<T> like(const Array<T>& array) {
    return Array<T>(array.shape, array.strides, T(0));
}

template <class T>
Found<T> outputs_for(const Task<T>& task, std::mt19937_64& random) {
    const Sizes& s = task.sizes;
    const T poison = std::numeric_limits<T>::quiet_NaN();
    Found<T> found;
    found.out = rows_array<T>(random, s.total_queries, s.heads, s.value_dim, false, poison);
    found.lse = Array<T>({s.total_queries, s.heads, 1, 1}, {s.heads, 1, 0, 0}, poison);
    found.query = rows_array<T>(random, s.total_queries, s.heads, s.dim, false, poison);
    found.key = rows_array<T>(random, s.total_keys, s.kv_heads, s.dim, false, poison);
    found.value = rows_array<T>(random, s.total_keys, s.kv_heads, s.value_dim, false, poison);
    found.bias = like(task.bias);
    found.distances = like(task.distances);
    found.sinks = Array<T>(task.sinks.shape, task.sinks.strides, poison);
    return found;
}

template <class T>
Problem problem_of(const Task<T>& task) {
    return Problem(task.spans.data(), task.count, task.sizes, task.scale, task.softcap, task.dropout, task.step, task.boxes.data(),
                   task.boxes_of_each);
}

// The mask's arrays belong to the call, not to the problem that calls share.
template <class T>
void set_mask(const Task<T>& task, Problem& problem) {
    if (!task.has_intervals) return;
    static const int32_t nothing = 0;
    const auto& shape = task.starts.shape;
    const int32_t *starts = shape[2] ? task.starts.data() : &nothing, *ends = shape[2] ? task.ends.data() : &nothing;
    problem.intervals = {starts, ends, shape[1], shape[2], task.by_head};
}

template <class T>
Call call_of(const Task<T>& task, const Problem& problem) {
    Call call{};
    if (task.has_mask) call.mask = dense_of(task.mask);
    call.problem = &problem;
    call.query = rows_of(task.query, task.narrow_query, task.stored);
    call.key = rows_of(task.key, task.narrow_key, task.stored);
    call.value = rows_of(task.value, task.narrow_value, task.stored);
    if (task.has_bias) call.bias = dense_of(task.bias);
    const auto& distances = task.distances;
    if (task.has_distances) call.distances = {distances.data(), distances.strides[0], task.first_distance, distances.shape[1]};
    if (task.has_sinks) call.sinks = task.sinks.data();
    call.seed = task.seed;
    return call;
}

// An array that the kernel writes: itself, or narrow numbers that become its own at the end.
template <class T>
class Written {
   public:
    Written(const Array<T>& array, Stored stored) : array_(array), stored_(stored) {
        if (stored != Stored::whole) narrow_ = narrow(array, stored);
    }
    ~Written() {
        if (stored_ != Stored::whole) widen(narrow_, stored_, array_);
    }
    Rows rows() const { return rows_of(array_, narrow_, stored_); }

   private:
    const Array<T>& array_;
    Array<uint16_t> narrow_;
    Stored stored_;
};

template <class T>
void compute(const Task<T>& task, Problem& problem, Found<T>& found, int threads, bool backward_too = true) {
    set_mask(task, problem);
    const Kernels& kernels = kernels_of(element<T>);
    Call call = call_of(task, problem);
    const Written<T> out(found.out, task.keeps_out ? Stored::whole : task.stored);
    call.out = out.rows(), call.lse = found.lse.data();
    forward(call, problem.forward_work(kernels.panel, kernels.few), kernels, threads);
    if (!backward_too) return;

    Gradients gradients{};
    gradients.out = rows_of(task.grad_out, task.narrow_grad_out, task.stored);
    if (task.has_grad_lse) gradients.lse = task.grad_lse.data();
    const Written<T> query(found.query, task.stored), key(found.key, task.stored), value(found.value, task.stored);
    gradients.query = query.rows(), gradients.key = key.rows(), gradients.value = value.rows();
    if (task.has_sinks) gradients.sinks = found.sinks.data();
    if (task.has_bias && task.wants_bias) gradients.bias = dense_of(found.bias);
    if (task.has_distances && task.wants_bias) {
        gradients.distances = call.distances;
        gradients.distances.values = found.distances.data();
    }
    backward(call, gradients, problem.backward_work(kernels.panel, chains_of(call, gradients)), kernels, threads);
}

// `found.rows` is set; rows, lists of `top` and sums over keys are looked at.
template <class T>
void look(const Task<T>& task, Problem& problem, Found<T>& found, long top, int threads) {
    const Sizes& s = task.sizes;
    long width = 0;
    for (long n = 0; n < task.count; ++n) width = std::max(width, task.k_length(n));
    const long rows = long(found.rows.size());
    found.weights = Array<T>({rows, s.heads, width, 1}, {s.heads * width, width, 1, 0});
    found.key_sums = Array<T>({s.total_keys, s.heads, 1, 1}, {s.heads, 1, 0, 0});
    found.top_weights = Array<T>({s.total_queries, s.heads, top, 1}, {s.heads * top, top, 1, 0});
    found.top_keys = Array<int64_t>({s.total_queries, s.heads, top, 1}, {s.heads * top, top, 1, 0}, -1);
    const Kernels& kernels = kernels_of(element<T>);
    Call call = call_of(task, problem);
    call.lse = found.lse.data();
    const Inspection wanted{found.rows.data(),     rows, found.weights.data(),  width,
                            found.key_sums.data(), top,  found.top_keys.data(), found.top_weights.data()};
    inspect(call, wanted, problem.backward_work(kernels.panel, {}), kernels, threads);
}

[[noreturn]] inline void fail(const std::string& what) {
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
    std::fflush(stderr);
    std::abort();
}

template <class T>
void compare(const std::string& where, const char* name, const Array<T>& found, const Array<double>& expected, double tolerance) {
    double size = 1;
    for (const double number : expected)
        if (std::isfinite(number)) size = std::max(size, std::abs(number));
    const auto& shape = expected.shape;
    for (long a = 0; a < shape[0]; ++a)
        for (long b = 0; b < shape[1]; ++b)
            for (long c = 0; c < shape[2]; ++c)
                for (long d = 0; d < shape[3]; ++d) {
                    const double one = double(found(a, b, c, d)), other = expected(a, b, c, d);
                    if (one == other || std::abs(one - other) <= tolerance * size) continue;
                    fail(where + ": " + name + "[" + std::to_string(a) + ", " + std::to_string(b) + ", " + std::to_string(c) + ", " +
                         std::to_string(d) + "] is " + std::to_string(one) + ", expected " + std::to_string(other));
                }
}

template <class T>
constexpr double tolerance = sizeof(T) == 4 ? 1e-3 : 1e-9;

template <class T>
void compare(const std::string& where, const Task<T>& task, const Found<T>& found, const Results& expected) {
    // Half a unit in the last place of the largest number, and as much for weights that the matrix unit rounds; of gradients a little
    // more, which start from the rounded output, or from one of rounded weights.
    const double unit = task.stored == Stored::bfloat16 ? 0x1p-7 : task.stored == Stored::float16 ? 0x1p-10 : 0;
    const bool rounds = instruction_set() == "amx" && task.stored == Stored::bfloat16;
    const double own = tolerance<T> + unit * (rounds ? 1 : 0.5), own_grads = tolerance<T> + unit * (rounds || !task.keeps_out ? 2 : 0.5);
    compare(where, "out", found.out, expected.out, own);
    compare(where, "lse", found.lse, expected.lse, tolerance<T>);
    compare(where, "query", found.query, expected.query, own_grads);
    compare(where, "key", found.key, expected.key, own_grads);
    compare(where, "value", found.value, expected.value, own);
    const double own_sums = tolerance<T> + (rounds || !task.keeps_out ? unit : 0);  // of what the output says of a sum over keys
    if (task.has_bias && task.wants_bias) compare(where, "bias", found.bias, expected.bias, own_sums);
    if (task.has_distances && task.wants_bias) compare(where, "distances", found.distances, expected.distances, own_sums);
    if (task.has_sinks) compare(where, "sinks", found.sinks, expected.sinks, own_sums);
}

template <class T>
void compare_looks(const std::string& where, const Found<T>& found, const Results& expected) {
    compare(where, "key sums", found.key_sums, expected.key_sums, tolerance<T>);
    const auto& shape = found.top_keys.shape;
    for (size_t i = 0; i < found.rows.size(); ++i)
        for (long head = 0; head < shape[1]; ++head)
            for (long key = 0; key < expected.weights.shape[2]; ++key)
                if (std::abs(double(found.weights(long(i), head, key)) - expected.weights(found.rows[i], head, key)) > tolerance<T>)
                    fail(where + ": a row's weights");
    for (long query = 0; query < shape[0]; ++query)
        for (long head = 0; head < shape[1]; ++head) {
            std::multiset<double, std::greater<>> all;
            for (long key = 0; key < expected.weights.shape[2]; ++key) all.insert(expected.weights(query, head, key));
            auto next = all.begin();
            for (long i = 0; i < shape[2]; ++i) {
                const long key = found.top_keys(query, head, i);
                const double weight = double(found.top_weights(query, head, i)), best = next == all.end() ? 0 : *next++;
                if (key < -1 || key >= expected.weights.shape[2]) fail(where + ": a top key outside");
                if (std::abs(weight - best) > tolerance<T>) fail(where + ": a top weight");
                if (key >= 0 && std::abs(weight - expected.weights(query, head, key)) > tolerance<T>) fail(where + ": a top key");
            }
        }
}

}  // namespace regard::tests
