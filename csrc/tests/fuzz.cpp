// Random tasks on every instruction set against the plain loop, and spans, boxes and intervals that no task has:
//
//     fuzz SEED COUNT     draws COUNT tasks; the number of a task that fails is told: `fuzz SEED COUNT NUMBER` draws it alone.
//
// Fresh memory is filled with NaN, so that reading what nobody wrote shows.
#include <cstring>
#include <new>
#include <stdexcept>

#include "draw.h"
#include "drive.h"

namespace {

void* filled(void* memory, size_t size) {
    if (!memory) throw std::bad_alloc();
    return std::memset(memory, 0xFF, size);
}

}  // namespace

void* operator new(size_t size) { return filled(std::malloc(size ? size : 1), size); }
void* operator new(size_t size, std::align_val_t alignment) {
    const size_t unit = size_t(alignment), whole = (size + unit - 1) / unit * unit;
    return filled(std::aligned_alloc(unit, whole ? whole : unit), whole);
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
    void* memory = std::malloc(size ? size : 1);
    return memory ? std::memset(memory, 0xFF, size) : nullptr;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace regard::tests {
namespace {

template <class T>
void check_task(const std::string& where, Draw& draw, const Task<T>& task) {
    const Results expected = plain(task);
    for (const std::string& name : instruction_sets()) {
        use_instruction_set(name);
        Problem problem = problem_of(task);
        Found<T> found = outputs_for(task, draw.random);
        const int threads = int(1 + draw.upto(3));
        compute(task, problem, found, threads);
        compare(where + " on " + name, task, found, expected);
        for (long i = draw.upto(3); i > 0 && task.sizes.total_queries; --i) found.rows.push_back(draw.upto(task.sizes.total_queries - 1));
        look(task, problem, found, draw.upto(5), threads);
        compare_looks(where + " on " + name, found, expected);
    }
}

int64_t wild(Draw& draw) {
    const int64_t least = std::numeric_limits<int64_t>::min(), most = std::numeric_limits<int64_t>::max();
    if (draw.one_in(12))
        return draw.among({least, least + 1, -(1L << 40), -(1L << 31), -(1L << 31) - 1, -1, 1L << 31, (1L << 31) - 1, 1L << 32, 1L << 40,
                           most / 2, most - 1, most});
    return draw.upto(12);
}

// Numbers that mean nothing: refused, or computed without a step outside.
void check_nonsense(Draw& draw, long& accepted) {
    Task<float> task;
    task.count = draw.upto(3);
    for (long i = 0; i < 5 * task.count; ++i) task.spans.push_back(wild(draw));
    task.sizes = {draw.upto(12), draw.upto(12), 1 + draw.upto(3), 1 + draw.upto(1), draw.upto(4), draw.upto(4)};
    if (draw.one_in(10)) task.sizes.heads = wild(draw);
    if (draw.one_in(10)) task.sizes.kv_heads = wild(draw);
    task.step = draw.one_in(3) ? draw.upto(100) : 1;
    task.dropout = draw.one_in(4) ? 0.5 : 0;
    if (draw.one_in(2)) {
        task.boxes_of_each = draw.upto(3);
        for (long i = 0; i < 6 * task.count * task.boxes_of_each; ++i) task.boxes.push_back(wild(draw));
    }
    try {
        Problem problem = problem_of(task);
        ++accepted;
        if (!task.boxes_of_each && draw.one_in(2)) {
            long rows = 0;
            for (long n = 0; n < task.count; ++n) rows += task.q_length(n);
            task.has_intervals = true;
            task.by_head = draw.one_in(2);
            const long heads = task.by_head ? task.sizes.heads : 1, count = draw.upto(3);
            task.starts = Array<int32_t>({heads, rows, count, 1}, {rows * count, count, 1, 0});
            task.ends = Array<int32_t>({heads, rows, count, 1}, {rows * count, count, 1, 0});
            for (const Array<int32_t>* ends : {&task.starts, &task.ends})
                for (int32_t& number : *ends) number = int32_t(std::clamp<int64_t>(wild(draw), -(1L << 31), (1L << 31) - 1));
        }
        draw_arrays(draw, task);
        Found<float> found = outputs_for(task, draw.random);
        compute(task, problem, found, 1);
        for (const Array<float>* array : {&found.out, &found.query, &found.key, &found.value}) {
            const auto& shape = array->shape;
            for (long row = 0; row < shape[0]; ++row)
                for (long head = 0; head < shape[1]; ++head)
                    for (long d = 0; d < shape[2]; ++d)
                        if (!std::isfinite((*array)(row, head, d))) fail("nonsense gave a number that is not finite");
        }
    } catch (const std::invalid_argument&) {
    }
}

}  // namespace
}  // namespace regard::tests

int main(int count, char** words) {
    using namespace regard::tests;
    const uint64_t seed = count > 1 ? std::strtoull(words[1], nullptr, 10) : 0;
    const long tasks = count > 2 ? std::atol(words[2]) : 100, only = count > 3 ? std::atol(words[3]) : -1;
    long accepted = 0;
    for (long number = 0; number < tasks; ++number) {
        if (only >= 0 && number != only) continue;
        Draw draw(seed * 1000003 + uint64_t(number));
        const std::string where = "task " + std::to_string(number) + " of seed " + std::to_string(seed);
        if (draw.one_in(2)) check_task(where, draw, draw_task<float>(draw));
        else check_task(where, draw, draw_task<double>(draw));
        for (int i = 0; i < 20; ++i) check_nonsense(draw, accepted);
    }
    std::printf("%ld tasks, and %ld that had no sense but were accepted\n", tasks, accepted);
}
