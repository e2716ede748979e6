// A panel: as many queries as one register row holds, a lane each, and which keys each of them may see.
//
// Keys are numbered within the span: key k is key_first + k * step of the sequence.
#pragma once

#include "../kernel.h"
#include "vector.h"

namespace regard::REGARD_ISA {

struct Range {
    long begin, end;
    bool empty() const { return begin >= end; }
};

template <class T>
struct Panel {
    static constexpr int most = panel_lanes<T> > 16 ? panel_lanes<T> : 16;  // Philox works on 32-bit lanes
    const Span* span;
    int count, vectors;
    long width;  // of a row of scores: vectors * W
    long first_position, last_position;
    bool one_head;
    long row[most], head[most];           // of the sequence; query head
    alignas(64) Int<T> low[most], high[most];  // the interval of each lane
    long held_box;                        // whose intervals those are
    Range hull, inner;                    // keys that some lane may see; keys that all may see (one box or none)
};

REGARD_INLINE long sub_key(const Problem& problem, const Span& span, long key) {
    const long distance = key - span.key_first;
    const long number = problem.step == 1 ? distance
                        : distance <= 0   ? 0
                                          : (distance + problem.step - 1) / problem.step;
    return number < 0 ? 0 : number > span.keys ? span.keys : number;
}

REGARD_INLINE Range box_range(const Problem& problem, const Span& span, const Box& box, long low_position, long high_position) {
    const long low = largest(box.key_low, low_position + box.low_shift), high = smallest(box.key_high, high_position + box.high_shift);
    return {sub_key(problem, span, low), sub_key(problem, span, high)};
}

// The keys that some query of the panel may see in a box.
template <class T>
REGARD_INLINE Range box_hull(const Problem& problem, const Panel<T>& panel, const Box& box) {
    const long first = largest(panel.first_position, box.position_low), last = smallest(panel.last_position, box.position_high - 1);
    if (first > last) return {0, 0};
    return box_range(problem, *panel.span, box, first, last);
}

// The keys that every query of the panel may see in a box.
template <class T>
REGARD_INLINE Range box_inner(const Problem& problem, const Panel<T>& panel, const Box& box) {
    if (panel.first_position < box.position_low || panel.last_position >= box.position_high) return {0, 0};
    return box_range(problem, *panel.span, box, panel.last_position, panel.first_position);
}

REGARD_INLINE const Box* boxes_of(const Problem& problem, const Span& span) {
    return problem.boxes.data() + span.sequence * problem.boxes_of_each;
}

template <class T>
REGARD_INLINE long position_of(const Panel<T>& panel, int lane) {
    return panel.span->query_start + panel.row[lane];
}

template <class T>
void hold_box(const Problem& problem, Panel<T>& panel, long number) {
    if (panel.held_box == number) return;
    panel.held_box = number;
    const Box box = boxes_of(problem, *panel.span)[number];
    for (int lane = 0; lane < panel.count; ++lane) {
        const long position = position_of(panel, lane);
        Range range{0, 0};
        if (position >= box.position_low && position < box.position_high) range = box_range(problem, *panel.span, box, position, position);
        panel.low[lane] = Int<T>(range.begin);
        panel.high[lane] = Int<T>(largest(range.begin, range.end));
    }
    for (int lane = panel.count; lane < panel.width; ++lane) panel.low[lane] = panel.high[lane] = 0;
}

// The queries [lane, lane_end) of a span and key head: head by head, each head's rows in order.
template <class T>
void set_up(const Problem& problem, Panel<T>& panel, const Span& span, long kv_head, long lane, long lane_end) {
    panel.span = &span;
    panel.count = int(lane_end - lane);
    panel.vectors = int((panel.count + lanes<T> - 1) / lanes<T>);
    panel.width = panel.vectors * lanes<T>;
    panel.held_box = -1;
    long head = lane / span.rows, row = lane % span.rows;
    panel.one_head = row + panel.count <= span.rows;
    long least = span.rows, most = -1;
    for (int i = 0; i < panel.count; ++i) {
        panel.row[i] = span.row_first + row * problem.step;
        panel.head[i] = kv_head * problem.group_size() + head;
        least = smallest(least, row);
        most = largest(most, row);
        if (++row == span.rows) row = 0, ++head;
    }
    panel.first_position = span.query_start + span.row_first + least * problem.step;
    panel.last_position = span.query_start + span.row_first + most * problem.step;
    panel.hull = panel.inner = {0, span.keys};
    if (problem.intervals.starts) {
        panel.inner = {0, 0};
    } else if (problem.boxes_of_each == 1) {
        const Box& box = boxes_of(problem, span)[0];
        panel.hull = box_hull(problem, panel, box);
        panel.inner = box_inner(problem, panel, box);
    } else if (problem.boxes_of_each > 1) {
        panel.hull = panel.inner = {0, 0};
        for (long b = 0; b < problem.boxes_of_each; ++b) {
            const Range hull = box_hull(problem, panel, boxes_of(problem, span)[b]);
            if (hull.empty()) continue;
            panel.hull.begin = panel.hull.empty() ? hull.begin : smallest(panel.hull.begin, hull.begin);
            panel.hull.end = largest(panel.hull.end, hull.end);
        }
    }
}

// How the masks cut a block of keys for a panel.
struct Cut {
    Range keys;             // the keys that some lane may see
    bool intervals;         // Panel::low and high hold for these keys
    bool tile;              // the tile of additions is -inf where a pair is masked
};

// Several intervals a lane: the tile is filled with 0 inside and -inf outside.
template <class T>
REGARD_INLINE void clear_tile(T* tile, const Panel<T>& panel, const Range& keys, T number) {
    for (long i = 0; i < (keys.end - keys.begin) * panel.width; ++i) tile[i] = number;
}

template <class T>
REGARD_INLINE void open_range(T* tile, const Panel<T>& panel, const Range& keys, int lane, Range open) {
    const long begin = largest(open.begin, keys.begin), end = smallest(open.end, keys.end);
    for (long key = begin; key < end; ++key) tile[(key - keys.begin) * panel.width + lane] = T(0);
}

template <class T>
Cut cut_by_boxes(const Problem& problem, Panel<T>& panel, Range keys, T* tile) {
    const Box* boxes = boxes_of(problem, *panel.span);
    long met = 0, last = 0;
    Range hull{keys.end, keys.begin};
    for (long b = 0; b < problem.boxes_of_each; ++b) {
        const Range inner = box_inner(problem, panel, boxes[b]);
        if (inner.begin <= keys.begin && inner.end >= keys.end) return {keys, false, false};
        const Range range = box_hull(problem, panel, boxes[b]);
        if (range.begin >= keys.end || range.end <= keys.begin || range.empty()) continue;
        ++met, last = b;
        hull = {smallest(hull.begin, range.begin), largest(hull.end, range.end)};
    }
    if (!met) return {{0, 0}, false, false};
    keys = {largest(keys.begin, hull.begin), smallest(keys.end, hull.end)};
    if (met == 1) {
        hold_box(problem, panel, last);
        return {keys, true, false};
    }
    clear_tile(tile, panel, keys, -infinity<T>);
    for (long b = 0; b < problem.boxes_of_each; ++b) {
        const Range range = box_hull(problem, panel, boxes[b]);
        if (range.begin >= keys.end || range.end <= keys.begin) continue;
        for (int lane = 0; lane < panel.count; ++lane) {
            const long position = position_of(panel, lane);
            if (position < boxes[b].position_low || position >= boxes[b].position_high) continue;
            open_range(tile, panel, keys, lane, box_range(problem, *panel.span, boxes[b], position, position));
        }
    }
    return {keys, false, true};
}

template <class T>
Cut cut_by_intervals(const Problem& problem, Panel<T>& panel, Range keys, T* tile) {
    const Intervals& all = problem.intervals;
    bool single = true;
    Range hull{keys.end, keys.begin};
    for (int lane = 0; lane < panel.width; ++lane) {
        panel.low[lane] = panel.high[lane] = 0;
        if (lane >= panel.count) continue;
        const long at = ((all.by_head ? panel.head[lane] * all.rows : 0) + panel.span->interval_row + panel.row[lane]) * all.count;
        int met = 0;
        for (long i = 0; i < all.count; ++i) {
            const Range range{sub_key(problem, *panel.span, all.starts[at + i]), sub_key(problem, *panel.span, all.ends[at + i])};
            if (range.empty() || range.end <= keys.begin) continue;
            if (range.begin >= keys.end) break;
            hull = {smallest(hull.begin, range.begin), largest(hull.end, range.end)};
            if (met++) single = false;
            panel.low[lane] = Int<T>(range.begin);
            panel.high[lane] = Int<T>(range.end);
        }
    }
    if (hull.begin >= hull.end) return {{0, 0}, false, false};
    keys = {largest(keys.begin, hull.begin), smallest(keys.end, hull.end)};
    if (single) {
        bool whole = true;
        for (int lane = 0; lane < panel.count; ++lane) whole &= panel.low[lane] <= keys.begin && panel.high[lane] >= keys.end;
        return {keys, !whole, false};
    }
    clear_tile(tile, panel, keys, -infinity<T>);
    for (int lane = 0; lane < panel.count; ++lane) {
        const long at = ((all.by_head ? panel.head[lane] * all.rows : 0) + panel.span->interval_row + panel.row[lane]) * all.count;
        for (long i = 0; i < all.count; ++i)
            open_range(tile, panel, keys, lane,
                       {sub_key(problem, *panel.span, all.starts[at + i]), sub_key(problem, *panel.span, all.ends[at + i])});
    }
    return {keys, false, true};
}

// What the mask's boxes or intervals leave of the keys [begin, end); bits and biases are not looked at here.
template <class T>
Cut cut_block(const Problem& problem, Panel<T>& panel, Range keys, T* tile) {
    if (problem.intervals.starts) return cut_by_intervals(problem, panel, keys, tile);
    keys = {largest(keys.begin, panel.hull.begin), smallest(keys.end, panel.hull.end)};
    if (keys.empty()) return {{0, 0}, false, false};
    if (problem.boxes_of_each > 1) return cut_by_boxes(problem, panel, keys, tile);
    if (problem.boxes_of_each == 0 || (panel.inner.begin <= keys.begin && panel.inner.end >= keys.end)) return {keys, false, false};
    hold_box(problem, panel, 0L);
    return {keys, true, false};
}

}  // namespace regard::REGARD_ISA
