// Matrices whose singular values a Newton-Schulz iteration has moved close to 1.
#pragma once

#include <array>
#include <vector>

namespace regard {

using Quintic = std::array<double, 3>;  // a x + b x^3 + c x^5 of every singular value x

struct Stack {
    const float* matrices;  // (count, rows, columns)
    float* out;
    long count, rows, columns;
};

// Singular values are first divided by the fourth root of the sum of their fourth powers, and `margin`.
void make_orthogonal(const Stack& stack, const std::vector<Quintic>& steps, double margin, int threads);

}  // namespace regard
