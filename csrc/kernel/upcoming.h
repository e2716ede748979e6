// Memory that will be read or written next, asked for a few rows at a time between the tiles of a product.
//
// The rows of one head lie far apart, where the machine's own prefetching sees no pattern. Asked for at once they would fill the
// queue of outstanding misses and stop the arithmetic; spread over it they cost nothing.
#pragma once

#include "vector.h"

namespace regard::REGARD_ISA {

class Upcoming {
   public:
    void clear() { count_ = next_ = 0; }

    template <class T>
    void add(const T* rows, long stride, long count, long size, bool writing = false) {
        if (count <= 0 || count_ == most) return;
        batches_[count_++] = {reinterpret_cast<const char*>(rows), stride * long(sizeof(T)), count, size * long(sizeof(T)), writing};
    }

    // Asks for the next rows.
    REGARD_INLINE void some() {
        if (next_ < count_) fetch();
    }

   private:
    static constexpr int most = 16, lines = 48;
    struct Batch {
        const char* row;
        long stride, rows, bytes;
        bool writing;
    };

    __attribute__((noinline)) void fetch() {
        for (long fetched = 0; fetched < lines && next_ < count_;) {
            Batch& batch = batches_[next_];
            for (long byte = 0; byte < batch.bytes; byte += 64, ++fetched) {
                if (batch.writing) __builtin_prefetch(batch.row + byte, 1, 2);
                else __builtin_prefetch(batch.row + byte, 0, 2);
            }
            batch.row += batch.stride;
            if (--batch.rows == 0) ++next_;
        }
    }

    Batch batches_[most];
    int count_ = 0, next_ = 0;
};

}  // namespace regard::REGARD_ISA
