// Cross-entropy of rows of logits and its gradient, for one instruction set: this file is compiled once for each.
//
// A row is read once for its largest logit, the sum of exponentials and the sum of logits, and once more for the gradient, which
// takes its place. Sums run over lanes first, then in double.
#include "loss.h"

#include "numbers.h"

namespace regard::REGARD_ISA {

constexpr int together = 8;  // vectors whose largest numbers are found before any exponential

template <class T>
struct Mass {
    Vector<T> top = all<T>(-infinity<T>);  // largest logit of each lane
    Vector<T> sum = {}, plain = {};        // of exp(logit - top), and of logits

    template <int count>
    REGARD_INLINE void add(const Vector<T>* logits) {
        Vector<T> next = top;
        for (int i = 0; i < count; ++i) next = larger<T>(logits[i], next);
        // A lane of nothing but -inf has no largest logit; any finite number stands in for it.
        const Vector<T> base = next == -infinity<T> ? Vector<T>{} : next;
        sum *= exponential<T>(top - base);
        for (int i = 0; i < count; ++i) sum += exponential<T>(logits[i] - base);
        top = next;
    }
};

// The last numbers of a row, fewer than a vector holds; `rest` fills the lanes that remain.
template <class S>
REGARD_INLINE Vector<Wide<S>> widened_first(const S* from, long count, Wide<S> rest) {
    S held[lanes<Wide<S>>] = {};
    for (long i = 0; i < count; ++i) held[i] = from[i];
    Vector<Wide<S>> numbers = widened(held);
    for (long i = count; i < lanes<Wide<S>>; ++i) numbers[i] = rest;
    return numbers;
}

template <class S>
REGARD_INLINE void narrowed_first(S* to, long count, Vector<Wide<S>> numbers) {
    S held[lanes<Wide<S>>];
    narrowed(held, numbers);
    for (long i = 0; i < count; ++i) to[i] = held[i];
}

template <class S>
Mass<Wide<S>> mass_of(const S* row, long size, bool plain) {
    using T = Wide<S>;
    Mass<T> mass;
    Vector<T> logits[together], sums[2] = {};
    long v = 0;
    for (; v + together * lanes<T> <= size; v += together * lanes<T>) {
        for (int i = 0; i < together; ++i) logits[i] = widened(row + v + i * lanes<T>);
        mass.template add<together>(logits);
        if (plain)
            for (int i = 0; i < together; ++i) sums[i % 2] += logits[i];
    }
    for (; v < size; v += lanes<T>) {
        const long left = size - v;
        logits[0] = left < lanes<T> ? widened_first(row + v, left, -infinity<T>) : widened(row + v);
        mass.template add<1>(logits);
        if (plain) sums[0] += left < lanes<T> ? widened_first(row + v, left, T(0)) : logits[0];
    }
    mass.plain = sums[0] + sums[1];
    return mass;
}

// What a row comes to over all lanes.
template <class T>
struct Total {
    T top = -infinity<T>;
    double sum = 0, plain = 0;

    explicit Total(const Mass<T>& mass) {
        for (int i = 0; i < lanes<T>; ++i) top = mass.top[i] > top ? mass.top[i] : top;
        const T base = top == -infinity<T> ? T(0) : top;
        const Vector<T> weights = mass.sum * exponential<T>(mass.top - base);
        for (int i = 0; i < lanes<T>; ++i) sum += double(weights[i]), plain += double(mass.plain[i]);
    }
};

// logits become share * exp(logit - top) - less.
template <class S>
void to_gradient(S* row, long size, Wide<S> top, Wide<S> share, Wide<S> less) {
    using T = Wide<S>;
    long v = 0;
#pragma GCC unroll 4
    for (; v + lanes<T> <= size; v += lanes<T>) narrowed(row + v, exponential<T>(widened(row + v) - top) * share - less);
    if (v < size) narrowed_first(row + v, size - v, exponential<T>(widened_first(row + v, size - v, top) - top) * share - less);
}

template <class S>
void loss_of_rows(const LossRows& rows, long begin, long end, bool gradient, double* losses) {
    using T = Wide<S>;
    const long size = rows.vocabulary;
    const double smoothing = rows.smoothing;
    for (long r = begin; r < end; ++r) {
        S* row = static_cast<S*>(rows.logits) + r * rows.stride;
        S* hit = row + rows.targets[r];
        const Total<T> total(mass_of(row, size, smoothing > 0));
        const T logit = widened_first(hit, 1, T(0))[0];
        const double lse = double(total.top) + logarithm<double>(all<double>(total.sum))[0];
        losses[r] = lse - (1 - smoothing) * double(logit) - (smoothing > 0 ? smoothing * (total.plain / double(size)) : 0);
        if (!gradient) continue;
        const T share = T(1 / total.sum), less = T(smoothing / double(size));
        to_gradient(row, size, total.top, share, less);
        // Written afresh, so that it is rounded once.
        const Vector<T> weight = exponential<T>(all<T>(logit - total.top)) * share;
        narrowed_first(hit, 1, weight - less - T(1 - smoothing));
    }
}

extern const LossKernels loss_kernels{loss_of_rows<float>, loss_of_rows<double>, loss_of_rows<Bfloat16>};

}  // namespace regard::REGARD_ISA
