// A stack's passes for one instruction set: this file is compiled once for each.
#include "tokens.h"

namespace regard::REGARD_ISA::stacks {

using decoder::block_columns;
using decoder::Choice;
using decoder::Functions;
using decoder::Layer;
using decoder::page;
using decoder::Row;
using decoder::Source;

// So many rows go through all layers together: what is between stays in the core's own cache.
constexpr long most_rows = 48;

// Where a thread keeps what is between two products, in the room that `room_for` asks for.
struct Desk {
    long x_row, normal_row, wide_row;
    float *x, *normal, *wide, *queries, *scores, *scales;
    char* ready;
    const float** cells;
    float *keys, *values;  // of one sequence that attends to itself
};

REGARD_INLINE long most_depth(const Sizes& s) { return largest(largest(s.dim, s.hidden), s.heads * s.head_dim); }

// Lays the desk at `start`; returns its bytes.
inline size_t lay(const Stack& stack, long rows, long longest, char* start, Desk& desk) {
    const Sizes& s = stack.sizes;
    const long span = round_up(longest, lanes<float>) + lanes<float>;
    desk.x_row = padded(s.dim);
    desk.normal_row = padded(largest(s.dim, s.heads * s.head_dim));
    const long heads = (s.heads + 2 * s.kv_heads) * s.head_dim;
    desk.wide_row = largest(padded(largest(heads, 2 * s.hidden)), block_columns + panel_columns);
    size_t taken = 0;
    const auto take = [&](size_t bytes) {
        char* at = start + taken;
        taken += (bytes + 2 * vector_bytes + 63) / 64 * 64;
        return at;
    };
    desk.x = reinterpret_cast<float*>(take(size_t(rows * desk.x_row) * 4));
    desk.normal = reinterpret_cast<float*>(take(size_t(rows * desk.normal_row) * 4));
    desk.wide = reinterpret_cast<float*>(take(size_t(rows * desk.wide_row) * 4));
    desk.queries = reinterpret_cast<float*>(take(size_t(s.heads * stack.head_room) * 4));
    desk.scores = reinterpret_cast<float*>(take(size_t(span) * 4));
    desk.scales = reinterpret_cast<float*>(take(size_t(rows) * 4));
    desk.ready = take(size_t(rows * ready_bytes(most_depth(s))));
    desk.cells = reinterpret_cast<const float**>(take(size_t(span) * sizeof(float*)));
    desk.keys = reinterpret_cast<float*>(take(size_t(s.kv_heads * s.head_dim * span) * 4));
    desk.values = reinterpret_cast<float*>(take(size_t(longest * s.kv_heads * stack.head_room) * 4));
    return taken;
}

size_t room_for(const Stack& stack, long rows, long longest) {
    Desk desk;
    return lay(stack, largest(smallest(rows, most_rows), longest), longest, nullptr, desk);
}

Desk desk_at(const Stack& stack, long rows, long longest, void* room) {
    Desk desk;
    lay(stack, rows, longest, static_cast<char*>(room), desk);
    return desk;
}

void linear(const Matrix& w, const float* x, long x_row, long rows, float* c, long c_row, bool add, const Desk& desk) {
    const Sides ready = made_ready(w.kind, x, x_row, rows, w.depth, desk.ready, desk.scales);
    panels_product(w, 0, w.panels, ready, rows, c, c_row, add);
}

void embed(const Stack& stack, long token, float* x) {
    const float* from = stack.embedding + token * stack.sizes.dim;
    for (long i = 0; i < stack.sizes.dim; ++i) x[i] = from[i] * stack.embedding_scale;
}

void normalize_rows(const Stack& stack, const Desk& desk, long rows) {
    for (long i = 0; i < rows; ++i)
        normalize(desk.x + i * desk.x_row, stack.sizes.dim, stack.sizes.epsilon, desk.normal + i * desk.normal_row);
}

void feed_forward(const Stack& stack, const Layer& layer, const Desk& desk, long rows) {
    normalize_rows(stack, desk, rows);
    linear(layer.gate_up, desk.normal, desk.normal_row, rows, desk.wide, desk.wide_row, false, desk);
    for (long i = 0; i < rows; ++i) gated(desk.wide + i * desk.wide_row, stack.sizes.hidden);
    linear(layer.down, desk.wide, desk.wide_row, rows, desk.x, desk.x_row, true, desk);
}

void make_key(const Stack& stack, const float* x, const Turns* turns, long position, float* to) {
    make_head(stack.sizes, x, turns, position, stack.head_room, head_factor(stack.sizes, x, stack.sizes.head_dim), to);
}

// The queries of a row, ready to meet keys: normalized each for itself, or those to a context (without turns) all together.
void make_queries(const Stack& stack, const float* x, const Turns* turns, long position, float* queries) {
    const Sizes& s = stack.sizes;
    const float scale = inverse_root(float(s.head_dim)), together = turns ? 1.f : head_factor(s, x, s.heads * s.head_dim);
    for (long h = 0; h < s.heads; ++h, x += s.head_dim) {
        const float factor = turns ? head_factor(s, x, s.head_dim) : together;
        make_head(s, x, turns, position, stack.head_room, scale * factor, queries + h * stack.head_room);
    }
}

// One row's attention to its own hypothesis in one layer; its key and value are written first.
void attend_own(const Stack& stack, const Turns& turns, const Row& row, long layer, const float* x, const Desk& desk, float* out) {
    const Sizes& s = stack.sizes;
    const Source& source = *row.source;
    const long width = s.kv_heads * stack.head_room, plane = page * source.slots * width;
    const long key = 2 * layer * plane, value = key + plane;
    const int32_t* ancestors = source.ancestors + row.slot * source.ancestor_room;
    for (long t = 0; t <= row.position; ++t)
        desk.cells[t] = source.pages[t / page] + ((t % page) * source.slots + ancestors[t]) * width;
    float* own = source.pages[row.position / page] + ((row.position % page) * source.slots + row.slot) * width;
    for (long j = 0; j < s.kv_heads; ++j) {
        const float* from = x + (s.heads + j) * s.head_dim;
        make_key(stack, from, &turns, row.position, own + key + j * stack.head_room);
        copy_head(from + s.kv_heads * s.head_dim, s.head_dim, stack.head_room, own + value + j * stack.head_room);
    }
    make_queries(stack, x, &turns, row.position, desk.queries);
    attend_written(stack, desk.queries, desk.cells, key, value, row.position + 1, desk.scores, out);
}

void attend_source(const Stack& stack, const Row& row, long layer, const float* x, const Desk& desk, float* out) {
    const Sizes& s = stack.sizes;
    const Source& source = *row.source;
    make_queries(stack, x, nullptr, 0, desk.queries);
    const float* keys = source.keys + layer * s.kv_heads * s.head_dim * round_up(source.length, lanes<float>);
    const float* values = source.values + layer * source.length * s.kv_heads * stack.head_room;
    attend_context(stack, desk.queries, keys, values, source.length, desk.scores, out);
}

void write_block(const Stack& stack, const Turns& turns, const Row* rows, long count, const Desk& desk, float* hidden) {
    const Sizes& s = stack.sizes;
    for (long i = 0; i < count; ++i) embed(stack, rows[i].token, desk.x + i * desk.x_row);
    for (long number = 0; number < s.layers; ++number) {
        const Layer& layer = stack.layers[number];
        normalize_rows(stack, desk, count);
        linear(layer.query_key_value, desk.normal, desk.normal_row, count, desk.wide, desk.wide_row, false, desk);
        for (long i = 0; i < count; ++i)
            attend_own(stack, turns, rows[i], number, desk.wide + i * desk.wide_row, desk, desk.normal + i * desk.normal_row);
        linear(layer.out, desk.normal, desk.normal_row, count, desk.x, desk.x_row, true, desk);
        if (s.context) {
            normalize_rows(stack, desk, count);
            linear(layer.query, desk.normal, desk.normal_row, count, desk.wide, desk.wide_row, false, desk);
            for (long i = 0; i < count; ++i)
                attend_source(stack, rows[i], number, desk.wide + i * desk.wide_row, desk, desk.normal + i * desk.normal_row);
            linear(layer.context_out, desk.normal, desk.normal_row, count, desk.x, desk.x_row, true, desk);
        }
        feed_forward(stack, layer, desk, count);
    }
    normalize_rows(stack, desk, count);
    for (long i = 0; i < count; ++i) __builtin_memcpy(hidden + i * s.dim, desk.normal + i * desk.normal_row, size_t(s.dim) * 4);
}

void write(const Stack& stack, const Turns& turns, const Row* rows, long count, long longest, float* hidden, void* room) {
    const Desk desk = desk_at(stack, largest(smallest(count, most_rows), longest), longest, room);
    const long blocks = (count + most_rows - 1) / most_rows;
    for (long b = 0, begin = 0; b < blocks; ++b) {
        const long rest = count / blocks + (b < count % blocks);
        write_block(stack, turns, rows + begin, rest, desk, hidden + begin * stack.sizes.dim);
        begin += rest;
    }
}

void remember(const Stack& stack, const float* hidden, long length, float* keys, float* values, void* room) {
    const Sizes& s = stack.sizes;
    const Desk desk = desk_at(stack, largest(smallest(length, most_rows), length), length, room);
    const long width = round_up(length, lanes<float>), all_heads = s.kv_heads * s.head_dim;
    for (long i = 0; i < length; ++i)
        __builtin_memcpy(desk.normal + i * desk.normal_row, hidden + i * s.dim, size_t(s.dim) * 4);
    for (long number = 0; number < s.layers; ++number) {
        const Matrix& w = stack.layers[number].key_value;
        linear(w, desk.normal, desk.normal_row, length, desk.wide, desk.wide_row, false, desk);
        for (long i = 0; i < length; ++i)
            for (long j = 0; j < s.kv_heads; ++j) {
                const float* from = desk.wide + i * desk.wide_row + j * s.head_dim;
                make_key(stack, from, nullptr, 0, desk.queries);
                for (long d = 0; d < s.head_dim; ++d) keys[(j * s.head_dim + d) * width + i] = desk.queries[d];
                copy_head(from + all_heads, s.head_dim, stack.head_room, values + (i * s.kv_heads + j) * stack.head_room);
            }
        keys += all_heads * width;
        values += length * s.kv_heads * stack.head_room;
    }
}

// A sequence's attention to itself: rows of `desk.wide` to rows of `desk.normal`.
void attend_itself(const Stack& stack, const Turns& turns, long first, long length, const Desk& desk) {
    const Sizes& s = stack.sizes;
    const long width = round_up(length, lanes<float>);
    for (long i = 0; i < length; ++i)
        for (long j = 0; j < s.kv_heads; ++j) {
            const float* from = desk.wide + (first + i) * desk.wide_row + (s.heads + j) * s.head_dim;
            make_key(stack, from, &turns, i, desk.queries);
            for (long d = 0; d < s.head_dim; ++d) desk.keys[(j * s.head_dim + d) * width + i] = desk.queries[d];
            copy_head(from + s.kv_heads * s.head_dim, s.head_dim, stack.head_room, desk.values + (i * s.kv_heads + j) * stack.head_room);
        }
    for (long i = first; i < first + length; ++i) {
        make_queries(stack, desk.wide + i * desk.wide_row, &turns, i - first, desk.queries);
        attend_context(stack, desk.queries, desk.keys, desk.values, length, desk.scores, desk.normal + i * desk.normal_row);
    }
}

void encode(const Stack& stack, const Turns& turns, const int32_t* ids, const int64_t* offsets, long sequences, long longest, float* hidden,
            void* room) {
    const Sizes& s = stack.sizes;
    const long start = offsets[0], rows = offsets[sequences] - start;
    const Desk desk = desk_at(stack, largest(smallest(rows, most_rows), longest), longest, room);
    for (long i = 0; i < rows; ++i) embed(stack, ids[start + i], desk.x + i * desk.x_row);
    // Places behind a sequence's last key are read, and weigh nothing; what stands there must be numbers.
    __builtin_memset(desk.keys, 0, size_t(s.kv_heads * s.head_dim * round_up(longest, lanes<float>)) * 4);
    for (long number = 0; number < s.layers; ++number) {
        const Layer& layer = stack.layers[number];
        normalize_rows(stack, desk, rows);
        linear(layer.query_key_value, desk.normal, desk.normal_row, rows, desk.wide, desk.wide_row, false, desk);
        for (long n = 0; n < sequences; ++n)
            attend_itself(stack, turns, offsets[n] - start, offsets[n + 1] - offsets[n], desk);
        linear(layer.out, desk.normal, desk.normal_row, rows, desk.x, desk.x_row, true, desk);
        feed_forward(stack, layer, desk, rows);
    }
    normalize_rows(stack, desk, rows);
    for (long i = 0; i < rows; ++i) __builtin_memcpy(hidden + i * s.dim, desk.normal + i * desk.normal_row, size_t(s.dim) * 4);
}

// Keeps the best `count` of what is offered, the best first; of equal ones the first.
REGARD_INLINE void offer(float score, int32_t number, long count, float* scores, int32_t* numbers) {
    long place = count - 1;
    for (; place > 0 && scores[place - 1] < score; --place) {
        scores[place] = scores[place - 1];
        numbers[place] = numbers[place - 1];
    }
    scores[place] = score;
    numbers[place] = number;
}

REGARD_INLINE void offer_all(const float* x, long n, long first, const Choice& choice, float* scores, int32_t* numbers) {
    constexpr int W = lanes<float>;
    const long count = choice.count;
    for (long at = 0; at < n; at += W) {
        const Ints<float> better = load<float>(x + at) > all<float>(scores[count - 1]);
        // Rarely so: most scores of a vocabulary are far behind.
#if defined(__AVX512F__)
        if (!_mm512_test_epi32_mask((__m512i)better, (__m512i)better)) continue;
#elif defined(__AVX2__)
        if (_mm256_testz_si256((__m256i)better, (__m256i)better)) continue;
#endif
        for (long i = at; i < smallest(at + W, n); ++i)
            if (x[i] > scores[count - 1]) {
                const long column = first + i;
                offer(x[i], choice.ids ? choice.ids[column] : int32_t(column), count, scores, numbers);
            }
    }
}

// The largest of a row's scores and the sum of e^(score - largest).
REGARD_INLINE void gathered(float* x, long n, float* most, float* sum) {
    constexpr int W = lanes<float>;
    for (long i = n; i % W; ++i) x[i] = -infinity<float>;
    Vector<float> top = load<float>(x), sums{};
    for (long i = W; i < n; i += W) top = larger<float>(load<float>(x + i), top);
    *most = largest_of(top);
    for (long i = 0; i < n; i += W) sums += exponential<float>(load<float>(x + i) - *most);
    *sum = total(sums);
}

void choose(const Stack& stack, const Choice& choice, long row, long rows, long begin, long end, float* scores, int32_t* numbers,
            void* room) {
    const Desk desk = desk_at(stack, smallest(rows, most_rows), 1, room);
    const Matrix& w = stack.output;
    const long all_blocks = (w.columns + block_columns - 1) / block_columns, panels = block_columns / panel_columns;
    for (long i = 0; i < rows * choice.count; ++i) scores[i] = -infinity<float>, numbers[i] = 0;
    const long parts = (rows + most_rows - 1) / most_rows;
    for (long part = 0, first = 0; part < parts; ++part) {
        const long height = rows / parts + (part < rows % parts);
        const Sides ready = made_ready(w.kind, choice.hidden + (row + first) * stack.sizes.dim, stack.sizes.dim, height, w.depth,
                                       desk.ready, desk.scales);
        for (long b = begin; b < end; ++b) {
            const long column = b * block_columns, n = smallest(block_columns, w.columns - column);
            panels_product(w, b * panels, smallest((b + 1) * panels, w.panels), ready, height, desk.wide, desk.wide_row, false);
            for (long i = 0; i < height; ++i) {
                const long r = row + first + i, place = (first + i) * choice.count;
                float* x = desk.wide + i * desk.wide_row;
                float* const most = choice.most + r * all_blocks + b;
                gathered(x, n, most, choice.sums + r * all_blocks + b);
                if (*most > scores[place + choice.count - 1]) offer_all(x, n, column, choice, scores + place, numbers + place);
                if (choice.end_column >= column && choice.end_column < column + n) choice.ends[r] = x[choice.end_column - column];
            }
        }
        first += height;
    }
}

}  // namespace regard::REGARD_ISA::stacks

namespace regard::REGARD_ISA {

extern const decoder::Functions decoder_functions = {lanes<float>,   stacks::panel_columns, stacks::room_for, stacks::write,
                                                     stacks::choose, stacks::remember,      stacks::encode};

}  // namespace regard::REGARD_ISA
