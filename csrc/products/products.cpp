// Products of linear layers for one instruction set: this file is compiled once for each.
//
// B is packed into panels as wide as a tile, once a call, unless tiles can read it where it lies. A block of rows of A is made ready
// for some steps of the depth, unless it serves as it lies, and meets panel after panel, which stay in the second cache.
#include "products.h"

#include "words.h"

namespace regard::REGARD_ISA::products {

constexpr long crowded = 64;  // numbers between rows of memory that meet in a quarter of the first cache's sets or fewer
constexpr long packed_words = 32;  // words of the depth that are packed together
constexpr long steps = 192;  // words of the depth at once: rows of memory a power of two apart share few lines of the first cache

template <class Kind>
long words_of(const Product& call) {
    return round_up((call.depth + Kind::numbers - 1) / Kind::numbers, Kind::unit);
}

// Panels have nearly one width.
struct Panel {
    long column, columns;  // in numbers
    int vectors;
    explicit Panel(const Product& call, long panel) {
        const long all = vectors_of(call), panels = count(call), each = all / panels, more = all % panels;
        column = (panel * each + smallest(panel, more)) * W;
        vectors = int(each + (panel < more));
        columns = smallest(call.columns - column, long(vectors) * W);
    }
    static long vectors_of(const Product& call) { return (call.columns + W - 1) / W; }
    static long count(const Product& call) { return (vectors_of(call) + most_vectors - 1) / most_vectors; }
    bool whole() const { return columns == vectors * W; }
};

template <class Body>
REGARD_INLINE void as_stored(const Factor& factor, const Body& body) {
    if (factor.bfloat16) body(static_cast<const bfloat16*>(factor.values));
    else body(static_cast<const float*>(factor.values));
}

// Rows of B that a tile can read where they lie, unless its steps would push each other out of the first cache.
template <class Kind>
bool lies_ready(const Factor& b, const Panel& panel) {
    return __is_same(Kind, Floats) && !b.bfloat16 && b.by_depth && panel.whole() && b.row % crowded != 0;
}

template <class Kind>
float* packed_at(const Product& call, const Panel& panel, const float* packed) {
    return const_cast<float*>(packed) + panel.column * words_of<Kind>(call);
}

// Words [first, last) of all panels: a few rows of memory as a whole, for a panel has but a cache line of each.
template <class Kind, class S>
void pack_rows(const S* values, const Product& call, long first, long last, float* packed) {
    for (long p = 0; p < Panel::count(call); ++p) {
        const Panel panel(call, p);
        if (lies_ready<Kind>(call.b, panel)) continue;
        const S* from = values + panel.column;
        float* to = packed_at<Kind>(call, panel, packed) + first * panel.vectors * W;
        for (long word = first; word < last; ++word)
            for (int v = 0; v < panel.vectors; ++v, to += W)
                store<float>(to, words_across<Kind>(from + v * W, call.b.row, word, call.depth, panel.columns - v * W));
    }
}

template <class Kind, class S>
void pack_columns(const S* values, const Factor& b, long depth, long words, const Panel& panel, float* to) {
    for (int v = 0; v < panel.vectors; ++v)
        for (long word = 0; word < words; word += W) {
            Vector<float> block[W];
            const long first = panel.column + v * W;
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i)
                block[i] = v * W + i < panel.columns ? words_along<Kind>(values + (first + i) * b.row, word, depth) : Vector<float>{};
            transpose_block<float>(block);
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i)
                if (word + i < words) store<float>(to + ((word + i) * panel.vectors + v) * W, block[i]);
        }
}

template <class Kind>
long pack_parts(const Product& call) {
    return call.b.by_depth ? (words_of<Kind>(call) + packed_words - 1) / packed_words : Panel::count(call);
}

template <class Kind>
void pack(const Product& call, long part, float* packed) {
    const long words = words_of<Kind>(call);
    as_stored(call.b, [&]<class S>(const S* values) {
        if (call.b.by_depth) {
            const long first = part * packed_words;
            pack_rows<Kind>(values, call, first, smallest(first + packed_words, words), packed);
        } else {
            const Panel panel(call, part);
            pack_columns<Kind>(values, call.b, call.depth, words, panel, packed_at<Kind>(call, panel, packed));
        }
    });
}

template <class Kind>
size_t packed_bytes(const Product& call) {
    const long panels = Panel::count(call);
    // All panels but the last one are whole.
    if (panels == 0 || lies_ready<Kind>(call.b, Panel(call, panels - 1))) return 0;
    return size_t(Panel::vectors_of(call) * W * words_of<Kind>(call)) * sizeof(float);
}

// Rows of A by words of the depth whichever way they lie, zero behind the last row.
template <class Kind, class S>
void pack_tiles(const S* values, const Product& call, long begin, long end, long first, long count, float* to) {
    const Factor& a = call.a;
    for (long row = begin; row < end; row += W, to += W * count)
        for (long word = 0; word < count; word += W) {
            Vector<float> block[W];
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) {
                if (a.by_depth) block[i] = words_across<Kind>(values + row, a.row, first + word + i, call.depth, end - row);
                else block[i] = row + i < end ? words_along<Kind>(values + (row + i) * a.row, first + word, call.depth) : Vector<float>{};
            }
            if (a.by_depth) transpose_block<float>(block);
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) store<float>(to + i * count + word, block[i]);
        }
}

// Rows [begin, end) of A for words [first, first + count), in `room` unless they serve as they lie.
template <class Kind>
Matrices<float> ready(const Product& call, long begin, long end, long first, long count, float* room) {
    Matrices<float> found{};
    found.depth = count;
    const Factor& a = call.a;
    if constexpr (__is_same(Kind, Floats)) {
        if (!a.bfloat16 && !a.by_depth) {
            found.a = static_cast<const float*>(a.values) + begin * a.row + first;
            found.a_stride = a.row;
            return found;
        }
    }
    if constexpr (Kind::numbers == 2) {
        const bool whole = call.depth % (2 * Kind::unit) == 0 && (end - begin) % Kind::unit == 0;
        const bool pairs = whole && a.row % 2 == 0 && reinterpret_cast<uintptr_t>(a.values) % 4 == 0;
        if (a.bfloat16 && !a.by_depth && pairs) {
            found.a = static_cast<const float*>(a.values) + begin * a.row / 2 + first;
            found.a_stride = a.row / 2;
            return found;
        }
    }
    found.a = room;
    if constexpr (Kind::unit > 1) {
        found.a_stride = count;
        as_stored(a, [&]<class S>(const S* values) { pack_tiles<Kind>(values, call, begin, end, first, count, room); });
        return found;
    }
    found.a_stride = round_up(a.by_depth ? end - begin : count, W);
    as_stored(a, [&]<class S>(const S* values) {
        float* to = room;
        if (a.by_depth) {
            for (long word = first; word < first + count; ++word)
                for (long row = begin; row < end; row += W, to += W)
                    store<float>(to, words_across<Kind>(values + row, a.row, word, call.depth, end - row));
        } else {
            for (long row = begin; row < end; ++row)
                for (long word = first; word < first + count; word += W, to += W)
                    store<float>(to, words_along<Kind>(values + row * a.row, word, call.depth));
        }
    });
    return found;
}

template <class Kind>
size_t ready_numbers(const Product& call, long rows) {
    return size_t(steps * round_up(rows, call.a.by_depth ? W : Kind::unit));
}

template <class Kind>
size_t room_bytes(const Product& call, long rows, long panels) {
    return (ready_numbers<Kind>(call, rows) + size_t(round_up(rows, Kind::unit) * panels * panel_lanes<float>)) * sizeof(float);
}

template <class Kind>
void write(const Product& call, long begin, long end, const Panel& panel, const float* sums) {
    for (long row = begin; row < end; ++row, sums += panel_lanes<float>) {
        const long at = row * call.out_row + panel.column;
        if (call.out_bfloat16) {
            bfloat16* out = static_cast<bfloat16*>(call.out) + at;
            long i = 0;
            for (; panel.columns - i >= W; i += W) *reinterpret_cast<LooseHalves*>(out + i) = Kind::narrowed(load<float>(sums + i));
            if (i < panel.columns) {
                const Halves halves = Kind::narrowed(load<float>(sums + i));
                __builtin_memcpy(out + i, &halves, size_t(panel.columns - i) * sizeof(bfloat16));
            }
            continue;
        }
        float* out = static_cast<float*>(call.out) + at;
        for (long i = 0; i < panel.columns; ++i) out[i] = call.add ? out[i] + sums[i] : sums[i];
    }
}

// Asks for the rows of memory behind word `first`: each gives a block but a few numbers, which the machine does not foresee.
template <class Kind>
void foresee(const Product& call, long begin, long end, long first, Upcoming& upcoming) {
    const long from = first * Kind::numbers, count = smallest(call.depth - from, steps * Kind::numbers);
    if (!call.a.by_depth || count <= 0) return;
    as_stored(call.a, [&]<class S>(const S* values) { upcoming.add(values + from * call.a.row + begin, call.a.row, count, end - begin); });
}

template <class Kind>
void multiply(const Product& call, long begin, long end, long first_panel, long last_panel, const float* packed, float* room) {
    const long words = words_of<Kind>(call), rows = round_up(end - begin, Kind::unit);
    float* const sums = room + ready_numbers<Kind>(call, rows);
    [[maybe_unused]] const typename Kind::Setting setting{};
    Upcoming upcoming;
    long word = 0;
    do {
        Matrices<float> x = ready<Kind>(call, begin, end, word, smallest(steps, words - word), room);
        upcoming.clear();
        foresee<Kind>(call, begin, end, word + steps, upcoming);
        x.upcoming = &upcoming;
        for (long p = first_panel; p < last_panel; ++p) {
            const Panel panel(call, p);
            if (lies_ready<Kind>(call.b, panel)) {
                x.b_row = call.b.row;
                x.b = static_cast<const float*>(call.b.values) + panel.column + word * x.b_row;
            } else {
                x.b_row = panel.vectors * W;
                x.b = packed_at<Kind>(call, panel, packed) + word * x.b_row;
            }
            // Tiles would begin a sum with the old content: `write` adds it at the end, however many rows a block has.
            const bool in_order = Kind::unit == 1 || (rows == end - begin && !call.add);
            const bool direct = !call.out_bfloat16 && panel.whole() && in_order;
            x.c_row = direct ? call.out_row : panel_lanes<float>;
            // Sums that are complete at once share a room, which stays in the first cache.
            const long place = words > steps ? p - first_panel : 0;
            x.c = direct ? static_cast<float*>(call.out) + begin * call.out_row + panel.column : sums + place * rows * panel_lanes<float>;
            const Old old = word > 0 || (direct && call.add) ? Old::added : Old::none;
            if constexpr (Kind::unit > 1) Kind::product(rows, panel.vectors, x, old);
            else if (call.a.by_depth) product<float, Unit::row, typename Kind::Step>(rows, panel.vectors, x, old);
            else product<float, Unit::column, typename Kind::Step>(rows, panel.vectors, x, old);
            if (!direct && word + steps >= words) write<Kind>(call, begin, end, panel, x.c);
        }
        word += steps;
    } while (word < words);
}

template <class Kind>
constexpr ProductFunctions functions{Kind::unit, Panel::count,     packed_bytes<Kind>, pack_parts<Kind>,
                                     pack<Kind>, room_bytes<Kind>, multiply<Kind>};

}  // namespace regard::REGARD_ISA::products

namespace regard::REGARD_ISA {

#if defined(__AVX512F__)
extern const ProductKernels product_kernels{products::functions<products::Floats>, products::functions<products::Rounded>,
                                            products::functions<products::Pairs>, products::functions<products::Tiles>};
#else
extern const ProductKernels product_kernels{products::functions<products::Floats>, products::functions<products::Rounded>, {}, {}};
#endif

}  // namespace regard::REGARD_ISA
