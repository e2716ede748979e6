#include "weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>

#include "../run.h"

namespace regard::decoder {

namespace {

constexpr std::align_val_t alignment{64};
constexpr size_t most_rooms = 4;

const Functions& functions_of(const std::string& instructions) {
#if defined(__x86_64__)
    if (instructions == "avx512") return avx512::decoder_functions;
    if (instructions == "avx2") return avx2::decoder_functions;
#endif
    return generic::decoder_functions;
}

bool has_quads() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

Kind kind_of(const std::string& precision, bool native) {
    if (precision == "fp32") return Kind::float32;
    if (precision == "bf16") return native && multiplies_pairs() ? Kind::bfloat16_pairs : Kind::bfloat16_wide;
    if (precision == "int8") return native && has_quads() ? Kind::int8_quads : Kind::int8_wide;
    throw std::invalid_argument("precision must be fp32, bf16 or int8");
}

long numbers_of(Kind kind) {
    switch (kind) {
        case Kind::float32: return 1;
        case Kind::bfloat16_pairs:
        case Kind::bfloat16_wide: return 2;
        default: return 4;
    }
}

uint32_t word_of(const float* numbers, long count, Kind kind, float scale) {
    uint32_t word = 0;
    for (long i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, numbers + i, 4);
        if (kind == Kind::float32) return bits;
        if (numbers_of(kind) == 2) word |= (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 << (16 * i);
        else word |= uint32_t(uint8_t(int8_t(std::lrintf(numbers[i] * scale)))) << (8 * i);
    }
    return word;
}

}  // namespace

Block::Block(size_t bytes) : start_(static_cast<char*>(::operator new(std::max<size_t>(bytes, 1), alignment))), bytes_(bytes) {}
void Block::Free::operator()(char* start) const { ::operator delete(start, alignment); }

Weights::Weights(const Sizes& sizes, const std::string& precision, bool native) {
    const std::string instructions = vectors();
    functions_ = &functions_of(instructions);
    kind_ = kind_of(precision, native && instructions == "avx512");
    if (sizes.dim < 1 || sizes.heads < 1 || sizes.kv_heads < 1 || sizes.heads % sizes.kv_heads || sizes.head_dim < 2 ||
        sizes.head_dim % 2 || sizes.hidden < 1 || sizes.layers < 0)
        throw std::invalid_argument("sizes must be positive, heads of even size, and query heads a multiple of key heads");
    stack_.sizes = sizes;
    stack_.head_room = (sizes.head_dim + functions_->lanes - 1) / functions_->lanes * functions_->lanes;
    layers_.reserve(size_t(sizes.layers));
}

template <class T>
T* Weights::keep(size_t count) {
    blocks_.emplace_back(count * sizeof(T));
    std::memset(blocks_.back().as<char>(), 0, count * sizeof(T));
    return blocks_.back().as<T>();
}

Matrix Weights::packed(const Given& given) {
    const long panel = functions_->panel, numbers = numbers_of(kind_);
    Matrix m;
    m.kind = kind_;
    m.columns = given.columns;
    m.depth = given.depth;
    m.groups = (given.depth + numbers - 1) / numbers;
    m.panels = (given.columns + panel - 1) / panel;
    auto* words = keep<uint32_t>(size_t(m.panels * m.groups * panel));
    float* scales = numbers == 4 ? keep<float>(size_t(m.panels * panel)) : nullptr;
    int32_t* sums = kind_ == Kind::int8_quads ? keep<int32_t>(size_t(m.panels * panel)) : nullptr;
    for (long c = 0; c < m.columns; ++c) {
        const float* row = given.weight + c * m.depth;
        float most = 0;
        for (long k = 0; k < m.depth; ++k) most = std::max(most, std::fabs(row[k]));
        const float scale = most > 0 ? 127.f / most : 0.f;
        if (scales) scales[c] = most / 127.f;
        for (long g = 0; g < m.groups; ++g) {
            const uint32_t word = word_of(row + g * numbers, std::min(numbers, m.depth - g * numbers), kind_, scale);
            words[(c / panel * m.groups + g) * panel + c % panel] = word;
            for (int i = 0; sums && i < 4; ++i) sums[c] += 128 * int8_t(word >> (8 * i));
        }
    }
    if (given.bias) {
        float* bias = keep<float>(size_t(m.panels * panel));
        std::copy(given.bias, given.bias + m.columns, bias);
        m.bias = bias;
    }
    m.words = words;
    m.scales = scales;
    m.sums = sums;
    return m;
}

void Weights::add_layer(const std::vector<Given>& matrices) {
    if (matrices.size() != 7) throw std::invalid_argument("a layer has seven matrices");
    const Sizes& s = stack_.sizes;
    const long width = s.heads * s.head_dim, own = width + 2 * s.kv_heads * s.head_dim;
    const long expected[7][2] = {{own, s.dim}, {s.dim, width}, {width, s.dim}, {2 * s.kv_heads * s.head_dim, s.dim}, {s.dim, width},
                                 {2 * s.hidden, s.dim}, {s.dim, s.hidden}};
    Layer layer;
    Matrix* const places[7] = {&layer.query_key_value, &layer.out, &layer.query, &layer.key_value, &layer.context_out, &layer.gate_up,
                               &layer.down};
    for (int i = 0; i < 7; ++i) {
        if (!s.context && i >= 2 && i < 5) continue;
        if (!matrices[i].weight || matrices[i].columns != expected[i][0] || matrices[i].depth != expected[i][1])
            throw std::invalid_argument("a matrix has another shape than the stack's sizes say");
        *places[i] = packed(matrices[i]);
    }
    layers_.push_back(layer);
    stack_.layers = layers_.data();
}

void Weights::set_embedding(const float* values, long vocabulary, float scale) {
    float* kept = keep<float>(size_t(vocabulary * stack_.sizes.dim));
    std::copy(values, values + vocabulary * stack_.sizes.dim, kept);
    stack_.embedding = kept;
    stack_.embedding_scale = scale;
    vocabulary_ = vocabulary;
}

void Weights::set_output(const Given& output) {
    if (output.depth != stack_.sizes.dim || output.columns < 1) throw std::invalid_argument("the output must have shape (vocabulary, dim)");
    stack_.output = packed(output);
}

Matrix Weights::gathered(const std::vector<int32_t>& ids, std::vector<Block>& held) const {
    const Matrix& from = stack_.output;
    const long panel = functions_->panel, count = long(ids.size());
    Matrix m = from;
    m.columns = count;
    m.panels = (count + panel - 1) / panel;
    const auto gather = [&](const auto* source, long rows) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(source)>>;
        if (!source) return static_cast<const T*>(nullptr);
        held.emplace_back(size_t(m.panels * rows * panel) * sizeof(T));
        T* to = held.back().as<T>();
        std::fill(to, to + m.panels * rows * panel, T(0));
        for (long c = 0; c < count; ++c)
            for (long g = 0; g < rows; ++g)
                to[(c / panel * rows + g) * panel + c % panel] = source[(ids[c] / panel * rows + g) * panel + ids[c] % panel];
        return static_cast<const T*>(to);
    };
    held.clear();
    held.reserve(4);
    m.words = gather(from.words, from.groups);
    m.bias = gather(from.bias, 1);
    m.scales = gather(from.scales, 1);
    m.sums = gather(from.sums, 1);
    return m;
}

std::shared_ptr<const Block> Weights::turns(long positions) const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (turned_ >= positions) return turns_;
    const long count = std::max<long>(2 * positions, 128), size = stack_.sizes.head_dim, room = stack_.head_room;
    auto table = std::make_shared<Block>(size_t(2 * count * room) * sizeof(float));
    float *cosines = table->as<float>(), *sines = cosines + count * room;
    std::fill(cosines, cosines + 2 * count * room, 0.f);
    for (long i = 0; i < size; i += 2) {
        const double step = std::pow(stack_.sizes.base, -double(i) / double(size));
        for (long p = 0; p < count; ++p) {
            const double angle = double(p) * step;
            cosines[p * room + i] = cosines[p * room + i + 1] = float(std::cos(angle));
            sines[p * room + i + 1] = float(std::sin(angle));
            sines[p * room + i] = -sines[p * room + i + 1];
        }
    }
    turned_ = count;
    turns_ = table;
    return turns_;
}

Turns Weights::turns_at(const Block& table) const {
    return {table.as<float>(), table.as<float>() + table.bytes() / sizeof(float) / 2};
}

Block Weights::take_room(size_t bytes) const {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (Block& room : rooms_)
            if (room.bytes() >= bytes) {
                Block found = std::move(room);
                room = std::move(rooms_.back());
                rooms_.pop_back();
                return found;
            }
    }
    return Block(bytes);
}

void Weights::give_back(Block&& room) const {
    std::lock_guard<std::mutex> lock(mutex_);
    if (rooms_.size() >= most_rooms) rooms_.erase(rooms_.begin());
    rooms_.push_back(std::move(room));
}

}  // namespace regard::decoder
