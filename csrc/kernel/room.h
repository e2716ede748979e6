// A thread's room: where its blocks, panels and sums lie, and where the rows of arrays do.
#pragma once

#include "pairs.h"
#include "scores.h"

namespace regard::REGARD_ISA {

// Hands out aligned pieces of a thread's room; with no room it only counts.
class Room {
   public:
    explicit Room(void* start) : start_(static_cast<char*>(start)) {}
    template <class T>
    T* take(long count) {
        char* piece = start_ + used_;
        used_ += size_t(round_up(count * long(sizeof(T)), 64));
        return reinterpret_cast<T*>(piece);
    }
    size_t used() const { return used_; }

   private:
    char* start_;
    size_t used_ = 0;
};

constexpr int most_states = most_heads > most_panels ? most_heads : most_panels;  // of one unit: its panels or its heads

template <class T>
struct ForwardState {  // of one panel
    Panel<T>* panel;
    long kv_head;
    bool few;    // see few_lanes
    T* queries;  // (D, width); few lanes: (lanes, D padded); by tiles: words, (pairs of D, width)
    T *scores, *tile;  // of few lanes: a unit computes several heads side by side
    Cut cut;
    T* sums;     // (lanes, V padded): of weight * value; by tiles (V padded, lanes), until they are turned
    T* top;      // (lanes): largest score
    T* mass;     // (lanes): sum of weights
    bool begun;
};

template <class T>
struct ForwardRoom {
    ForwardState<T> states[most_states];
    T *scores, *tile, *kept, *keys, *values, *fade;
    // For the matrix unit: rows of words of keys; of values, and the same turned, (V, pairs of keys); pairs; sums turned back.
    T *key_words, *words, *value_words, *pairs, *turned;
    bool tiles;
    Upcoming upcoming;

    ForwardRoom(const Call& call, Room& room) {
        const Sizes& sizes = call.problem->sizes;
        const long panel = panel_lanes<T>, padded = round_up(sizes.value_dim, lanes<T>);
        for (auto& state : states) {
            state.panel = room.take<Panel<T>>(1);
            state.queries = room.take<T>(round_up(sizes.dim, lanes<T>) * panel);
            state.sums = room.take<T>(panel * padded);
            state.top = room.take<T>(panel);
            state.mass = room.take<T>(panel);
            state.scores = room.take<T>(key_block * lanes<T>);
            state.tile = room.take<T>(key_block * lanes<T>);
        }
        scores = room.take<T>(key_block * panel);
        tile = room.take<T>(key_block * panel);
        kept = room.take<T>(key_block * panel);
        keys = room.take<T>(key_block * round_up(sizes.dim, lanes<T>));
        values = room.take<T>(key_block * padded);
        fade = room.take<T>(panel);
        tiles = uses_tiles<T>(call);
#if defined(__AVX512F__)
        if (!tiles) return;
        const long most = key_block + tile_side;  // a tile's rows may begin anywhere
        const long widest = largest(words_of(sizes.dim), words_of(sizes.value_dim));
        key_words = room.take<T>(most * words_of(sizes.dim));
        words = room.take<T>(largest(panel, key_block) * widest);
        value_words = room.take<T>(padded * key_block / 2);
        pairs = room.take<T>(key_block / 2 * largest(panel, padded));
        turned = room.take<T>(panel * padded);
#endif
    }
};

struct Sized {
    const Rows* rows;
    long size;
};

// A block of keys or values: where it lies, or copied where that pays.
template <class S>
struct Block {
    const S* rows;
    long stride;
};

template <class S>
REGARD_INLINE Block<S> block_of(const Call& call, const Rows& from, const Span& span, long kv_head, long key) {
    const long step = call.problem->step;
    return {row_of<S>(from, span.k_begin + span.key_first + key * step, kv_head), from.row * step};
}

// Copies a block of keys or values, zero behind `size`; returns whether all numbers are finite.
template <class T>
bool copy_block(const Call& call, const Rows& from, const Span& span, long kv_head, Range keys, long size, T* to) {
    return as_stored<T>(from, [&]<class S>(const S*) {
        const Block<S> block = block_of<S>(call, from, span, kv_head, keys.begin);
        return copy_rows<T>(block.rows, block.stride, keys.end - keys.begin, size, to, round_up(size, lanes<T>));
    });
}

}  // namespace regard::REGARD_ISA
