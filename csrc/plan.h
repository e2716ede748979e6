// A problem as Python holds it, with the work that it has been cut into.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "kernel.h"

namespace regard {

using Integers = nanobind::ndarray<const int64_t, nanobind::c_contig, nanobind::device::cpu>;
using SmallIntegers = nanobind::ndarray<const int32_t, nanobind::ndim<3>, nanobind::c_contig, nanobind::device::cpu>;

class Plan {
   public:
    Plan(const Integers& spans, std::tuple<long, long, long, long, long, long> sizes, double scale, double softcap, double dropout,
         long step, std::optional<Integers> boxes, std::optional<SmallIntegers> starts, std::optional<SmallIntegers> ends)
        : problem(spans.data(), count_of(spans),
                  std::apply([](auto... size) { return Sizes{size...}; }, sizes), scale, softcap, dropout, step,
                  boxes ? boxes->data() : nullptr, boxes_of_each(boxes, count_of(spans))),
          starts_(starts),
          ends_(ends) {
        if (starts.has_value() != ends.has_value()) refuse("intervals need both their starts and their ends");
        if (!starts) return;
        if (boxes) refuse("a plan has boxes or intervals, not both");
        long rows = 0;
        for (long n = 0; n < count_of(spans); ++n) rows += spans.data()[count_of(spans) + n];
        for (size_t axis = 0; axis < 3; ++axis)
            if (starts->shape(axis) != ends->shape(axis)) refuse("starts and ends of intervals must have one shape");
        const long heads = long(starts->shape(0));
        if ((heads != 1 && heads != problem.sizes.heads) || long(starts->shape(1)) != rows)
            refuse("intervals must have shape (1 or heads, queries of all sequences, intervals)");
        problem.intervals = {starts->data(), ends->data(), rows, long(starts->shape(2)), heads != 1};
        if (problem.intervals.count == 0) problem.intervals.starts = problem.intervals.ends = &nothing;
    }

    const Problem::Forward& forward_work(const Kernels& kernels) {
        std::lock_guard<std::mutex> lock(mutex_);
        auto found = forward_.find(kernels.panel);
        if (found == forward_.end()) found = forward_.emplace(kernels.panel, problem.forward_work(kernels.panel, kernels.few)).first;
        return found->second;
    }

    const Problem::Backward& backward_work(long panel, Problem::Chains chains) {
        const long key = panel * 16 + chains.any * 8 + chains.blocks * 4 + chains.heads * 2 + chains.sequences;
        std::lock_guard<std::mutex> lock(mutex_);
        auto found = backward_.find(key);
        if (found == backward_.end()) found = backward_.emplace(key, problem.backward_work(panel, chains)).first;
        return found->second;
    }

    Problem problem;

   private:
    [[noreturn]] static void refuse(const char* what) { throw std::invalid_argument(what); }
    static long count_of(const Integers& spans) {
        if (spans.ndim() != 2 || spans.shape(0) != 5) refuse("spans must have shape (5, sequences)");
        return long(spans.shape(1));
    }
    static long boxes_of_each(const std::optional<Integers>& boxes, long count) {
        if (!boxes) return 0;
        if (boxes->ndim() != 3 || long(boxes->shape(0)) != count || boxes->shape(2) != 6)
            refuse("boxes must have shape (sequences, boxes, 6)");
        return long(boxes->shape(1));
    }
    static constexpr int32_t nothing = 0;

    std::optional<SmallIntegers> starts_, ends_;
    std::mutex mutex_;
    std::map<long, Problem::Forward> forward_;
    std::map<long, Problem::Backward> backward_;
};

}  // namespace regard
