// out = A B or out + A B for matrices in memory: what every instruction set offers, and the arrays of one call.
//
// With A = x, B = W^T a linear layer, with A = g, B = W the gradient of its input, with A = g^T, B = x that of its weight.
#pragma once

#include <cstddef>

namespace regard {

// A (rows, depth) or B (depth, columns) of a product.
struct Factor {
    const void* values = nullptr;
    long row = 0;          // from one row of memory to the next, in elements
    bool bfloat16 = false;  // as stored, else float32
    bool by_depth = false;  // a row of memory is one step of the depth; else it is a row of A or a column of B
};

struct Product {
    long rows, columns, depth;
    Factor a, b;
    void* out;  // (rows, columns)
    long out_row;
    bool out_bfloat16;
    bool add;  // to what stands there
};

// Columns are cut into panels. A sum runs over the depth in one order, however rows and panels are shared out.
struct ProductFunctions {
    long unit;  // of rows that are multiplied together
    long (*panels)(const Product&);
    size_t (*packed_bytes)(const Product&);
    long (*pack_parts)(const Product&);
    void (*pack)(const Product&, long part, float* packed);
    size_t (*room_bytes)(const Product&, long rows, long panels);  // for `multiply` of so many
    void (*multiply)(const Product&, long begin, long end, long first_panel, long last_panel, const float* packed, float* room);
};

// By what is multiplied: float32; factors rounded to bfloat16; those in pairs, which only some machines with AVX-512 can, and fewer in
// whole tiles.
struct ProductKernels {
    ProductFunctions floats, rounded, pairs, tiles;
};

namespace avx512 {
extern const ProductKernels product_kernels;
}
namespace avx2 {
extern const ProductKernels product_kernels;
}
namespace generic {
extern const ProductKernels product_kernels;
}

}  // namespace regard
