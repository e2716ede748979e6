#include "binding.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "writer.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace regard {

namespace {

using decoder::Given;
using decoder::Weights;
using decoder::Writer;
using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Longs = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T, int N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Linear = std::tuple<std::optional<Floats>, std::optional<Floats>>;

[[noreturn]] void refuse(const char* what) { throw std::invalid_argument(what); }

Given given(const Linear& linear) {
    const auto& [weight, bias] = linear;
    if (!weight) return {};
    if (weight->ndim() != 2) refuse("a weight must have shape (columns, depth)");
    if (bias && bias->size() != weight->shape(0)) refuse("a bias must have a number for each column");
    return {weight->data(), bias ? bias->data() : nullptr, long(weight->shape(0)), long(weight->shape(1))};
}

std::shared_ptr<Weights> make_weights(std::tuple<long, long, long, long, long, bool, bool> sizes, std::tuple<double, double, double> facts,
                                      const std::vector<std::vector<Linear>>& layers, const Floats& embedding, double embedding_scale,
                                      const Linear& output, const std::string& precision, bool native) {
    const auto& [dim, heads, kv_heads, head_dim, hidden, context, head_norm] = sizes;
    const auto& [epsilon, head_epsilon, base] = facts;
    auto weights = std::make_shared<Weights>(decoder::Sizes{dim, heads, kv_heads, head_dim, hidden, long(layers.size()), context, head_norm,
                                                            float(epsilon), float(head_epsilon), base},
                                             precision, native);
    for (const auto& layer : layers) {
        std::vector<Given> matrices;
        for (const Linear& linear : layer) matrices.push_back(given(linear));
        weights->add_layer(matrices);
    }
    if (embedding.ndim() != 2 || long(embedding.shape(1)) != dim) refuse("the embedding must have shape (vocabulary, dim)");
    weights->set_embedding(embedding.data(), long(embedding.shape(0)), float(embedding_scale));
    if (std::get<0>(output)) weights->set_output(given(output));
    return weights;
}

void check_threads(int threads) {
    if (threads < 1 || threads > 4096) refuse("threads must be between 1 and 4,096");
}

void check_offsets(const Longs& offsets, size_t total) {
    if (offsets.size() < 1 || offsets.data()[0] != 0 || offsets.data()[offsets.size() - 1] != int64_t(total))
        refuse("offsets must begin with 0 and end with the number of tokens");
    for (size_t i = 1; i < offsets.size(); ++i)
        if (offsets.data()[i] < offsets.data()[i - 1]) refuse("offsets must rise");
}

void encode(const Weights& weights, const Ids& ids, const Longs& offsets, const Out<float, 2>& hidden, int threads) {
    check_threads(threads);
    check_offsets(offsets, ids.size());
    if (hidden.shape(0) != ids.size() || long(hidden.shape(1)) != weights.stack().sizes.dim) refuse("hidden must have shape (tokens, dim)");
    nb::gil_scoped_release release;
    decoder::encode(weights, ids.data(), offsets.data(), long(offsets.size()) - 1, hidden.data(), threads);
}

void admit(Writer& writer, const Longs& numbers, const std::optional<Floats>& hidden, const std::optional<Longs>& offsets, int threads) {
    check_threads(threads);
    if (hidden.has_value() != offsets.has_value()) refuse("contexts need both hidden states and offsets");
    if (hidden) {
        if (hidden->ndim() != 2 || long(hidden->shape(1)) != writer.weights().stack().sizes.dim)
            refuse("hidden must have shape (tokens, dim)");
        check_offsets(*offsets, hidden->shape(0));
        if (offsets->size() != numbers.size() + 1) refuse("there must be one context for each source");
    }
    nb::gil_scoped_release release;
    writer.admit(numbers.data(), long(numbers.size()), hidden ? hidden->data() : nullptr, offsets ? offsets->data() : nullptr, threads);
}

void step(Writer& writer, const Longs& tokens, const Longs& sources, const Longs& parents, int64_t end, const Out<int32_t, 2>& ids,
          const Out<float, 2>& log_p, const Out<float, 1>& end_log_p, int threads) {
    check_threads(threads);
    const size_t rows = tokens.size(), count = ids.shape(1);
    if (sources.size() != rows || parents.size() != rows || ids.shape(0) != rows || log_p.shape(0) != rows || end_log_p.size() != rows ||
        log_p.shape(1) != count)
        refuse("there must be as many sources, parents and answers as tokens");
    nb::gil_scoped_release release;
    writer.step(tokens.data(), sources.data(), parents.data(), long(rows), {long(count), end, ids.data(), log_p.data(), end_log_p.data()},
                threads);
}

}  // namespace

void bind_decoder(nb::module_& module) {
    nb::class_<Weights>(module, "StackWeights")
        .def(nb::new_(&make_weights), "sizes"_a, "facts"_a, "layers"_a, "embedding"_a, "embedding_scale"_a, "output"_a, "precision"_a,
             "native"_a = true)
        .def("encode", &encode, "ids"_a, "offsets"_a, "hidden"_a, "threads"_a)
        .def_prop_ro("vocabulary", &Weights::vocabulary);
    nb::class_<Writer>(module, "Writer")
        .def(
            "__init__",
            [](Writer* self, std::shared_ptr<Weights> weights, long slots) { new (self) Writer(std::move(weights), slots); },
            "weights"_a, "slots"_a)
        .def("admit", &admit, "numbers"_a, "hidden"_a.none(), "offsets"_a.none(), "threads"_a)
        .def("read", [](Writer& writer, int64_t number, const Ids& tokens) { writer.read(number, tokens.data(), long(tokens.size())); })
        .def("allow", [](Writer& writer, const Ids& ids) { writer.allow({ids.data(), ids.data() + ids.size()}); }, "ids"_a)
        .def("step", &step, "tokens"_a, "sources"_a, "parents"_a, "end"_a, "ids"_a, "log_p"_a, "end_log_p"_a, "threads"_a)
        .def_prop_ro("sources", &Writer::sources);
}

}  // namespace regard
