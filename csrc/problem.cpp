#include "problem.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace regard {

namespace {

constexpr long far = 1L << 40;
constexpr long int_limit = std::numeric_limits<int32_t>::max();

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

long clipped(int64_t bound) { return std::clamp<int64_t>(bound, -far, far); }

long counted(long length, long first, long step) { return first < length ? (length - first + step - 1) / step : 0; }

// Joins consecutive units so that each task is worth its start; at most `units` tasks remain.
template <class Units, class Cost>
std::vector<long> cut_into_tasks(const Units& units, Cost cost) {
    constexpr double worthwhile = 4e5;  // multiply-adds: about ten microseconds of one core
    std::vector<long> tasks{0};
    double sum = 0;
    for (size_t u = 0; u < units.size(); ++u) {
        sum += cost(units[u]);
        if (sum >= worthwhile || u + 1 == units.size()) {
            tasks.push_back(long(u) + 1);
            sum = 0;
        }
    }
    return tasks;
}

}  // namespace

Problem::Problem(const int64_t* given, long count, Sizes sizes, double scale, double softcap, double dropout, long step,
                 const int64_t* given_boxes, long boxes_of_each)
    : sizes(sizes), scale(scale), softcap(softcap), dropout(dropout), step(step), boxes_of_each(boxes_of_each) {
    const auto fits = [](long number) { return number >= 0 && number <= int_limit; };
    if (!fits(sizes.total_queries) || !fits(sizes.total_keys))
        refuse("the arrays must have at most 2^31 - 1 rows. Received " + std::to_string(sizes.total_queries) + " queries and " +
               std::to_string(sizes.total_keys) + " keys");
    if (sizes.kv_heads < 1 || sizes.heads < 1 || sizes.heads % sizes.kv_heads || sizes.heads > 1 << 20)
        refuse("the number of query heads must be a multiple of the key heads. Received " + std::to_string(sizes.heads) +
               " and " + std::to_string(sizes.kv_heads));
    if (sizes.dim < 0 || sizes.value_dim < 0 || sizes.dim > 1 << 16 || sizes.value_dim > 1 << 16)
        refuse("head sizes must lie between 0 and 65,536. Received " + std::to_string(sizes.dim) + " and " +
               std::to_string(sizes.value_dim));
    if (step < 1 || step > far) refuse("the step must be at least 1. Received " + std::to_string(step));
    if (!(dropout >= 0 && dropout < 1)) refuse("dropout must be at least 0 and below 1");
    if (boxes_of_each < 0) refuse("there can be no negative number of boxes");
    boxes.reserve(size_t(count * boxes_of_each));
    for (long i = 0; i < count * boxes_of_each; ++i) {
        const int64_t* b = given_boxes + 6 * i;
        boxes.push_back({clipped(b[0]), clipped(b[1]), clipped(b[2]), clipped(b[3]), clipped(b[4]), clipped(b[5])});
    }
    check_and_add(given, count);
    sort_keys();
}

void Problem::check_and_add(const int64_t* given, long count) {
    struct Piece {
        long begin, end, number;
    };
    std::vector<Piece> queries, keys;
    long all_queries = 0, row = 0;
    bool left_out = false;
    for (long n = 0; n < count; ++n) {
        const int64_t q_begin = given[n], q_length = given[count + n], k_begin = given[2 * count + n],
                      k_length = given[3 * count + n], start = given[4 * count + n];
        const auto inside = [](int64_t begin, int64_t length, int64_t total) {
            return begin >= 0 && length >= 0 && begin <= total && length <= total - begin;
        };
        if (!inside(q_begin, q_length, sizes.total_queries))
            refuse("sequence " + std::to_string(n) + " has " + std::to_string(q_length) + " queries from row " +
                   std::to_string(q_begin) + ", but there are " + std::to_string(sizes.total_queries) + " rows");
        if (!inside(k_begin, k_length, sizes.total_keys))
            refuse("sequence " + std::to_string(n) + " has " + std::to_string(k_length) + " keys from row " +
                   std::to_string(k_begin) + ", but there are " + std::to_string(sizes.total_keys) + " rows");
        // Beyond these a query's position decides nothing that it does not decide at them.
        const long query_start = std::clamp<int64_t>(start, -far, far);
        if (q_length) queries.push_back({q_begin, q_begin + q_length, n});
        if (k_length) keys.push_back({k_begin, k_begin + k_length, n});
        all_queries += q_length;
        work_ += q_length * k_length;
        if (q_length && k_length) {
            const long least = query_start - (k_length - 1), most = query_start + q_length - 1;
            const bool none = least_distance > most_distance;
            least_distance = none ? least : std::min(least_distance, least);
            most_distance = none ? most : std::max(most_distance, most);
        }
        // Phases behind the last key hold queries that see nothing: they are written with those of no sequence.
        const long phases = step == 1 ? 1 : std::min(step, std::max(1L, long(k_length)));
        left_out |= phases < step;
        for (long phase = 0; phase < phases; ++phase) {
            const long first = (((phase - query_start) % step) + step) % step;
            const Span span{n,     q_begin, k_begin, first, counted(q_length, first, step), phase, counted(k_length, phase, step),
                            query_start, row};
            if (span.rows || span.keys) spans.push_back(span);
        }
        row += q_length;
    }
    const auto earlier = [](const Piece& a, const Piece& b) { return a.begin < b.begin; };
    std::sort(queries.begin(), queries.end(), earlier);
    for (size_t i = 1; i < queries.size(); ++i)
        if (queries[i].begin < queries[i - 1].end)
            refuse("the queries of sequences " + std::to_string(queries[i - 1].number) + " and " +
                   std::to_string(queries[i].number) + " overlap");
    std::sort(keys.begin(), keys.end(), earlier);
    long covered = 0, reach = 0, begin = -1;
    for (const Piece& piece : keys) {
        if (piece.begin < reach && piece.begin != begin)
            refuse("the keys of sequence " + std::to_string(piece.number) +
                   " overlap others without beginning where they begin");
        covered += std::max(0L, piece.end - std::max(reach, piece.begin));
        reach = std::max(reach, piece.end);
        begin = piece.begin;
    }
    covers_queries = all_queries == sizes.total_queries && !left_out;
    covers_keys = covered == sizes.total_keys;
}

void Problem::sort_keys() {
    span_order.resize(spans.size());
    std::iota(span_order.begin(), span_order.end(), 0L);
    const auto same = [&](long a, long b) {
        return spans[a].k_begin == spans[b].k_begin && spans[a].key_first == spans[b].key_first && spans[a].keys && spans[b].keys;
    };
    std::stable_sort(span_order.begin(), span_order.end(), [&](long a, long b) {
        // Spans without keys stand anywhere and share nothing.
        if (spans[a].k_begin != spans[b].k_begin) return spans[a].k_begin < spans[b].k_begin;
        if (spans[a].key_first != spans[b].key_first) return spans[a].key_first < spans[b].key_first;
        return (spans[a].keys == 0) < (spans[b].keys == 0);
    });
    for (long i = 0; i < long(span_order.size()); ++i) {
        if (!groups.empty() && same(span_order[groups.back().begin], span_order[i])) {
            groups.back().end = i + 1;
            groups.back().keys = std::max(groups.back().keys, spans[span_order[i]].keys);
        } else {
            groups.push_back({i, i + 1, spans[span_order[i]].keys});
        }
    }
}

bool Problem::backward_reads_out() const {
    return std::any_of(spans.begin(), spans.end(), [](const Span& span) { return span.keys > backward_block; });
}

Problem::Forward Problem::forward_work(long panel, long few) const {
    Forward work;
    const auto heads_together = [&](const Span& span) { return lanes_of(span) <= few && span.keys > key_block ? most_heads : 1; };
    const auto ceiling = [](long number, long unit) { return (number + unit - 1) / unit; };
    const auto units_of = [&](long width) {
        long units = 0;
        for (const Span& span : spans) units += ceiling(sizes.kv_heads, heads_together(span)) * ceiling(lanes_of(span), width);
        return units;
    };
    // The more queries a unit has the less often keys are read: as many as leave units for many threads.
    constexpr long enough = 32;
    long width = most_panels * panel;
    while (width > panel && units_of(width) < enough) width /= 2;
    const long whole = units_of(width);
    for (long s = 0; s < long(spans.size()); ++s) {
        const Span& span = spans[s];
        const long lanes = lanes_of(span), together = heads_together(span);
        if (!lanes) continue;
        // Few queries and many keys: the keys are cut too.
        constexpr long least_keys = 4 * key_block;
        long parts = 1;
        if (lanes <= panel && whole < enough) parts = std::max(1L, std::min(span.keys / least_keys, ceiling(enough, std::max(1L, whole))));
        const long keys = ceiling(span.keys, parts * key_block) * key_block;
        for (long j = 0; j < sizes.kv_heads; j += together) {
            const long last = std::min(j + together, sizes.kv_heads);
            // Units of nearly one size.
            const long pieces = ceiling(lanes, width), size = ceiling(lanes, pieces);
            if (parts == 1) {
                for (long lane = 0; lane < lanes; lane += size)
                    work.units.push_back({s, j, last, lane, std::min(lane + size, lanes), 0, span.keys, -1});
                continue;
            }
            const long first = work.partials;
            long count = 0;
            for (long key = 0; key < span.keys; key += keys, ++count, work.partials += last - j)
                work.units.push_back({s, j, last, 0, lanes, key, std::min(key + keys, span.keys), work.partials});
            for (long head = j; head < last; ++head) work.joins.push_back({s, head, lanes, first + head - j, last - j, count});
        }
    }
    const double pair = double(sizes.dim + sizes.value_dim);
    work.tasks = cut_into_tasks(work.units, [&](const ForwardUnit& unit) {
        return double(unit.kv_head_end - unit.kv_head) * double(unit.lane_end - unit.lane) * double(unit.key_end - unit.key + 8) * pair;
    });
    return work;
}

Problem::Backward Problem::backward_work(long panel, Chains chains) const {
    Backward work;
    work.turn_begin.resize(spans.size(), -1);
    for (long s = 0; s < long(spans.size()); ++s)
        if (spans[s].keys > backward_block) {
            work.turn_begin[s] = work.turns;
            work.turns += (lanes_of(spans[s]) + panel - 1) / panel * sizes.kv_heads;
        }
    for (long g = 0; g < long(groups.size()); ++g)
        for (long block = 0; block == 0 || block * backward_block < groups[g].keys; ++block)
            for (long j = 0; j < sizes.kv_heads; ++j) work.units.push_back({g, j, block});
    const auto cost = [&](const BackwardUnit& unit) {
        const Group& group = groups[unit.group];
        double sum = 0;
        for (long i = group.begin; i < group.end; ++i) {
            const Span& span = spans[span_order[i]];
            const long keys = std::clamp(span.keys - unit.block * backward_block, 0L, backward_block);
            sum += double(lanes_of(span)) * double(keys + 8);
        }
        return sum * double(3 * sizes.dim + 2 * sizes.value_dim);
    };
    if (!chains.any) {
        work.tasks = cut_into_tasks(work.units, cost);
        return work;
    }
    // Units that add to the same numbers of a bias's gradient form one task, in which they follow each other. A unit waits for
    // earlier blocks of its keys, which this order puts into earlier tasks or earlier in the same one.
    const auto place = [&](const BackwardUnit& unit) {
        return std::array<long, 3>{chains.blocks ? 0 : unit.block, chains.heads ? 0 : unit.kv_head,
                                   chains.sequences ? 0 : unit.group};
    };
    std::stable_sort(work.units.begin(), work.units.end(),
                     [&](const BackwardUnit& a, const BackwardUnit& b) { return place(a) < place(b); });
    work.tasks.push_back(0);
    for (size_t u = 1; u <= work.units.size(); ++u)
        if (u == work.units.size() || place(work.units[u]) != place(work.units[u - 1])) work.tasks.push_back(long(u));
    return work;
}

}  // namespace regard
