// Random stacks write random hypotheses on one thread and on several: the same bits, and for the sanitizers no stray access.
//
//     decoding [seed] [rounds]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../decoder/writer.h"
#include "../run.h"

namespace {

using namespace regard::decoder;

std::mt19937 engine;
long below(long end) { return long(engine() % uint32_t(end)); }
bool coin() { return below(2); }

std::vector<float> numbers(long count) {
    std::vector<float> found(static_cast<size_t>(count));
    for (float& number : found) number = float(below(2001) - 1000) / 1000.f;
    return found;
}

struct Model {
    Sizes sizes;
    long vocabulary;
    std::vector<std::vector<float>> held;
    std::shared_ptr<Weights> weights;

    Given matrix(long columns, long depth, bool bias) {
        held.push_back(numbers(columns * depth));
        const float* weight = held.back().data();
        if (bias) held.push_back(numbers(columns));
        return {weight, bias ? held.back().data() : nullptr, columns, depth};
    }

    explicit Model(bool context) {
        const long groups = 1 + below(3), kv_heads = 1 + below(3), head_dim = 2 * (1 + below(20));
        sizes = {1 + below(70), groups * kv_heads, kv_heads, head_dim, 1 + below(90), 1 + below(3), context, coin(), 1e-6f, 1e-6f, 1e4};
        vocabulary = 1 + below(700);
        const char* const precisions[] = {"fp32", "bf16", "int8"};
        weights = std::make_shared<Weights>(sizes, precisions[below(3)], coin());
        const long width = sizes.heads * head_dim, keys = kv_heads * head_dim;
        const bool bias = coin();
        for (long layer = 0; layer < sizes.layers; ++layer) {
            std::vector<Given> seven{matrix(width + 2 * keys, sizes.dim, bias), matrix(sizes.dim, width, bias)};
            if (context) {
                seven.push_back(matrix(width, sizes.dim, bias));
                seven.push_back(matrix(2 * keys, sizes.dim, bias));
                seven.push_back(matrix(sizes.dim, width, bias));
            } else {
                seven.resize(5);
            }
            seven.push_back(matrix(2 * sizes.hidden, sizes.dim, bias));
            seven.push_back(matrix(sizes.dim, sizes.hidden, bias));
            weights->add_layer(seven);
        }
        const Given output = matrix(vocabulary, sizes.dim, bias);
        weights->set_embedding(output.weight, vocabulary, 2.f);
        weights->set_output(output);
    }
};

// Everything that is answered, in order.
std::vector<char> written(const Model& model, unsigned seed, int threads) {
    engine.seed(seed);
    std::vector<char> all;
    const auto note = [&](const auto& values) {
        const auto* bytes = reinterpret_cast<const char*>(values.data());
        all.insert(all.end(), bytes, bytes + values.size() * sizeof(values[0]));
    };
    const long sources = 1 + below(9), slots = 1 + below(4), steps = 1 + below(40);
    Writer writer(model.weights, slots);
    std::vector<int64_t> names, offsets{0};
    for (long n = 0; n < sources; ++n) {
        names.push_back(10 * n);
        offsets.push_back(offsets.back() + below(60));
    }
    if (model.sizes.context) {
        const std::vector<float> hidden = numbers(offsets.back() * model.sizes.dim + 1);
        writer.admit(names.data(), sources, hidden.data(), offsets.data(), threads);
    } else {
        writer.admit(names.data(), sources, nullptr, nullptr, threads);
        for (long n = 0; n < sources; ++n) {
            std::vector<int32_t> prompt(static_cast<size_t>(below(70)));
            for (int32_t& token : prompt) token = int32_t(below(model.vocabulary));
            writer.read(names[n], prompt.data(), long(prompt.size()));
        }
        std::vector<int32_t> ids(static_cast<size_t>(offsets.back()));
        for (int32_t& id : ids) id = int32_t(below(model.vocabulary));
        std::vector<float> hidden(ids.size() * size_t(model.sizes.dim));
        encode(*model.weights, ids.data(), offsets.data(), sources, hidden.data(), threads);
        note(hidden);
    }
    std::vector<int64_t> before;  // the source of each row
    for (long step = 0; step < steps && !names.empty(); ++step) {
        std::vector<int64_t> tokens, rows, parents;
        for (const int64_t name : names) {
            const auto first = std::find(before.begin(), before.end(), name);
            const long many = first == before.end() ? 0 : std::count(before.begin(), before.end(), name);
            for (long slot = 0, width = 1 + below(slots); slot < width; ++slot) {
                rows.push_back(name);
                tokens.push_back(below(model.vocabulary));
                parents.push_back(many ? first - before.begin() + below(many) : -1);
            }
        }
        if (!below(4)) {
            std::vector<int32_t> ids;
            for (int32_t id = 0; id < model.vocabulary; ++id)
                if (coin()) ids.push_back(id);
            if (ids.size() > 3) writer.allow(ids);
        } else {
            writer.allow({});
        }
        const long count = 1 + below(std::min<long>(4, model.vocabulary));
        std::vector<int32_t> ids(rows.size() * size_t(count));
        std::vector<float> log_p(ids.size()), ends(rows.size());
        const Answer answer{count, below(model.vocabulary), ids.data(), log_p.data(), ends.data()};
        writer.step(tokens.data(), rows.data(), parents.data(), long(rows.size()), answer, threads);
        note(ids);
        note(log_p);
        note(ends);
        before = rows;
        if (!below(6)) names.erase(names.begin() + below(long(names.size())));
    }
    return all;
}

}  // namespace

int main(int count, char** arguments) {
    const unsigned seed = count > 1 ? unsigned(std::atol(arguments[1])) : 0;
    const long rounds = count > 2 ? std::atol(arguments[2]) : 60;
    for (const std::string& name : regard::instruction_sets()) {
        regard::use_instruction_set(name);
        for (unsigned round = 0; round < unsigned(rounds); ++round) {
            engine.seed(seed + round);
            const Model model(coin());
            const auto one = written(model, round, 1), several = written(model, round, 3);
            if (one != several) {
                std::printf("%s, seed %u: three threads write something else than one\n", name.c_str(), seed + round);
                return 1;
            }
        }
        std::printf("%s: %ld stacks wrote the same on one thread and on three\n", name.c_str(), rounds);
    }
    return 0;
}
