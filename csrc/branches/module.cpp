// A stack of blocks and its gradients, each in one call from Python, over raw addresses that regard.nn has checked and keeps alive.
//
// A branch is what a block adds to its stream, (rows, dim) of a normalized x (rows, dim): attention to the own sequence, to a source
// (source rows, dim), a feed-forward. The stream, the source, weights and their gradients are float32; what linear layers read and
// write is too, or bfloat16 where products round to it (`narrow`).
#include "module.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "../layers/module.h"
#include "../plan.h"
#include "../products/module.h"
#include "../run.h"

namespace nb = nanobind;

namespace regard {

namespace {

using Address = uintptr_t;
using Addresses = std::vector<Address>;
using Shapes = std::vector<std::pair<long, long>>;

[[noreturn]] void refuse(const char* what) { throw std::invalid_argument(what); }

// Arrays one behind the other, each from a cache line on.
class Room {
   public:
    explicit Room(Address begin) : begin_(begin) {}
    Address take(long numbers, int bytes) {
        const Address place = begin_ + used_;
        used_ += size_t(numbers * bytes + 63) / 64 * 64;
        return place;
    }
    size_t used() const { return used_; }

   private:
    Address begin_;
    size_t used_ = 0;
};

// Numbers in memory, with the bytes of one.
struct Array {
    Address at;
    int bytes;
};

// A linear layer without a bias, W (outs, ins) float32: forward, and the gradients of its input and of its weight.
struct Linear {
    long rows, ins, outs;
    bool narrow;
    int threads;

    void forward(Array x, Address weight, Array out) const {
        product(rows, outs, ins, {x.at, x.bytes, ins, false}, {weight, 4, ins, false}, out.at, out.bytes, outs, false, narrow, threads);
    }
    void input(Array grad, Address weight, Array out, bool add = false) const {
        product(rows, ins, outs, {grad.at, grad.bytes, outs, false}, {weight, 4, ins, true}, out.at, out.bytes, ins, add, narrow, threads);
    }
    // Where the weight learns.
    void weight(Array grad, Array x, Address out) const {
        if (!out) return;
        product(outs, ins, rows, {grad.at, grad.bytes, outs, true}, {x.at, x.bytes, ins, true}, out, 4, ins, false, narrow, threads);
    }
};

// Queries, keys and values where they lie.
struct Inputs {
    Rows query, key, value;
};

// The attention of a branch. The output is kept as wide as its sums where the backward pass reads it: its rounding would be multiplied
// by the mean of the keys.
struct Attention {
    Plan& plan;
    long heads, kv_heads, size;
    double eps;  // of the normalization; negative: there is none
    int bytes;

    int out_bytes() const { return bytes == 2 && !plan.problem.backward_reads_out() ? 2 : 4; }
    Rows rows_of(Address values, long row, int each) const {
        return {reinterpret_cast<void*>(values), row, size, each == 2 ? Stored::bfloat16 : Stored::whole};
    }
    // Of `columns` numbers from one row to the next, those from head `first` on.
    Rows from(Address values, long columns, long first) const { return rows_of(values + size_t(first * size * bytes), columns, bytes); }

    Call call_of(const Inputs& given, Array out, Address lse) const {
        Call call{};
        call.problem = &plan.problem;
        call.query = given.query, call.key = given.key, call.value = given.value;
        call.out = rows_of(out.at, heads * size, out.bytes);
        call.lse = reinterpret_cast<void*>(lse);
        return call;
    }
    void forward(const Inputs& given, Array out, Address lse, int threads) const {
        const Call call = call_of(given, out, lse);
        const Kernels& kernels = kernels_of(Element::float32);
        const nb::gil_scoped_release release;
        regard::forward(call, plan.forward_work(kernels), kernels, threads);
    }
    void backward(const Inputs& given, Array out, Address lse, Array grad, const Inputs& wanted, int threads) const {
        const Call call = call_of(given, out, lse);
        Gradients gradients{};
        gradients.out = rows_of(grad.at, heads * size, grad.bytes);
        gradients.query = wanted.query, gradients.key = wanted.key, gradients.value = wanted.value;
        const Kernels& kernels = kernels_of(Element::float32);
        const Problem::Chains chains = chains_of(call, gradients);
        const nb::gil_scoped_release release;
        regard::backward(call, gradients, plan.backward_work(kernels.panel, chains), kernels, threads);
    }
    // Normalizes and turns the first heads of rows, or makes of the gradient of that the one before, in place.
    void change(long rows, long count, long width, long row, Address values, Address roots, Address turns, Address grad,
                int threads) const {
        if (eps < 0 && !turns) return;
        regard::heads(bytes, rows, count, width, row, values, eps < 0 ? 0 : roots, count, eps < 0 ? 0 : eps, turns, turns ? rows : 1, grad,
                      grad ? row : 0, grad, threads);
    }
};

class Branch {
   public:
    Branch(long rows, long dim, bool narrow) : rows(rows), dim(dim), narrow(narrow), bytes(narrow ? 2 : 4) {
        if (rows < 1 || dim < 1) refuse("a branch needs rows and numbers in them");
    }
    virtual ~Branch() = default;
    virtual Shapes shapes() const = 0;  // of its matrices: (outs, ins)
    // Bytes of what the backward pass needs, and of what a pass works in.
    virtual size_t kept() const = 0;
    virtual size_t scratch() const { return kept(); }  // the gradients of what is kept
    virtual void forward(Address x, Address source, const Address* weights, Address kept, Address scratch, Address out,
                         int threads) const = 0;
    // The gradient is given for `out` and wanted for x and the weights, 0 for those that do not learn; that of the source is added up.
    virtual void backward(Address grad, Address x, Address source, const Address* weights, Address kept, Address scratch, Address grad_x,
                          Address grad_source, const Address* grads, int threads) const = 0;

    const long rows, dim;
    const bool narrow;
    const int bytes;  // of a number that linear layers read and write

   protected:
    Array array(Address at) const { return {at, bytes}; }
    Linear linear(long ins, long outs, int threads) const { return {rows, ins, outs, narrow, threads}; }
};

class Feed : public Branch {
   public:
    Feed(long rows, long dim, bool narrow, long hidden) : Branch(rows, dim, narrow), hidden_(hidden) {}
    Shapes shapes() const override { return {{2 * hidden_, dim}, {dim, hidden_}}; }
    size_t kept() const override { return Scratch(*this, 0).gated; }
    size_t scratch() const override { return Scratch(*this, 0).room.used(); }

    void forward(Address x, Address, const Address* weights, Address kept, Address scratch, Address out, int threads) const override {
        const Address gated = Scratch(*this, scratch).gated;
        linear(dim, 2 * hidden_, threads).forward(array(x), weights[0], array(kept));
        gate(bytes, rows, hidden_, kept, gated, threads);
        linear(hidden_, dim, threads).forward(array(gated), weights[1], array(out));
    }
    void backward(Address grad, Address x, Address, const Address* weights, Address kept, Address scratch, Address grad_x, Address,
                  const Address* grads, int threads) const override {
        const Scratch found(*this, scratch);
        const Linear into = linear(dim, 2 * hidden_, threads), out_of = linear(hidden_, dim, threads);
        out_of.input(array(grad), weights[1], array(found.gated));
        // What was gated is computed again, in the place of its gradient: kept, it would be a third of all that this branch keeps.
        gate_backward(bytes, rows, hidden_, kept, found.gated, found.gated, found.wide, threads);
        out_of.weight(array(grad), array(found.gated), grads[1]);
        into.weight(array(found.wide), array(x), grads[0]);
        into.input(array(found.wide), weights[0], array(grad_x));
    }

   private:
    struct Scratch {
        Room room;
        Address wide, gated;
        Scratch(const Feed& of, Address begin)
            : room(begin), wide(room.take(of.rows * 2 * of.hidden_, of.bytes)), gated(room.take(of.rows * of.hidden_, of.bytes)) {}
    };
    long hidden_;
};

class Own : public Branch {
   public:
    Own(long rows, long dim, bool narrow, Plan& plan, long heads, long kv_heads, long size, double eps, Address turns)
        : Branch(rows, dim, narrow), attention_{plan, heads, kv_heads, size, eps, bytes}, turns_(turns) {}
    Shapes shapes() const override { return {{columns(), dim}, {dim, width()}}; }
    size_t kept() const override { return Kept(*this, 0).room.used(); }

    void forward(Address x, Address, const Address* weights, Address kept, Address, Address out, int threads) const override {
        const Kept held(*this, kept);
        linear(dim, columns(), threads).forward(array(x), weights[0], array(held.heads));
        change(held, 0, threads);
        attention_.forward(parts(held.heads), held.context, held.lse, threads);
        linear(width(), dim, threads).forward(held.context, weights[1], array(out));
    }
    void backward(Address grad, Address x, Address, const Address* weights, Address kept, Address scratch, Address grad_x, Address,
                  const Address* grads, int threads) const override {
        const Kept held(*this, kept), found(*this, scratch);
        const Linear into = linear(dim, columns(), threads), out_of = linear(width(), dim, threads);
        out_of.weight(array(grad), held.context, grads[1]);
        out_of.input(array(grad), weights[1], found.context);
        attention_.backward(parts(held.heads), held.context, held.lse, found.context, parts(found.heads), threads);
        change(held, found.heads, threads);
        into.weight(array(found.heads), array(x), grads[0]);
        into.input(array(found.heads), weights[0], array(grad_x));
    }

   private:
    struct Kept {
        Room room;
        Address heads;  // queries, keys and values of a token side by side
        Array context;
        Address lse, roots;
        Kept(const Own& of, Address begin)
            : room(begin),
              heads(room.take(of.rows * of.columns(), of.bytes)),
              context{room.take(of.rows * of.width(), of.attention_.out_bytes()), of.attention_.out_bytes()},
              lse(room.take(of.rows * of.attention_.heads, 4)),
              roots(room.take(of.rows * of.changed(), 4)) {}
    };
    long width() const { return attention_.heads * attention_.size; }
    long changed() const { return attention_.heads + attention_.kv_heads; }
    long columns() const { return (attention_.heads + 2 * attention_.kv_heads) * attention_.size; }
    Inputs parts(Address heads) const {
        return {attention_.from(heads, columns(), 0), attention_.from(heads, columns(), attention_.heads),
                attention_.from(heads, columns(), changed())};
    }
    void change(const Kept& held, Address grad, int threads) const {
        attention_.change(rows, changed(), attention_.size, columns(), held.heads, held.roots, turns_, grad, threads);
    }
    Attention attention_;
    Address turns_;
};

class Across : public Branch {
   public:
    Across(long rows, long dim, bool narrow, Plan& plan, long heads, long kv_heads, long size, double eps, long source_rows)
        : Branch(rows, dim, narrow), attention_{plan, heads, kv_heads, size, eps, bytes}, source_rows_(source_rows) {}
    Shapes shapes() const override { return {{width(), dim}, {columns(), dim}, {dim, width()}}; }
    size_t kept() const override { return Kept(*this, 0).room.used(); }

    void forward(Address x, Address source, const Address* weights, Address kept, Address, Address out, int threads) const override {
        const Kept held(*this, kept);
        linear(dim, width(), threads).forward(array(x), weights[0], array(held.query));
        from_source(threads).forward({source, 4}, weights[1], array(held.pair));
        change(held, 0, 0, threads);
        attention_.forward(parts(held), held.context, held.lse, threads);
        linear(width(), dim, threads).forward(held.context, weights[2], array(out));
    }
    void backward(Address grad, Address x, Address source, const Address* weights, Address kept, Address scratch, Address grad_x,
                  Address grad_source, const Address* grads, int threads) const override {
        const Kept held(*this, kept), found(*this, scratch);
        const Linear into = linear(dim, width(), threads), out_of = linear(width(), dim, threads), from = from_source(threads);
        out_of.weight(array(grad), held.context, grads[2]);
        out_of.input(array(grad), weights[2], found.context);
        attention_.backward(parts(held), held.context, held.lse, found.context, parts(found), threads);
        change(held, found.query, found.pair, threads);
        from.weight(array(found.pair), {source, 4}, grads[1]);
        if (grad_source) from.input(array(found.pair), weights[1], {grad_source, 4}, true);
        into.weight(array(found.query), array(x), grads[0]);
        into.input(array(found.query), weights[0], array(grad_x));
    }

   private:
    struct Kept {
        Room room;
        Address query, pair;  // keys and values of a source token side by side
        Array context;
        Address lse, roots, key_roots;
        Kept(const Across& of, Address begin)
            : room(begin),
              query(room.take(of.rows * of.width(), of.bytes)),
              pair(room.take(of.source_rows_ * of.columns(), of.bytes)),
              context{room.take(of.rows * of.width(), of.attention_.out_bytes()), of.attention_.out_bytes()},
              lse(room.take(of.rows * of.attention_.heads, 4)),
              roots(room.take(of.rows, 4)),
              key_roots(room.take(of.source_rows_ * of.attention_.kv_heads, 4)) {}
    };
    long width() const { return attention_.heads * attention_.size; }
    long columns() const { return 2 * attention_.kv_heads * attention_.size; }
    Linear from_source(int threads) const { return {source_rows_, dim, columns(), narrow, threads}; }
    Inputs parts(const Kept& held) const {
        return {attention_.from(held.query, width(), 0), attention_.from(held.pair, columns(), 0),
                attention_.from(held.pair, columns(), attention_.kv_heads)};
    }
    // Queries are normalized over all heads together, as if these were one.
    void change(const Kept& held, Address grad_query, Address grad_pair, int threads) const {
        attention_.change(rows, 1, width(), width(), held.query, held.roots, 0, grad_query, threads);
        attention_.change(source_rows_, attention_.kv_heads, attention_.size, columns(), held.pair, held.key_roots, 0, grad_pair, threads);
    }
    Attention attention_;
    long source_rows_;
};

// The seed, the threshold and the factor of what is dropped; see `residual`.
using Drop = std::tuple<uint64_t, int, double>;
constexpr Drop nothing{0, 0, 1.0};

// total = x, then total += dropped(branch(normalized(total))) for one branch after the other, and the last total normalized.
class Stack {
   public:
    explicit Stack(const nb::list& branches) : kept_alive_(branches) {
        for (nb::handle branch : branches) branches_.push_back(&nb::cast<const Branch&>(branch));
        if (branches_.empty()) refuse("a stack needs a branch");
        for (const Branch* branch : branches_) {
            if (branch->rows != first().rows || branch->dim != first().dim || branch->narrow != first().narrow)
                refuse("the branches of a stack must have the same rows");
            const Shapes shapes = branch->shapes();
            counts_.push_back(shapes.size());
            shapes_.insert(shapes_.end(), shapes.begin(), shapes.end());
        }
    }
    const Shapes& shapes() const { return shapes_; }
    // Bytes of what the backward pass needs, in pieces: an allocator finds room for them more easily than for all together.
    std::vector<size_t> kept() const {
        std::vector<size_t> sizes;
        for (const Place& place : layout(Addresses(branches_.size() + 1))) sizes.push_back(place.size);
        return sizes;
    }
    size_t scratch() const { return Scratch(*this, 0).room.used(); }

    void forward(Address x, Address source, const Addresses& weights, const std::vector<double>& eps, const std::vector<Drop>& drops,
                 const Addresses& kept, Address scratch, Address out, int threads) const {
        check(weights, drops);
        if (eps.size() != branches_.size() + 1) refuse("a stack needs an epsilon for every normalization");
        const std::vector<Place> places = layout(kept);
        const Scratch room(*this, scratch);
        const Place& begin = places[0];
        normalize(first().bytes, {x, 0, 0}, begin.normalized, begin.roots, eps[0], nothing, threads);
        const Address* matrices = weights.data();
        Address so_far = x;
        for (size_t i = 0; i < branches_.size(); ++i) {
            const Place &place = places[i], &next = places[i + 1];
            branches_[i]->forward(place.normalized, source, matrices, place.kept, room.inside, room.added, threads);
            const bool last = i + 1 == branches_.size();
            const Address total = next.total ? next.total : room.total;
            const Sum sum{so_far, room.added, total};
            so_far = total;
            normalize(last ? 4 : first().bytes, sum, last ? out : next.normalized, next.roots, eps[i + 1], drops[i], threads);
            matrices += counts_[i];
        }
    }

    void backward(Address grad, Address x, Address source, const Addresses& weights, const std::vector<Drop>& drops,
                  const Addresses& kept, Address scratch, Address grad_x, Address grad_source, const Addresses& grads, int threads) const {
        check(weights, drops);
        check(grads, drops);
        std::vector<Place> places = layout(kept);
        places[0].total = x;
        const Scratch room(*this, scratch);
        const Address *matrices = weights.data() + weights.size(), *wanted = grads.data() + grads.size();
        // From the last sum back: the stream's gradient in `total`, that of what was added in `added`, of what the branch read in
        // `normalized`.
        Address grad_total = 0, grad_normalized = grad;
        for (size_t i = branches_.size(); i-- > 0;) {
            const Place& next = places[i + 1];
            // Without dropout, and as wide, it is the gradient of the sum itself.
            const bool is_copy = !first().narrow && std::get<2>(drops[i]) == 1;
            back(i + 1 == branches_.size() ? 4 : first().bytes, next, grad_total, grad_normalized, room.total, is_copy ? 0 : room.added,
                 drops[i], threads);
            grad_total = room.total, grad_normalized = room.normalized;
            matrices -= counts_[i], wanted -= counts_[i];
            branches_[i]->backward(is_copy ? room.total : room.added, places[i].normalized, source, matrices, places[i].kept, room.inside,
                                   room.normalized, grad_source, wanted, threads);
        }
        back(first().bytes, places[0], grad_total, grad_normalized, grad_x, 0, nothing, threads);
    }

   private:
    // Before branch i: what it reads, with the roots that it was normalized by; what it keeps. The sum that was normalized is kept
    // behind the last branch, where others may change the normalized, and where this was rounded to bfloat16; 0 elsewhere.
    struct Place {
        Address normalized, total, roots, kept;
        size_t size;
    };
    struct Sum {
        Address x, branch, total;
    };
    struct Scratch {
        Room room;
        Address added, total, normalized, inside;
        Scratch(const Stack& of, Address begin) : room(begin) {
            const long numbers = of.first().rows * of.first().dim;
            added = room.take(numbers, of.first().bytes), total = room.take(numbers, 4);
            normalized = room.take(numbers, of.first().bytes);
            size_t most = 0;
            for (const Branch* branch : of.branches_) most = branch->scratch() > most ? branch->scratch() : most;
            inside = room.take(long(most), 1);
        }
    };
    const Branch& first() const { return *branches_[0]; }
    std::vector<Place> layout(const Addresses& begins) const {
        if (begins.size() != branches_.size() + 1) refuse("a stack keeps something before every branch and behind the last");
        std::vector<Place> places;
        const long rows = first().rows, numbers = rows * first().dim;
        for (size_t i = 0; i <= branches_.size(); ++i) {
            const bool last = i == branches_.size();
            Room room(begins[i]);
            Place place{};
            place.normalized = last ? 0 : room.take(numbers, first().bytes);
            place.total = i && (last || first().narrow) ? room.take(numbers, 4) : 0;
            place.roots = room.take(rows, 4);
            place.kept = last ? 0 : room.take(long(branches_[i]->kept()), 1);
            place.size = room.used();
            places.push_back(place);
        }
        return places;
    }
    void check(const Addresses& weights, const std::vector<Drop>& drops) const {
        if (weights.size() != shapes_.size() || drops.size() != branches_.size()) refuse("every branch needs its weights and its dropout");
    }
    void normalize(int bytes, const Sum& sum, Address normalized, Address roots, double eps, const Drop& drop, int threads) const {
        const auto [seed, threshold, factor] = drop;
        const int of_branch = sum.branch ? first().bytes : 4;
        residual(of_branch, bytes, first().rows, first().dim, sum.x, sum.branch, sum.total, normalized, roots, eps, seed, threshold,
                 factor, threads);
    }
    void back(int bytes, const Place& place, Address grad_total, Address grad_normalized, Address grad_x, Address grad_added,
              const Drop& drop, int threads) const {
        const auto [seed, threshold, factor] = drop;
        const int of_branch = grad_added ? first().bytes : 4;
        residual_backward(of_branch, bytes, first().rows, first().dim, place.total, place.normalized, place.roots, grad_total,
                          grad_normalized, grad_x, grad_added, seed, threshold, factor, threads);
    }
    nb::list kept_alive_;
    std::vector<const Branch*> branches_;
    std::vector<size_t> counts_;  // of each branch's matrices
    Shapes shapes_;               // of all of them
};

}  // namespace

void add_branches(nb::module_& module) {
    nb::class_<Branch> branch(module, "Branch");
    nb::class_<Feed, Branch>(module, "Feed").def(nb::init<long, long, bool, long>());
    nb::class_<Own, Branch>(module, "Own")
        .def(nb::init<long, long, bool, Plan&, long, long, long, double, Address>(), nb::keep_alive<1, 5>());
    nb::class_<Across, Branch>(module, "Across")
        .def(nb::init<long, long, bool, Plan&, long, long, long, double, long>(), nb::keep_alive<1, 5>());
    nb::class_<Stack>(module, "Stack")
        .def(nb::init<const nb::list&>())
        .def_prop_ro("shapes", &Stack::shapes, "(outs, ins) of every branch's matrices, in the order in which they are used.")
        .def_prop_ro("kept", &Stack::kept, "Bytes of each piece of what the backward pass needs.")
        .def_prop_ro("scratch", &Stack::scratch, "Bytes of what a pass works in.")
        .def("forward", &Stack::forward)
        .def("backward", &Stack::backward);
}

}  // namespace regard
