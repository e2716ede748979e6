// Tasks large enough for several threads, several of them at once, against the plain loop and bit for bit among each other.
#include <thread>

#include "../pool.h"
#include "draw.h"
#include "drive.h"

namespace regard::tests {
namespace {

template <class T>
Task<T> large(uint64_t seed, long kind, Stored stored) {
    Draw draw(seed);
    Task<T> task;
    task.count = 3;
    const long length = 150 + draw.upto(150);
    const bool shared = kind == 1;
    task.spans = {0, length, length + 70,                      // the queries
                  length, 70, 2,                               //
                  0, shared ? 0 : 400, shared ? 0 : 500,       // the keys
                  300, shared ? 300 : 90, shared ? 200 : 800,  //
                  300 - length, 20, 700};
    task.sizes = {length + 72, 1300, 4, 2, 16, 17};
    task.scale = 0.25;
    if (kind == 2) task.boxes_of_each = 1;
    for (int n = 0; n < 3 && kind == 2; ++n)
        for (const int64_t bound : {-(1L << 40), 1L << 40, -(1L << 40), 1L << 40, -(1L << 40), 1L}) task.boxes.push_back(bound);
    if (kind == 3) draw_distances(draw, task);
    if (kind == 4) {
        task.has_bias = true;
        task.bias = Array<T>({1, 4, 1, 1}, {4, 1, 1, 1});
        fill_normal(draw.random, task.bias);
    }
    if (kind == 5) task.dropout = 0.2;
    draw_arrays(draw, task);
    if (stored != Stored::whole) make_narrow(task, stored, seed % 2);
    return task;
}

template <class T>
bool same_bits(const Array<T>& one, const Array<T>& other) {
    const auto& shape = one.shape;
    for (long a = 0; a < shape[0]; ++a)
        for (long b = 0; b < shape[1]; ++b)
            for (long c = 0; c < shape[2]; ++c)
                for (long d = 0; d < shape[3]; ++d)
                    if (one(a, b, c, d) != other(a, b, c, d)) return false;
    return true;
}

template <class T>
void check(uint64_t seed, long kind, Stored stored = Stored::whole) {
    const Task<T> task = large<T>(seed, kind, stored);
    const Results expected = plain(task);
    std::mt19937_64 random(seed);
    Found<T> first;
    for (const int threads : {1, 2, 3, 4, 4}) {
        Problem problem = problem_of(task);
        Found<T> found = outputs_for(task, random);
        compute(task, problem, found, threads);
        const std::string where = "kind " + std::to_string(kind) + " on " + std::to_string(threads) + " threads";
        compare(where, task, found, expected);
        found.rows = {0, task.sizes.total_queries - 1};
        look(task, problem, found, 3, threads);
        compare_looks(where, found, expected);
        if (threads == 1) {
            first = std::move(found);
            continue;
        }
        for (const auto part : {&Found<T>::out, &Found<T>::lse, &Found<T>::query, &Found<T>::key, &Found<T>::value, &Found<T>::bias,
                                &Found<T>::distances, &Found<T>::key_sums})
            if (!same_bits(first.*part, found.*part)) fail(where + " gives other bits than one thread");
    }
}

}  // namespace
}  // namespace regard::tests

int main(int count, char** words) {
    using namespace regard;
    using namespace regard::tests;
    const long rounds = count > 1 ? std::atol(words[1]) : 1;
    for (long round = 0; round < rounds; ++round) {
        for (long kind = 0; kind < 6; ++kind)
            for (const Stored stored : {Stored::whole, Stored::bfloat16, Stored::float16}) check<float>(uint64_t(round), kind, stored);
        // Callers beside each other: one has the pool, the others work alone.
        std::vector<std::thread> callers;
        for (long kind = 0; kind < 4; ++kind)
            callers.emplace_back([=] { kind % 2 ? check<float>(uint64_t(round), kind) : check<double>(uint64_t(round), kind); });
        for (auto& caller : callers) caller.join();
    }
    std::printf("%ld rounds on the %s pool\n", rounds, pool_name());
}
