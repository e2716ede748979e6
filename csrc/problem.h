// A call to attention as the kernel sees it: spans of queries and keys, what a query may see, and the work cut into units.
//
// N sequences; H query heads, J key heads, H / J of them in a group; D and V are the head sizes of keys and values.
#pragma once

#include <cstdint>
#include <vector>

namespace regard {

static_assert(sizeof(long) == 8, "the kernel counts in 64-bit longs");

// The queries of one sequence and the keys that they read, all rows of the flat arrays. Under dilation by `step` a sequence is
// cut into `step` spans, each with every step-th query and every step-th key: that is why rows have a first and a stride.
struct Span {
    long sequence;
    long q_begin, k_begin;          // the sequence's first rows
    long row_first, rows;           // of the sequence's queries: row_first, row_first + step, ...
    long key_first, keys;           // of its keys: key_first, key_first + step, ...
    long query_start;               // position of the sequence's first query, not the span's
    long interval_row;              // number of the sequence's first query among all queries, for the intervals of rows
};

// The pairs with position_low <= position < position_high and max(key_low, position + low_shift) <= key <
// min(key_high, position + high_shift).
struct Box {
    long position_low, position_high, key_low, key_high, low_shift, high_shift;
};

// Spans that read the same keys: one owner of those keys' gradients.
struct Group {
    long begin, end;  // in Problem::span_order
    long keys;        // of the longest
};

// A piece of the forward pass: queries [lane, lane_end) of one span against the keys [key, key_end), for one key head; or, where
// few queries meet many keys, for several, so that memory is read in its order.
struct ForwardUnit {
    long span, kv_head, kv_head_end, lane, lane_end, key, key_end;
    long partial;  // number of the first head's partial result, or -1 when the unit sees all keys
};
constexpr long most_heads = 8, most_panels = 8;  // of one unit

// The partial results of one panel of queries, `stride` apart, joined in the order of their keys.
struct Join {
    long span, kv_head, lanes, first, stride, count;
};

// A piece of the backward pass: one block of keys of a group and a key head, against all their queries.
struct BackwardUnit {
    long group, kv_head, block;
};

struct Intervals {
    const int32_t* starts = nullptr;  // (heads or 1, rows, count)
    const int32_t* ends = nullptr;
    long rows = 0, count = 0;
    bool by_head = false;
};

// An array that broadcasts to (N, H, T, S): strides of 0 where it does; pairs outside it are masked.
struct Dense {
    const void* values = nullptr;
    long sequence_stride = 0, head_stride = 0, row_stride = 0, key_stride = 0;
    long rows = 0, keys = 0;  // of an axis that broadcasts: as many as anybody may ask for
};

// (H, L) numbers added by position - key - first.
struct Distances {
    const void* values = nullptr;
    long head_stride = 0, first = 0, count = 0;
};

struct Sizes {
    long total_queries, total_keys, heads, kv_heads, dim, value_dim;
};

class Problem {
   public:
    // `spans` holds five rows of N numbers: q_begin, q_length, k_begin, k_length, query_start. Throws std::invalid_argument
    // where a span leaves its array, query spans overlap or key spans overlap without beginning together.
    Problem(const int64_t* spans, long count, Sizes sizes, double scale, double softcap, double dropout, long step,
            const int64_t* boxes, long boxes_of_each);

    Sizes sizes;
    double scale, softcap, dropout;
    long step;
    std::vector<Span> spans;
    long boxes_of_each;
    std::vector<Box> boxes;  // those of spans[n].sequence stand together; none: every pair
    Intervals intervals;

    long group_size() const { return sizes.heads / sizes.kv_heads; }
    long lanes_of(const Span& span) const { return span.rows * group_size(); }

    // Of position - key over all pairs, masks left aside; least > most where there is none.
    long least_distance = 1, most_distance = 0;
    bool covers_queries, covers_keys;  // whether the spans hold every row of the arrays

    std::vector<long> span_order;  // spans sorted by their keys
    std::vector<Group> groups;

    // The cut of the work: by shape alone, never by the number of threads. `panel` is how many queries an instruction set
    // computes at once.
    struct Forward {
        std::vector<ForwardUnit> units;
        std::vector<Join> joins;
        long partials = 0;
        std::vector<long> tasks;  // units [tasks[t], tasks[t + 1]) are one task
    };
    struct Backward {
        std::vector<BackwardUnit> units;
        std::vector<long> tasks;
        std::vector<long> turn_begin;  // of each span: its first turn counter for key head 0, or -1
        long turns = 0;
    };
    // How the gradient of a bias is shared decides which units must follow each other.
    struct Chains {
        bool sequences = false, heads = false;  // whether sequences or heads add to the same numbers
        bool blocks = false;                    // whether blocks of keys do
        bool any = false;                       // whether a bias has a gradient at all
    };
    // `few`: up to so many queries are computed key by key.
    Forward forward_work(long panel, long few) const;
    Backward backward_work(long panel, Chains chains) const;
    // Whether several blocks of keys meet the same queries, which makes the backward pass read the output.
    bool backward_reads_out() const;
    long work() const { return work_; }  // multiply-adds of a head, masks left aside

   private:
    void check_and_add(const int64_t* spans, long count);
    void sort_keys();
    long work_ = 0;
};

// Keys whose scores are held at once. The backward pass reads and turns its queries anew for every block.
constexpr long key_block = 128, backward_block = 256;

}  // namespace regard
