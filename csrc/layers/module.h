// The elementwise work of layers, for the Python module: calls over raw addresses, made while Python's lock is held.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace regard {

void residual(int branch_bytes, int normalized_bytes, long rows, long size, uintptr_t x, uintptr_t branch, uintptr_t sum,
              uintptr_t normalized, uintptr_t inverse, double eps, uint64_t seed, int threshold, double factor, int threads);
void residual_backward(int branch_bytes, int normalized_bytes, long rows, long size, uintptr_t sum, uintptr_t normalized,
                       uintptr_t inverse, uintptr_t grad_sum, uintptr_t grad_normalized, uintptr_t grad_x, uintptr_t grad_branch,
                       uint64_t seed, int threshold, double factor, int threads);
void heads(int bytes, long rows, long heads, long size, long row, uintptr_t values, uintptr_t inverse, long inverse_row, double eps,
           uintptr_t turns, long turn_rows, uintptr_t grad_out, long grad_out_row, uintptr_t grad, int threads);
void gate(int bytes, long rows, long size, uintptr_t gate_up, uintptr_t out, int threads);
void gate_backward(int bytes, long rows, long size, uintptr_t gate_up, uintptr_t out, uintptr_t grad_out, uintptr_t grad, int threads);

void add_layers(nanobind::module_& module);

}  // namespace regard
