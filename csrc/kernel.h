// What every instruction set offers, and the arrays of one call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "problem.h"

namespace regard {

// How the numbers of an array lie: as they are computed with, or narrower, for the kernel that computes in float32.
enum class Stored { whole, bfloat16, float16 };

// Rows of a flat array (rows, heads, size): strides in elements; the elements of one head stand together.
struct Rows {
    void* values = nullptr;
    long row = 0, head = 0;
    Stored stored = Stored::whole;
};

struct Call {
    const Problem* problem;
    Rows query, key, value;
    Dense mask;           // bytes, 0 where a pair is masked
    Dense bias;           // added to the scores; in the arrays' own dtype
    Distances distances;  // likewise
    const void* sinks = nullptr;
    uint64_t seed = 0;
    Rows out;
    void* lse = nullptr;  // (queries, heads)
    bool tiles = false;   // whether products of bfloat16 go through the matrix unit
};

struct Gradients {
    Rows out;                          // of the output, given
    const void* lse = nullptr;         // of the lse, given or null
    Rows query, key, value;            // wanted
    Dense bias;                        // wanted or null; the strides of the bias
    Distances distances;               // likewise
    void* sinks = nullptr;             // wanted or null
    void* delta = nullptr;             // (queries, heads): room for what every query subtracts
    void* query_sums = nullptr;        // (queries, heads, D), where several key blocks add to the queries' and those lie narrow
    int32_t* turns = nullptr;          // one for each panel that several key blocks add to; all zero
};

// What a query gives beside its output, from the lse.
struct Inspection {
    const int64_t* rows = nullptr;     // flat queries whose weights are wanted
    long row_count = 0;
    void* weights = nullptr;           // (rows, heads, width), zero
    long width = 0;
    void* key_sums = nullptr;          // (keys, heads)
    long top = 0;
    int64_t* top_keys = nullptr;       // (queries, heads, top)
    void* top_weights = nullptr;
};

// The functions of one instruction set and element type. Each computes one unit of work; none throws.
struct Kernels {
    int bytes;        // of an element
    long panel, few;  // queries computed at once; queries computed key by key
    size_t (*forward_scratch)(const Call&);
    // `next`: the unit that this thread takes afterwards, or null.
    void (*forward)(const Call&, const ForwardUnit&, const ForwardUnit* next, void* partials, void* scratch);
    size_t (*partial_size)(const Call&);
    void (*join)(const Call&, const Join&, void* partials, void* scratch);
    void (*no_queries)(const Call&);  // writes what queries outside all spans get
    size_t (*backward_scratch)(const Call&);
    void (*delta)(const Call&, const Gradients&, long span, void* scratch);  // of a span that several blocks share
    void (*backward)(const Call&, const Gradients&, const Problem::Backward&, const BackwardUnit&, const BackwardUnit* next,
                     void* scratch);
    void (*no_gradients)(const Call&, const Gradients&);
    void (*sinks)(const Call&, const Gradients&, long head);
    void (*inspect)(const Call&, const Inspection&, const BackwardUnit&, void* scratch);
};

namespace avx512 {
extern const Kernels of_float, of_double;
double peak(double seconds);
}
namespace avx2 {
extern const Kernels of_float, of_double;
double peak(double seconds);
}
namespace generic {
extern const Kernels of_float, of_double;
double peak(double seconds);
}

}  // namespace regard
