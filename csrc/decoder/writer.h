// Hypotheses being written, one token a call, through all layers of a stack; and whole sequences being encoded.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "weights.h"

namespace regard::decoder {

// Ids of sequences to hidden states (offsets[sequences], dim).
void encode(const Weights& weights, const int32_t* ids, const int64_t* offsets, long sequences, float* hidden, int threads);

// What follows each row: the best `count` ids (rows, count) with their log-probabilities, and that of the end (rows,).
struct Answer {
    long count, end;
    int32_t* ids;
    float *log_p, *end_log_p;
};

class Writer {
   public:
    // At most `slots` hypotheses of each source.
    Writer(std::shared_ptr<const Weights> weights, long slots);
    Writer(const Writer&) = delete;
    void operator=(const Writer&) = delete;

    // Takes sources in, under numbers that are free; their contexts are rows of `hidden` (or null: there is none).
    void admit(const int64_t* numbers, long count, const float* hidden, const int64_t* offsets, int threads);
    // Reads tokens that every hypothesis of a source begins with; before its first step.
    void read(int64_t number, const int32_t* tokens, long count);
    // Only these ids are candidates from now on; an empty list: all are.
    void allow(const std::vector<int32_t>& ids);
    // One more token for every row. Rows of a source stand together; `parents` are rows of the step before, of the same source, or -1
    // at a source's first step. A source that has no row is done and forgotten.
    void step(const int64_t* tokens, const int64_t* sources, const int64_t* parents, long rows, const Answer& answer, int threads);

    long sources() const { return long(held_.size()); }
    const Weights& weights() const { return *weights_; }

   private:
    struct Held {
        Source source;
        Block context;
        std::vector<Block> pages;
        std::vector<float*> addresses;
        std::vector<int32_t> ancestors, following;
        long positions = 0, room = 0, rows = 0;
    };
    struct Place {
        Held* held;
        long slot;
    };

    void grow(Held& held, long positions);
    void forget_others();
    std::vector<Place> placed(const int64_t* tokens, const int64_t* sources, const int64_t* parents, long rows);
    void run(long rows, const Answer& answer, int threads);
    void join(long rows, long parts, const Answer& answer);

    std::shared_ptr<const Weights> weights_;
    Stack stack_;  // with the output that is in use
    std::vector<int32_t> allowed_;
    std::vector<Block> allowed_words_;
    long slots_;
    std::map<int64_t, std::unique_ptr<Held>> held_;
    std::vector<Place> before_;
    std::vector<Row> rows_;
    std::vector<Block> free_pages_;
    std::vector<float> hidden_, most_, sums_, part_scores_;
    std::vector<int32_t> part_numbers_;
};

}  // namespace regard::decoder
