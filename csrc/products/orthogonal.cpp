// The iteration runs on G = X X^T or X^T X, whichever is smaller, and on Q, of which Q X or X Q is the result: all of them are
// polynomials of one symmetric matrix, so that half of every product is enough.
#include "orthogonal.h"

#include <cmath>
#include <utility>

#include "../pool.h"
#include "compute.h"

namespace regard {

namespace {

constexpr long height = 24;  // rows of a symmetric product that are computed together, up to the last column
constexpr double tiny = 1e-36;  // of zeros, zeros come

using Numbers = std::vector<float>;

void multiply(const Product& call) { compute(call, product_functions(false), 1); }

Factor rows_of(const float* values, long row) { return {values, row, false, false}; }
Factor steps_of(const float* values, long row) { return {values, row, false, true}; }

// A or B from its row or column `first` on.
Factor after(const Factor& factor, long first) {
    Factor found = factor;
    found.values = static_cast<const float*>(factor.values) + (factor.by_depth ? first : first * factor.row);
    return found;
}

// From one row of a symmetric matrix to the next: never so many numbers that products would pack it first. Zeros fill the rows.
long row_of(long size) { return (size + 15) / 16 * 16 + 8; }

// out = A B (size, size), which is symmetric.
void symmetric(long size, long depth, const Factor& a, const Factor& b, float* out) {
    const long next = row_of(size);
    for (long begin = 0; begin < size; begin += height) {
        const long rows = size - begin < height ? size - begin : height;
        multiply({rows, size - begin, depth, after(a, begin), after(b, begin), out + begin * next + begin, next, false, false});
    }
    for (long row = height; row < size; ++row)
        for (long column = 0; column < row / height * height; ++column) out[row * next + column] = out[column * next + row];
}

void symmetric(long size, const Numbers& a, const Numbers& b, Numbers& out) {
    const long next = row_of(size);
    symmetric(size, size, rows_of(a.data(), next), steps_of(b.data(), next), out.data());
}

// P = a + b G + c G^2
void polynomial(const Quintic& step, long size, const Numbers& g, Numbers& p) {
    symmetric(size, g, g, p);
    const float b = float(step[1]), c = float(step[2]);
    for (size_t i = 0; i < p.size(); ++i) p[i] = b * g[i] + c * p[i];
    for (long i = 0; i < size; ++i) p[size_t(i * row_of(size) + i)] += float(step[0]);
}

void scale(Numbers& numbers, double factor) {
    const float by = float(factor);
    for (float& one : numbers) one *= by;
}

// Symmetric matrices of one thread.
struct Rooms {
    Numbers g, p, q, room;
    explicit Rooms(size_t numbers) : g(numbers), p(numbers), q(numbers), room(numbers) {}
};

void orthogonal(const float* x, float* out, long rows, long columns, const std::vector<Quintic>& steps, double margin, Rooms& rooms) {
    const bool tall = rows > columns;
    const long size = tall ? columns : rows, depth = tall ? rows : columns;
    auto& [g, p, q, room] = rooms;
    const Factor across = tall ? steps_of(x, columns) : rows_of(x, columns);
    symmetric(size, depth, across, across, g.data());
    double squares = 0;
    for (const float one : g) squares += double(one) * one;
    const double bound = std::sqrt(squares) * margin + tiny;
    scale(g, 1 / bound);
    for (size_t step = 0; step < steps.size(); ++step) {
        polynomial(steps[step], size, g, p);
        if (step == 0) {
            q = p;
        } else {
            symmetric(size, p, q, room);
            std::swap(q, room);
        }
        if (step + 1 == steps.size()) break;
        symmetric(size, p, g, room);
        symmetric(size, p, room, g);
    }
    scale(q, 1 / std::sqrt(bound));
    if (tall) multiply({rows, columns, columns, rows_of(x, columns), steps_of(q.data(), row_of(size)), out, columns, false, false});
    else multiply({rows, columns, rows, rows_of(q.data(), row_of(size)), steps_of(x, columns), out, columns, false, false});
}

struct Work {
    const Stack& stack;
    const std::vector<Quintic>& steps;
    double margin;
    std::vector<Rooms> rooms;
};

}  // namespace

void make_orthogonal(const Stack& stack, const std::vector<Quintic>& steps, double margin, int threads) {
    const long smaller = stack.rows < stack.columns ? stack.rows : stack.columns;
    if (threads > stack.count) threads = stack.count > 1 ? int(stack.count) : 1;
    Work work{stack, steps, margin, std::vector<Rooms>(size_t(threads), Rooms(size_t(smaller * row_of(smaller))))};
    run_tasks(
        stack.count, threads,
        [](void* context, long number, int worker) {
            Work& work = *static_cast<Work*>(context);
            const auto& [matrices, out, count, rows, columns] = work.stack;
            const long at = number * rows * columns;
            orthogonal(matrices + at, out + at, rows, columns, work.steps, work.margin,
                       work.rooms[size_t(worker)]);
        },
        &work);
}

}  // namespace regard
