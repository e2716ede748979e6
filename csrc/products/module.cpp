// The part of `regard._kernel` for products: a call over raw addresses of matrices that regard.nn has checked and keeps alive.
#include "module.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "compute.h"
#include "orthogonal.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace regard {

namespace {

[[noreturn]] void refuse(const char* what) { throw std::invalid_argument(what); }

bool is_bfloat16(int bytes) {
    if (bytes != 4 && bytes != 2) refuse("numbers must be float32 or bfloat16, of 4 or 2 bytes");
    return bytes == 2;
}

Factor factor_of(const Given& given) {
    const auto [address, bytes, row, by_depth] = given;
    if (row < 0 || row > (1L << 40)) refuse("a row must begin after the one before");
    return {reinterpret_cast<const void*>(address), row, is_bfloat16(bytes), by_depth};
}

}  // namespace

void product(long rows, long columns, long depth, const Given& a, const Given& b, uintptr_t out, int out_bytes, long out_row, bool add,
             bool rounds, int threads) {
    if (threads < 1 || threads > 4096) refuse("threads must be between 1 and 4,096");
    if (rows < 0 || columns < 0 || depth < 0) refuse("sizes must not be negative");
    const Product call{rows,
                       columns,
                       depth,
                       factor_of(a),
                       factor_of(b),
                       reinterpret_cast<void*>(out),
                       out_row,
                       is_bfloat16(out_bytes),
                       add};
    if (call.add && call.out_bfloat16) refuse("sums must be float32 to be added to");
    if (rows > 1 && out_row < columns) refuse("rows of the result must not overlap");
    if (rows == 0 || columns == 0) return;
    const nb::gil_scoped_release release;
    compute(call, product_functions(rounds), threads);
}

namespace {

void orthogonal(uintptr_t matrices, uintptr_t out, long count, long rows, long columns, const std::vector<Quintic>& steps, double margin,
                int threads) {
    if (threads < 1 || threads > 4096) refuse("threads must be between 1 and 4,096");
    if (count < 0 || rows < 0 || columns < 0) refuse("sizes must not be negative");
    if (steps.empty()) refuse("there must be a step");
    if (rows == 0 || columns == 0) return;
    const nb::gil_scoped_release release;
    const Stack stack{reinterpret_cast<const float*>(matrices), reinterpret_cast<float*>(out), count, rows, columns};
    make_orthogonal(stack, steps, margin, threads);
}

}  // namespace

void add_products(nb::module_& module) {
    module.def("product", &product, "rows"_a, "columns"_a, "depth"_a, "a"_a, "b"_a, "out"_a, "out_bytes"_a, "out_row"_a, "add"_a,
               "rounds"_a, "threads"_a,
               "out = A B, or out + A B, summed in float32; with `rounds`, of factors rounded to bfloat16.");
    module.def("orthogonal", &orthogonal, "matrices"_a, "out"_a, "count"_a, "rows"_a, "columns"_a, "steps"_a, "margin"_a, "threads"_a,
               "For each of `count` matrices of float32 what a Newton-Schulz iteration with these steps makes of it.");
}

}  // namespace regard
