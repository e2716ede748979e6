// Arrays on the heap of exactly the size that their strides reach, so that a sanitizer sees any step outside.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <random>

namespace regard::tests {

template <class T>
class Array {
   public:
    using Four = std::array<long, 4>;

    Array() : Array({0, 0, 0, 0}, {0, 0, 0, 0}) {}
    Array(Four shape, Four strides, T fill = T(0)) : shape(shape), strides(strides) {
        long low = 0, high = 0;
        bool empty = false;
        for (int axis = 0; axis < 4; ++axis) {
            empty |= shape[axis] == 0;
            const long reach = (shape[axis] - 1) * strides[axis];
            (reach < 0 ? low : high) += reach;
        }
        count_ = empty ? 0 : high - low + 1;
        held_.reset(new T[size_t(count_)]);
        std::fill(held_.get(), held_.get() + count_, fill);
        first_ = held_.get() - (empty ? 0 : low);
    }

    T& operator()(long a, long b = 0, long c = 0, long d = 0) const {
        return first_[a * strides[0] + b * strides[1] + c * strides[2] + d * strides[3]];
    }
    T* data() const { return first_; }
    T* begin() const { return held_.get(); }
    T* end() const { return held_.get() + count_; }

    Four shape, strides;

   private:
    std::unique_ptr<T[]> held_;
    long count_;
    T* first_;
};

// (rows, heads, size) with the numbers of a head together, and otherwise in any order, with gaps.
template <class T>
Array<T> rows_array(std::mt19937_64& random, long rows, long heads, long size, bool may_repeat, T fill) {
    const auto some = [&](long most) { return long(random() % uint64_t(most + 1)); };
    const long gap = some(2) ? 0 : some(5);
    long head = size + gap, row = heads * head + (some(2) ? 0 : some(7));
    if (some(2) == 0) row = size + gap, head = rows * row;
    if (some(5) == 0) row = -row;
    if (some(5) == 0) head = -head;
    if (may_repeat && some(9) == 0) row = 0;
    if (may_repeat && some(9) == 0) head = 0;
    return Array<T>({rows, heads, size, 1}, {row, head, 1, 0}, fill);
}

template <class T>
void fill_normal(std::mt19937_64& random, const Array<T>& array) {
    std::normal_distribution<double> normal;
    for (T& number : array) number = T(normal(random));
}

}  // namespace regard::tests
