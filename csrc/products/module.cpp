// The part of `regard._kernel` for products: a call over raw addresses of matrices that regard.nn has checked and keeps alive.
#include "module.h"

#include <nanobind/stl/tuple.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "../pool.h"
#include "../run.h"
#include "products.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace regard {

namespace {

// Address, bytes of a number, elements from one row of memory to the next, whether such a row is a step of the depth.
using Given = std::tuple<uintptr_t, int, long, bool>;

[[noreturn]] void refuse(const char* what) { throw std::invalid_argument(what); }

const ProductFunctions& functions(bool rounds) {
    const std::string name = instruction_set();
    const ProductKernels* kernels = &generic::product_kernels;
#if defined(__x86_64__)
    if (name == "avx512") kernels = &avx512::product_kernels;
    if (name == "avx2") kernels = &avx2::product_kernels;
#endif
    return !rounds ? kernels->floats : multiplies_pairs() ? kernels->pairs : kernels->rounded;
}

bool is_bfloat16(int bytes) {
    if (bytes != 4 && bytes != 2) refuse("numbers must be float32 or bfloat16, of 4 or 2 bytes");
    return bytes == 2;
}

Factor factor_of(const Given& given) {
    const auto [address, bytes, row, by_depth] = given;
    if (row < 0 || row > (1L << 40)) refuse("a row must begin after the one before");
    return {reinterpret_cast<const void*>(address), row, is_bfloat16(bytes), by_depth};
}

// Memory on a cache line, which a thread keeps for its next call unless it is large.
class Room {
   public:
    explicit Room(size_t bytes) {
        if (bytes > kept_.bytes || bytes > most_kept) kept_ = {}, kept_ = Block(bytes);
        start_ = kept_.start.get();
    }
    ~Room() {
        if (kept_.bytes > most_kept) kept_ = {};
    }
    float* at(size_t byte) const { return reinterpret_cast<float*>(start_ + byte); }

   private:
    static constexpr size_t most_kept = size_t(1) << 24;
    static constexpr std::align_val_t line{64};
    struct Free {
        void operator()(char* start) const { ::operator delete(start, line); }
    };
    struct Block {
        std::unique_ptr<char, Free> start;
        size_t bytes = 0;
        Block() = default;
        explicit Block(size_t wanted) : start(static_cast<char*>(::operator new(wanted, line))), bytes(wanted) {}
    };
    static thread_local Block kept_;
    char* start_;
};
thread_local Room::Block Room::kept_;

constexpr long most_rows = 96, most_panels = 8, wanted_tasks = 16;

long parts(long size, long most) { return (size + most - 1) / most; }

// Blocks of rows by groups of panels, of nearly one size.
struct Work {
    const Product& call;
    const ProductFunctions& functions;
    long panels = functions.panels(call);
    long blocks = parts(call.rows, most_rows);
    long groups = smaller(panels, larger(parts(panels, most_panels), parts(wanted_tasks, blocks)));
    size_t packed = functions.packed_bytes(call);
    size_t each = (functions.room_bytes(call, parts(call.rows, blocks), parts(panels, groups)) + 63) / 64 * 64;
    Room* room = nullptr;

    static long smaller(long a, long b) { return a < b ? a : b; }
    static long larger(long a, long b) { return a < b ? b : a; }

    void multiply(long task, int worker) const {
        // Neighbours share a group of panels.
        const long block = task % blocks, group = task / blocks;
        functions.multiply(call, call.rows * block / blocks, call.rows * (block + 1) / blocks, panels * group / groups,
                           panels * (group + 1) / groups, room->at(0), room->at(packed + size_t(worker) * each));
    }
};

void compute(const Product& call, const ProductFunctions& functions, int threads) {
    Work work{call, functions};
    const long tasks = work.blocks * work.groups;
    // A thread more is not worth its waking for less than that.
    if (double(call.rows) * double(call.columns) * double(call.depth) < 1e6) threads = 1;
    if (threads > tasks) threads = int(tasks);
    work.packed = (work.packed + 63) / 64 * 64;
    Room room(work.packed + size_t(threads) * work.each);
    work.room = &room;
    if (work.packed)
        run_tasks(
            work.panels, threads,
            [](void* context, long panel, int) {
                const Work& work = *static_cast<const Work*>(context);
                work.functions.pack(work.call, panel, work.room->at(0));
            },
            &work);
    run_tasks(
        tasks, threads,
        [](void* context, long task, int worker) { static_cast<const Work*>(context)->multiply(task, worker); }, &work);
}

void product(long rows, long columns, long depth, const Given& a, const Given& b, uintptr_t out, int out_bytes, long out_row, bool add,
             bool rounds, int threads) {
    if (threads < 1 || threads > 4096) refuse("threads must be between 1 and 4,096");
    if (rows < 0 || columns < 0 || depth < 0) refuse("sizes must not be negative");
    const Product call{rows,
                       columns,
                       depth,
                       factor_of(a),
                       factor_of(b),
                       reinterpret_cast<void*>(out),
                       out_row,
                       is_bfloat16(out_bytes),
                       add};
    if (call.add && call.out_bfloat16) refuse("sums must be float32 to be added to");
    if (rows > 1 && out_row < columns) refuse("rows of the result must not overlap");
    if (rows == 0 || columns == 0) return;
    const nb::gil_scoped_release release;
    compute(call, functions(rounds), threads);
}

}  // namespace

void add_products(nb::module_& module) {
    module.def("product", &product, "rows"_a, "columns"_a, "depth"_a, "a"_a, "b"_a, "out"_a, "out_bytes"_a, "out_row"_a, "add"_a,
               "rounds"_a, "threads"_a,
               "out = A B, or out + A B, summed in float32; with `rounds`, of factors rounded to bfloat16.");
}

}  // namespace regard
