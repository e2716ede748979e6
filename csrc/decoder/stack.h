// A stack of pre-norm blocks as every instruction set reads it: packed weights, sources with their keys and values, rows.
//
// A row is one token on its way through the stack. Plain structs and raw addresses: the sources that are compiled for each
// instruction set use none of the standard library's templates. Who owns the memory stands in decoder.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace regard::decoder {

// How the numbers of a matrix are stored, and with what they are multiplied.
enum class Kind {
    float32,
    bfloat16_pairs,  // by the machine's products of pairs
    bfloat16_wide,   // widened to float32
    int8_quads,      // by the machine's products of four bytes; activations are 0 to 255
    int8_wide,       // widened to 16 bits
};

// A matrix (columns, depth) in panels of columns. A word of four bytes holds one, two or four numbers along the depth of one
// column; the words of a panel stand as (groups, columns of the panel). What is beyond the matrix is zero.
struct Matrix {
    Kind kind = Kind::float32;
    long columns = 0, depth = 0, groups = 0, panels = 0;
    const uint32_t* words = nullptr;
    const float* bias = nullptr;    // of each column of all panels, or null
    const float* scales = nullptr;  // int8: what one unit of a column is worth
    const int32_t* sums = nullptr;  // int8_quads: 128 times the sum of each column
};

struct Layer {
    Matrix query_key_value, out;
    Matrix query, key_value, context_out;  // of the attention to the context
    Matrix gate_up, down;
};

struct Sizes {
    long dim, heads, kv_heads, head_dim, hidden, layers;
    bool context, head_norm;  // blocks attend to a context; queries and keys are normalized
    float epsilon, head_epsilon;
    double base;              // of the rotary positions
};

struct Stack {
    Sizes sizes;
    const Layer* layers;
    const float* embedding;  // (vocabulary, dim)
    float embedding_scale;
    Matrix output;           // hidden states to the vocabulary
    long head_room;          // head_dim, rounded up to whole vectors
};

constexpr long page = 16;  // positions

// A source and the hypotheses that are written for it, each in a slot. What slot s wrote at position t stays where it is:
// ancestors[s][t] is the slot in which the token at t of the hypothesis that is now in slot s was written.
struct Source {
    long slots = 0;
    long length = 0;                    // keys of the context
    const float* keys = nullptr;        // (layers, kv_heads, head_dim, length rounded up to whole vectors)
    const float* values = nullptr;      // (layers, length, kv_heads, head_room)
    float* const* pages = nullptr;      // each (layers, keys and values, page, slots, kv_heads, head_room)
    const int32_t* ancestors = nullptr; // (slots, ancestor_room)
    long ancestor_room = 0;
};

struct Row {
    const Source* source;
    long slot, position, token;
};

// Cosines and signed sines of every position: (positions, head_room) each, a pair's number twice.
struct Turns {
    const float *cosines, *sines;
};

constexpr long block_columns = 256;  // of the vocabulary: the sums of a softmax are taken by blocks

// The likeliest continuations of each row, found in the blocks [begin, end) of the vocabulary.
struct Choice {
    const float* hidden;     // (rows, dim)
    long count;              // continuations of each row
    const int32_t* ids;      // of the output's columns, or null: their own numbers
    long end_column;
    float* most;             // (rows, blocks): the largest score of a block
    float* sums;             // (rows, blocks): of e^(score - most)
    float* ends;             // (rows,): the score of the end
};

// The functions of one instruction set. None throws.
struct Functions {
    long lanes, panel;
    // Bytes that one thread needs for so many rows at once, none of which attends to more than `longest` keys.
    size_t (*room)(const Stack&, long rows, long longest);
    // The normalized hidden states (rows, dim) of rows, each of which is remembered in its source's pages.
    void (*write)(const Stack&, const Turns&, const Row*, long rows, long longest, float* hidden, void* room);
    // Blocks [begin, end): scores and numbers (rows, count), the best first, -inf where there are fewer.
    void (*choose)(const Stack&, const Choice&, long row, long rows, long begin, long end, float* scores, int32_t* numbers, void* room);
    // The context's keys and values, from its hidden states (length, dim), to where `source` will read them.
    void (*remember)(const Stack&, const float* hidden, long length, float* keys, float* values, void* room);
    // Encodes whole sequences, each attending to itself: ids to hidden states (offsets[sequences] - offsets[0], dim).
    void (*encode)(const Stack&, const Turns&, const int32_t* ids, const int64_t* offsets, long sequences, long longest, float* hidden,
                   void* room);
};

}  // namespace regard::decoder

namespace regard {
namespace avx512 {
extern const decoder::Functions decoder_functions;
}
namespace avx2 {
extern const decoder::Functions decoder_functions;
}
namespace generic {
extern const decoder::Functions decoder_functions;
}
}  // namespace regard
