// Six fixed calls on one thread, for counting instructions: `instructions NAME ROUNDS` makes one of them ROUNDS times.
//
// The difference between two numbers of rounds is what one call costs.
#include <cstring>

#include "draw.h"
#include "drive.h"

namespace regard::tests {
namespace {

constexpr int64_t far = 1L << 40;

Task<float> task_of(std::vector<int64_t> lengths, std::vector<int64_t> key_lengths, Sizes sizes, std::vector<int64_t> box) {
    Task<float> task;
    task.count = long(lengths.size());
    std::vector<int64_t> q_begin, k_begin, start;
    for (size_t n = 0; n < lengths.size(); ++n) {
        q_begin.push_back(sizes.total_queries);
        k_begin.push_back(sizes.total_keys);
        start.push_back(key_lengths[n] - lengths[n]);
        sizes.total_queries += lengths[n];
        sizes.total_keys += key_lengths[n];
        task.boxes.insert(task.boxes.end(), box.begin(), box.end());
    }
    for (const auto* row : {&q_begin, &lengths, &k_begin, &key_lengths, &start})
        task.spans.insert(task.spans.end(), row->begin(), row->end());
    task.boxes_of_each = box.empty() ? 0 : 1;
    task.sizes = sizes;
    task.scale = 0.125;
    return task;
}

template <class T>
Array<T> by_rows(long rows, long heads, long size) {
    return Array<T>({rows, heads, size, 1}, {heads * size, size, 1, 0});
}

struct Kind {
    const char* name;
    bool backward_too;
    Task<float> (*make)();
};

const std::vector<int64_t> causal{-far, far, -far, far, -far, 1};
const std::vector<int64_t> ragged{7, 23, 64, 12, 31, 5, 40, 18, 90, 3, 27, 55};

const Kind kinds[] = {
    {"ragged_forward", false, [] { return task_of(ragged, ragged, {0, 0, 4, 4, 64, 64}, causal); }},
    {"ragged_both", true, [] { return task_of(ragged, ragged, {0, 0, 4, 4, 64, 64}, causal); }},
    {"dense_512_forward", false, [] { return task_of({512}, {512}, {0, 0, 2, 2, 64, 64}, {}); }},
    {"causal_512_both", true, [] { return task_of({512}, {512}, {0, 0, 2, 2, 64, 64}, causal); }},
    {"decode_1_4096", false, [] { return task_of({1}, {4096}, {0, 0, 4, 4, 64, 64}, causal); }},
    {"window_64_of_1024_both", true, [] { return task_of({1024}, {1024}, {0, 0, 1, 1, 64, 64}, {-far, far, -far, far, -63, 1}); }},
};

void run(const Kind& kind, long rounds) {
    Task<float> task = kind.make();
    const Sizes& s = task.sizes;
    task.query = by_rows<float>(s.total_queries, s.heads, s.dim);
    task.key = by_rows<float>(s.total_keys, s.kv_heads, s.dim);
    task.value = by_rows<float>(s.total_keys, s.kv_heads, s.value_dim);
    task.grad_out = by_rows<float>(s.total_queries, s.heads, s.value_dim);
    std::mt19937_64 random(1);
    for (const auto* array : {&task.query, &task.key, &task.value, &task.grad_out}) fill_normal(random, *array);
    task.has_grad_lse = false;
    Problem problem = problem_of(task);
    Found<float> found;
    found.out = by_rows<float>(s.total_queries, s.heads, s.value_dim);
    found.lse = by_rows<float>(s.total_queries, s.heads, 1);
    found.query = by_rows<float>(s.total_queries, s.heads, s.dim);
    found.key = by_rows<float>(s.total_keys, s.kv_heads, s.dim);
    found.value = by_rows<float>(s.total_keys, s.kv_heads, s.value_dim);
    for (long round = 0; round < rounds; ++round) compute(task, problem, found, 1, kind.backward_too);
}

}  // namespace
}  // namespace regard::tests

int main(int count, char** words) {
    using namespace regard::tests;
    if (count == 1) {
        for (const Kind& kind : kinds) std::printf("%s\n", kind.name);
        return 0;
    }
    for (const Kind& kind : kinds)
        if (!std::strcmp(kind.name, words[1])) {
            run(kind, count > 2 ? std::atol(words[2]) : 1);
            return 0;
        }
    std::fprintf(stderr, "there is no case called '%s'\n", words[1]);
    return 1;
}
