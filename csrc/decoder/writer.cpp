#include "writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "../pool.h"

namespace regard::decoder {

namespace {

constexpr long few_rows = 16;      // of a thread: with fewer, the vocabulary is shared out, and not the rows
constexpr long encode_rows = 48;   // of a task, unless one sequence is longer

[[noreturn]] void refuse(const char* what) { throw std::invalid_argument(what); }

// A lambda over tasks, as the pool's plain function.
template <class Task>
void on_threads(long count, int threads, Task task) {
    run_tasks(count, threads, [](void* context, long index, int worker) { (*static_cast<Task*>(context))(index, worker); }, &task);
}

class Room {
   public:
    Room(const Weights& weights, long rows, long longest, int threads)
        : weights_(weights),
          stride_((weights.functions().room(weights.stack(), rows, longest) + 4095) / 4096 * 4096),
          block_(weights.take_room(stride_ * size_t(threads))) {}
    ~Room() { weights_.give_back(std::move(block_)); }
    Room(const Room&) = delete;
    void operator=(const Room&) = delete;
    void* of(int worker) const { return block_.as<char>() + stride_ * size_t(worker); }

   private:
    const Weights& weights_;
    size_t stride_;
    Block block_;
};

// The first of `count` things that share `part` of `parts` has.
long share(long count, long parts, long part) { return count * part / parts; }

}  // namespace

void encode(const Weights& weights, const int32_t* ids, const int64_t* offsets, long sequences, float* hidden, int threads) {
    long longest = 1;
    std::vector<long> first{0};
    for (long n = 0; n < sequences; ++n) {
        longest = std::max(longest, long(offsets[n + 1] - offsets[n]));
        if (n > first.back() && offsets[n + 1] - offsets[first.back()] > encode_rows) first.push_back(n);
    }
    first.push_back(sequences);
    for (int64_t i = 0; i < offsets[sequences]; ++i)
        if (ids[i] < 0 || ids[i] >= weights.vocabulary()) refuse("a token must be in the vocabulary");
    const auto table = weights.turns(longest);
    const Room room(weights, encode_rows, longest, threads);
    on_threads(long(first.size()) - 1, threads, [&](long task, int worker) {
        weights.functions().encode(weights.stack(), weights.turns_at(*table), ids, offsets + first[task], first[task + 1] - first[task],
                                   longest, hidden + offsets[first[task]] * weights.stack().sizes.dim, room.of(worker));
    });
}

Writer::Writer(std::shared_ptr<const Weights> weights, long slots)
    : weights_(std::move(weights)), stack_(weights_->stack()), slots_(slots) {
    if (slots < 1) refuse("a source needs at least one slot");
    if (!stack_.output.words) refuse("a stack that writes needs an output");
}

void Writer::admit(const int64_t* numbers, long count, const float* hidden, const int64_t* offsets, int threads) {
    const Sizes& s = stack_.sizes;
    if (s.context != (hidden != nullptr)) refuse("a stack with a context needs one for every source, and one without takes none");
    std::vector<Held*> added;
    std::vector<float*> values;
    long longest = 1;
    for (long n = 0; n < count; ++n) {
        if (held_.count(numbers[n])) refuse("a source is being written already");
        auto held = std::make_unique<Held>();
        held->source.slots = slots_;
        if (s.context) {
            const long length = offsets[n + 1] - offsets[n], lanes = weights_->functions().lanes;
            longest = std::max(longest, length);
            const long keys = s.layers * s.kv_heads * s.head_dim * ((length + lanes - 1) / lanes * lanes);
            held->context = Block(size_t(keys + s.layers * length * s.kv_heads * stack_.head_room) * sizeof(float));
            std::memset(held->context.as<char>(), 0, held->context.bytes());
            held->source.length = length;
            held->source.keys = held->context.as<float>();
            values.push_back(held->context.as<float>() + keys);
            held->source.values = values.back();
        }
        added.push_back(held.get());
        held_[numbers[n]] = std::move(held);
    }
    if (!s.context) return;
    const Room room(*weights_, longest, longest, threads);
    on_threads(count, threads, [&](long n, int worker) {
        weights_->functions().remember(stack_, hidden + offsets[n] * s.dim, added[n]->source.length, added[n]->context.as<float>(),
                                       values[n], room.of(worker));
    });
}

void Writer::allow(const std::vector<int32_t>& ids) {
    for (const int32_t id : ids)
        if (id < 0 || id >= weights_->stack().output.columns) refuse("an allowed id must be in the vocabulary");
    allowed_ = ids;
    stack_.output = ids.empty() ? weights_->stack().output : weights_->gathered(allowed_, allowed_words_);
}

// Room for so many positions: pages, and a longer table of ancestors.
void Writer::grow(Held& held, long positions) {
    const Sizes& s = stack_.sizes;
    const size_t bytes = size_t(s.layers * 2 * page * slots_ * s.kv_heads * stack_.head_room) * sizeof(float);
    while (long(held.pages.size()) * page < positions) {
        if (free_pages_.empty()) free_pages_.emplace_back(bytes);
        held.pages.push_back(std::move(free_pages_.back()));
        free_pages_.pop_back();
        held.addresses.push_back(held.pages.back().as<float>());
    }
    if (positions > held.room) {
        const long room = std::max(2 * positions, 2 * page);
        std::vector<int32_t> wider(size_t(slots_ * room), 0);
        for (long slot = 0; slot < slots_ && held.room; ++slot)
            std::copy_n(held.ancestors.data() + slot * held.room, held.room, wider.data() + slot * room);
        held.ancestors.swap(wider);
        held.following.assign(held.ancestors.size(), 0);
        held.room = room;
    }
    held.source.pages = held.addresses.data();
    held.source.ancestors = held.ancestors.data();
    held.source.ancestor_room = held.room;
}

void Writer::read(int64_t number, const int32_t* tokens, long count) {
    const auto found = held_.find(number);
    if (found == held_.end() || found->second->rows) refuse("only a source that was admitted and not yet written for can read");
    Held& held = *found->second;
    for (long i = 0; i < count; ++i)
        if (tokens[i] < 0 || tokens[i] >= weights_->vocabulary()) refuse("a token must be in the vocabulary");
    if (!count) return;
    grow(held, held.positions + count);
    std::vector<Row> rows(static_cast<size_t>(count));
    for (long i = 0; i < count; ++i) rows[i] = {&held.source, 0, held.positions + i, tokens[i]};
    held.positions += count;
    const long longest = std::max(held.positions, held.source.length);
    const auto table = weights_->turns(held.positions);
    const Room room(*weights_, count, longest, 1);
    std::vector<float> hidden(size_t(count * stack_.sizes.dim + 32));
    weights_->functions().write(stack_, weights_->turns_at(*table), rows.data(), count, longest, hidden.data(), room.of(0));
}

std::vector<Writer::Place> Writer::placed(const int64_t* tokens, const int64_t* sources, const int64_t* parents, long rows) {
    std::vector<Place> places(static_cast<size_t>(rows));
    for (auto& [number, held] : held_) held->rows = 0;
    Held* held = nullptr;
    for (long r = 0; r < rows; ++r) {
        if (tokens[r] < 0 || tokens[r] >= weights_->vocabulary()) refuse("a token must be in the vocabulary");
        if (r == 0 || sources[r] != sources[r - 1]) {
            const auto found = held_.find(sources[r]);
            if (found == held_.end()) refuse("a row's source was not admitted, or is done");
            held = found->second.get();
            if (held->rows) refuse("the rows of a source must stand together");
        }
        if (held->rows == slots_) refuse("a source has more rows than slots");
        if (parents[r] < -1 || parents[r] >= long(before_.size()) || (parents[r] >= 0 && before_[parents[r]].held != held))
            refuse("a parent must be a row of the step before, of the same source");
        places[r] = {held, held->rows++};
    }
    return places;
}

void Writer::forget_others() {
    for (auto it = held_.begin(); it != held_.end();) {
        if (it->second->rows) {
            ++it;
            continue;
        }
        for (Block& held_page : it->second->pages) free_pages_.push_back(std::move(held_page));
        it = held_.erase(it);
    }
}

void Writer::step(const int64_t* tokens, const int64_t* sources, const int64_t* parents, long rows, const Answer& answer, int threads) {
    const long columns = stack_.output.columns;
    if (answer.count < 1 || answer.count > columns) refuse("there must be at least one candidate, and no more than ids");
    if (answer.end < 0 || answer.end >= weights_->stack().output.columns) refuse("the end must be in the vocabulary");
    std::vector<Place> places = placed(tokens, sources, parents, rows);
    rows_.resize(size_t(rows));
    for (long r = 0; r < rows; ++r) {
        Held& held = *places[r].held;
        if (places[r].slot == 0) grow(held, held.positions + 1);
        int32_t* mine = held.following.data() + places[r].slot * held.room;
        // Before a source's first step all that stands there was read, in slot 0.
        const long parent = parents[r] < 0 ? 0 : before_[parents[r]].slot;
        std::memcpy(mine, held.ancestors.data() + parent * held.room, size_t(held.positions) * sizeof(int32_t));
        mine[held.positions] = int32_t(places[r].slot);
        rows_[r] = {&held.source, places[r].slot, held.positions, tokens[r]};
    }
    forget_others();
    for (auto& [number, held] : held_) {
        held->ancestors.swap(held->following);
        held->source.ancestors = held->ancestors.data();
        ++held->positions;
    }
    before_ = std::move(places);
    if (rows) run(rows, answer, threads);
}

void Writer::run(long rows, const Answer& answer, int threads) {
    const Functions& f = weights_->functions();
    long longest = 1;
    for (const Row& row : rows_) longest = std::max({longest, row.position + 1, row.source->length});
    const long columns = stack_.output.columns, blocks = (columns + block_columns - 1) / block_columns;
    const long dim = stack_.sizes.dim;
    hidden_.resize(size_t(rows * dim + 32));
    most_.resize(size_t(rows * blocks));
    sums_.resize(size_t(rows * blocks));
    long end = answer.end;
    if (!allowed_.empty()) {
        const auto found = std::find(allowed_.begin(), allowed_.end(), int32_t(answer.end));
        end = found == allowed_.end() ? -1 : found - allowed_.begin();
    }
    std::fill_n(answer.end_log_p, rows, -std::numeric_limits<float>::infinity());
    const Choice choice{hidden_.data(), answer.count, allowed_.empty() ? nullptr : allowed_.data(), end, most_.data(), sums_.data(),
                        answer.end_log_p};
    const auto table = weights_->turns(longest);
    const Turns turns = weights_->turns_at(*table);
    const Room room(*weights_, rows, longest, threads);
    const bool few = rows < few_rows * threads;
    const long tasks = std::min<long>(threads, rows), parts = few ? std::min<long>(threads, blocks) : 1;
    part_scores_.resize(size_t(parts * rows * answer.count));
    part_numbers_.resize(part_scores_.size());
    on_threads(tasks, threads, [&](long task, int worker) {
        const long begin = share(rows, tasks, task), count = share(rows, tasks, task + 1) - begin;
        f.write(stack_, turns, rows_.data() + begin, count, longest, hidden_.data() + begin * dim, room.of(worker));
        if (!few)
            f.choose(stack_, choice, begin, count, 0, blocks, part_scores_.data() + begin * answer.count,
                     part_numbers_.data() + begin * answer.count, room.of(worker));
    });
    if (few)
        on_threads(parts, threads, [&](long part, int worker) {
            f.choose(stack_, choice, 0, rows, share(blocks, parts, part), share(blocks, parts, part + 1),
                     part_scores_.data() + part * rows * answer.count, part_numbers_.data() + part * rows * answer.count, room.of(worker));
        });
    join(rows, parts, answer);
}

// The parts' best become the best of all, and scores log-probabilities. Of equal scores the part that stands first wins.
void Writer::join(long rows, long parts, const Answer& answer) {
    const long blocks = long(most_.size()) / rows, count = answer.count;
    std::vector<long> taken(static_cast<size_t>(parts));
    for (long r = 0; r < rows; ++r) {
        const float* most = most_.data() + r * blocks;
        const float top = *std::max_element(most, most + blocks);
        float sum = 0;
        for (long b = 0; b < blocks; ++b) sum += sums_[size_t(r * blocks + b)] * std::exp(most[b] - top);
        const float whole = top + std::log(sum);
        answer.end_log_p[r] -= whole;
        std::fill(taken.begin(), taken.end(), 0);
        for (long c = 0; c < count; ++c) {
            long best = -1;
            size_t place = 0;
            for (long p = 0; p < parts; ++p) {
                const size_t at = size_t((p * rows + r) * count + taken[p]);
                if (best < 0 || part_scores_[at] > part_scores_[place]) best = p, place = at;
            }
            ++taken[best];
            answer.ids[r * count + c] = part_numbers_[place];
            answer.log_p[r * count + c] = part_scores_[place] - whole;
        }
    }
}

}  // namespace regard::decoder
