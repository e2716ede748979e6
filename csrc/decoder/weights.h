// A stack's weights, packed once for one instruction set, and what its passes share: turns of positions, rooms of threads.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "stack.h"

namespace regard::decoder {

// Memory on a cache line, not cleared.
class Block {
   public:
    Block() = default;
    explicit Block(size_t bytes);
    template <class T>
    T* as() const {
        return reinterpret_cast<T*>(start_.get());
    }
    size_t bytes() const { return bytes_; }

   private:
    struct Free {
        void operator()(char* start) const;
    };
    std::unique_ptr<char, Free> start_;
    size_t bytes_ = 0;
};

// (columns, depth), row by row, and a bias or null.
struct Given {
    const float *weight = nullptr, *bias = nullptr;
    long columns = 0, depth = 0;
};

// "fp32", "bf16" or "int8"; throws std::invalid_argument for another. Without `native` the machine's own products of bytes and
// of bfloat16 are left alone.
class Weights {
   public:
    Weights(const Sizes& sizes, const std::string& precision, bool native);
    Weights(const Weights&) = delete;
    void operator=(const Weights&) = delete;

    void add_layer(const std::vector<Given>& matrices);  // the seven of a `Layer`, in its order
    void set_embedding(const float* values, long vocabulary, float scale);
    void set_output(const Given& output);

    const Stack& stack() const { return stack_; }
    const Functions& functions() const { return *functions_; }
    long vocabulary() const { return vocabulary_; }

    // Of at least so many positions; what is returned stays.
    std::shared_ptr<const Block> turns(long positions) const;
    Turns turns_at(const Block& table) const;

    // Memory for so many threads, kept for the next call.
    Block take_room(size_t bytes) const;
    void give_back(Block&& room) const;

    // Columns `ids` of the output, packed anew into `words` and the rest.
    Matrix gathered(const std::vector<int32_t>& ids, std::vector<Block>& held) const;

   private:
    Matrix packed(const Given& given);
    template <class T>
    T* keep(size_t count);

    Stack stack_{};
    const Functions* functions_;
    Kind kind_;
    long vocabulary_ = 0;
    std::vector<Layer> layers_;
    std::vector<Block> blocks_;
    mutable std::mutex mutex_;
    mutable std::shared_ptr<const Block> turns_;
    mutable long turned_ = 0;
    mutable std::vector<Block> rooms_;
};

}  // namespace regard::decoder
