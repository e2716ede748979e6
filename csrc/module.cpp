// The Python module `regard._kernel`: plans, and calls over raw addresses.
//
// The glue in regard.backends hands over addresses and strides of arrays that it has checked and keeps alive: converting arrays
// of a framework here would cost more than small calls do. Everything else is checked in this module.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <optional>

#include "branches/module.h"
#include "decoder/binding.h"
#include "layers/module.h"
#include "loss/module.h"
#include "products/module.h"
#include "plan.h"
#include "pool.h"
#include "run.h"
#ifdef REGARD_XLA
#include "xla/module.h"
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace regard {

namespace {

using Address = uintptr_t;

[[noreturn]] void refuse(const char* what) { throw std::invalid_argument(what); }

Element element_of(const nb::tuple& arguments) {
    const int itemsize = nb::cast<int>(arguments[0]);
    if (itemsize != 4 && itemsize != 8) refuse("elements must be float32 or float64");
    return itemsize == 4 ? Element::float32 : Element::float64;
}

// (address, row stride, head stride, how the numbers lie)
Rows rows_of(nb::handle given, Element element) {
    const auto tuple = nb::cast<nb::tuple>(given);
    const int stored = nb::cast<int>(tuple[3]), most = element == Element::float32 ? int(Stored::float16) : 0;
    if (stored < 0 || stored > most) refuse("numbers lie whole (0) or, for sums in float32, as bfloat16 (1) or float16 (2)");
    return {reinterpret_cast<void*>(nb::cast<Address>(tuple[0])), nb::cast<long>(tuple[1]), nb::cast<long>(tuple[2]), Stored(stored)};
}

// (address, four strides, rows, keys)
Dense dense_of(nb::handle given) {
    if (given.is_none()) return {};
    const auto t = nb::cast<nb::tuple>(given);
    return {reinterpret_cast<const void*>(nb::cast<Address>(t[0])), nb::cast<long>(t[1]), nb::cast<long>(t[2]), nb::cast<long>(t[3]),
            nb::cast<long>(t[4]), nb::cast<long>(t[5]), nb::cast<long>(t[6])};
}

// (address, head stride, first distance, count)
Distances distances_of(nb::handle given) {
    if (given.is_none()) return {};
    const auto t = nb::cast<nb::tuple>(given);
    return {reinterpret_cast<const void*>(nb::cast<Address>(t[0])), nb::cast<long>(t[1]), nb::cast<long>(t[2]), nb::cast<long>(t[3])};
}

// (bytes of a number that is computed with, query, key, value, mask, bias, distances, address of the sinks)
Call call_of(const Problem& problem, const nb::tuple& arguments, uint64_t seed) {
    Call call{};
    call.problem = &problem;
    const Element element = element_of(arguments);
    call.query = rows_of(arguments[1], element);
    call.key = rows_of(arguments[2], element);
    call.value = rows_of(arguments[3], element);
    call.mask = dense_of(arguments[4]);
    call.bias = dense_of(arguments[5]);
    call.distances = distances_of(arguments[6]);
    call.sinks = reinterpret_cast<const void*>(nb::cast<Address>(arguments[7]));
    call.seed = seed;
    const Distances& found = call.distances;
    if (found.values && problem.least_distance <= problem.most_distance &&
        (problem.least_distance < found.first || problem.most_distance >= found.first + found.count))
        refuse("a bias by distance must have a number for every distance of the call");
    return call;
}

void check_threads(int threads) {
    if (threads < 1 || threads > 4096) refuse("threads must be between 1 and 4,096");
}

}  // namespace

NB_MODULE(_kernel, module) {
    // Plans are kept by caches and graphs, which the interpreter may leave standing when it ends.
    nb::set_leak_warnings(false);
    module.doc() = "The CPU kernel of regard. Private: regard.backends.native checks what it is given.";

    nb::class_<Plan>(module, "Plan")
        .def(nb::init<const Integers&, std::tuple<long, long, long, long, long, long>, double, double, double, long,
                      std::optional<Integers>, std::optional<SmallIntegers>, std::optional<SmallIntegers>>(),
             "spans"_a, "sizes"_a, "scale"_a, "softcap"_a, "dropout"_a, "step"_a, "boxes"_a.none(), "starts"_a.none(), "ends"_a.none())
        .def_prop_ro("backward_reads_out", [](const Plan& plan) { return plan.problem.backward_reads_out(); })
        .def(
            "forward",
            [](Plan& plan, const nb::tuple& arguments, uint64_t seed, nb::handle out, Address lse, int threads) {
                check_threads(threads);
                const Element element = element_of(arguments);
                Call call = call_of(plan.problem, arguments, seed);
                call.out = rows_of(out, element);
                call.lse = reinterpret_cast<void*>(lse);
                const Kernels& kernels = kernels_of(element);
                nb::gil_scoped_release release;
                forward(call, plan.forward_work(kernels), kernels, threads);
            },
            "arguments"_a, "seed"_a, "out"_a, "lse"_a,
            "threads"_a)
        .def(
            "backward",
            [](Plan& plan, const nb::tuple& arguments, uint64_t seed, nb::handle out, Address lse, nb::handle grad_out, Address grad_lse,
               nb::handle grad_query, nb::handle grad_key, nb::handle grad_value, Address grad_bias, Address grad_sinks, int threads) {
                check_threads(threads);
                const Element element = element_of(arguments);
                Call call = call_of(plan.problem, arguments, seed);
                call.out = rows_of(out, element);
                call.lse = reinterpret_cast<void*>(lse);
                Gradients gradients{};
                gradients.out = rows_of(grad_out, element);
                gradients.lse = reinterpret_cast<const void*>(grad_lse);
                gradients.query = rows_of(grad_query, element);
                gradients.key = rows_of(grad_key, element);
                gradients.value = rows_of(grad_value, element);
                gradients.sinks = reinterpret_cast<void*>(grad_sinks);
                // A bias's gradient lies as the bias does.
                if (grad_bias && call.bias.values) {
                    gradients.bias = call.bias;
                    gradients.bias.values = reinterpret_cast<void*>(grad_bias);
                }
                if (grad_bias && call.distances.values) {
                    gradients.distances = call.distances;
                    gradients.distances.values = reinterpret_cast<void*>(grad_bias);
                }
                const Kernels& kernels = kernels_of(element);
                const Problem::Chains chains = chains_of(call, gradients);
                nb::gil_scoped_release release;
                backward(call, gradients, plan.backward_work(kernels.panel, chains), kernels, threads);
            },
            "arguments"_a, "seed"_a, "out"_a, "lse"_a,
            "grad_out"_a, "grad_lse"_a, "grad_query"_a, "grad_key"_a, "grad_value"_a, "grad_bias"_a, "grad_sinks"_a, "threads"_a)
        .def(
            "inspect",
            [](Plan& plan, const nb::tuple& arguments, Address lse, const Integers& rows, Address weights, long width,
               Address key_sums, long top, Address top_keys, Address top_weights, int threads) {
                check_threads(threads);
                Call call = call_of(plan.problem, arguments, 0);
                call.lse = reinterpret_cast<void*>(lse);
                Inspection wanted{rows.data(), long(rows.size()), reinterpret_cast<void*>(weights), width,
                                  reinterpret_cast<void*>(key_sums), top, reinterpret_cast<int64_t*>(top_keys),
                                  reinterpret_cast<void*>(top_weights)};
                const Kernels& kernels = kernels_of(element_of(arguments));
                nb::gil_scoped_release release;
                inspect(call, wanted, plan.backward_work(kernels.panel, {}), kernels, threads);
            },
            "arguments"_a, "lse"_a, "rows"_a,
            "weights"_a, "width"_a, "key_sums"_a, "top"_a, "top_keys"_a, "top_weights"_a, "threads"_a);

    module.def("instruction_sets", &instruction_sets, "The instruction sets that this machine has, the best first.");
    module.def("instruction_set", &instruction_set, "The one in use; REGARD_ISA names another before the first call.");
    module.def("use_instruction_set", &use_instruction_set, "name"_a, "Use one of `instruction_sets()` from now on.");
    module.def("fma_peak", &fma_peak, "seconds"_a, nb::call_guard<nb::gil_scoped_release>(),
               "Operations a second of one thread that only multiplies and adds float32 registers.");
    module.def("variable", [](const char* name) -> const char* { return std::getenv(name); }, "name"_a,
               "What the environment says now, or None; every call of the kernel asks, so that a look-up in Python would count.");
    module.def("share_openmp", &share_openmp, "Use the threads of the OpenMP runtime that this process has loaded, if any.");
    module.def("pool", &pool_name, "Whose threads work: 'openmp' or 'own'.");
    add_branches(module);
    add_layers(module);
    add_loss(module);
    add_products(module);
    bind_decoder(module);
#ifdef REGARD_XLA
    add_xla(module);
#endif
}

}  // namespace regard
