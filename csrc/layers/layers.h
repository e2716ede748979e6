// The elementwise work of a transformer's blocks: what every instruction set offers, and the arrays of one call.
//
// Every function computes rows [begin, end) of its call; rows do not depend on each other.
#pragma once

#include <cstdint>

namespace regard {

// Entries whose random byte is below `threshold` become 0, the others are multiplied by `factor`.
struct Dropping {
    uint32_t keys[2];
    int threshold;
    double factor;
};

// sum = x + dropped(branch), normalized = sum / sqrt(mean(sum ** 2) + eps); contiguous (rows, size).
// x may be null: then it is 0. branch may be null: then sum is x and is not written. normalized may be null: then inverse is, too.
struct Residual {
    long size;
    const void *x, *branch;
    void *sum, *normalized, *inverse;  // inverse (rows,): of the root mean square
    double eps;
    Dropping dropping;
};

// grad_x = grad_sum + gradient by way of normalized, grad_branch = dropped(grad_x). Each may be null. Where grad_normalized is given,
// inverse is read, and either sum or normalized, whichever was kept.
struct ResidualGradients {
    long size;
    const void *sum, *normalized, *inverse, *grad_sum, *grad_normalized;
    void *grad_x, *grad_branch;
    Dropping dropping;
};

// Rows of `heads` heads, which are normalized and turned in place; a row may be longer than they are.
struct Heads {
    long heads, size, row;  // the elements of one head, and from one row to the next
    void* values;
    void* inverse;          // of the root mean square, a row of numbers for each row; null: not normalized
    long inverse_row;
    double eps;
    const void* turns;      // (turn_rows, size / 2) pairs of cosine and sine, for row r those of r % turn_rows; null: not turned
    long turn_rows;
    const void* grad_out;   // backward: the gradient of the results in `values`
    long grad_out_row;
    void* grad;             // that of what they were made from; its rows are those of `values`
};

// out = silu(gate) * up for gate_up (rows, 2 * size) and out (rows, size). Backward, out may be null or be grad_out.
struct Gate {
    long size;
    const void* gate_up;
    void* out;
    const void* grad_out;
    void* grad;  // (rows, 2 * size)
};

// The numbers of a row are float64, float32 or bfloat16; statistics of rows are float64 or float32.
enum Numbers { float64, float32, bfloat16, kinds_of_numbers };

struct LayerFunctions {
    // By the numbers of the branch and of the normalized; x and the sum are never bfloat16. Null where that does not exist.
    void (*residual[kinds_of_numbers][kinds_of_numbers])(const Residual&, long begin, long end);
    void (*residual_backward[kinds_of_numbers][kinds_of_numbers])(const ResidualGradients&, long begin, long end);
    void (*heads[kinds_of_numbers])(const Heads&, long begin, long end);
    void (*heads_backward[kinds_of_numbers])(const Heads&, long begin, long end);
    void (*gate[kinds_of_numbers])(const Gate&, long begin, long end);
    void (*gate_backward[kinds_of_numbers])(const Gate&, long begin, long end);
};

namespace avx512 {
extern const LayerFunctions layer_functions;
}
namespace avx2 {
extern const LayerFunctions layer_functions;
}
namespace generic {
extern const LayerFunctions layer_functions;
}

}  // namespace regard
