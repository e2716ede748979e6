// Blocks of rows by groups of panels are shared out to threads.
#include "compute.h"

#include <memory>
#include <new>
#include <string>

#include "../pool.h"
#include "../run.h"

namespace regard {

namespace {

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

constexpr long most_rows = 96, fewest_rows = 24, most_panels = 8, tasks_of_thread = 8;

long parts(long size, long most) { return (size + most - 1) / most; }

// Blocks of rows by groups of panels, of nearly one size. More blocks for more threads rather than groups, of which each makes its
// rows of A ready anew.
struct Work {
    const Product& call;
    const ProductFunctions& functions;
    int threads;
    long wanted = threads > 1 ? threads * tasks_of_thread : 1;
    long panels = functions.panels(call);
    long units = parts(call.rows, functions.unit);
    long blocks = larger(parts(call.rows, most_rows), smaller(parts(call.rows, fewest_rows), wanted));
    long groups = smaller(panels, larger(parts(panels, most_panels), parts(wanted, blocks)));
    size_t packed = functions.packed_bytes(call);
    size_t each = (functions.room_bytes(call, parts(units, blocks) * functions.unit, parts(panels, groups)) + 63) / 64 * 64;
    Room* room = nullptr;

    static long smaller(long a, long b) { return a < b ? a : b; }
    static long larger(long a, long b) { return a < b ? b : a; }

    void multiply(long task, int worker) const {
        // Neighbours share a group of panels.
        const long block = task % blocks, group = task / blocks;
        functions.multiply(call, row_of(block), row_of(block + 1), panels * group / groups, panels * (group + 1) / groups, room->at(0),
                           room->at(packed + size_t(worker) * each));
    }
    long row_of(long block) const { return smaller(call.rows, units * block / blocks * functions.unit); }
};

}  // namespace

const ProductFunctions& product_functions(bool rounds) {
    const std::string name = vectors();
    const ProductKernels* kernels = &generic::product_kernels;
#if defined(__x86_64__)
    if (name == "avx512") kernels = &avx512::product_kernels;
    if (name == "avx2") kernels = &avx2::product_kernels;
#endif
    if (!rounds) return kernels->floats;
    return multiplies_tiles() ? kernels->tiles : multiplies_pairs() ? kernels->pairs : kernels->rounded;
}

void compute(const Product& call, const ProductFunctions& functions, int threads) {
    // A thread more is not worth its waking for less than that.
    if (double(call.rows) * double(call.columns) * double(call.depth) < 1e6) threads = 1;
    Work work{call, functions, threads};
    const long tasks = work.blocks * work.groups;
    if (threads > tasks) threads = int(tasks);
    work.packed = (work.packed + 63) / 64 * 64;
    Room room(work.packed + size_t(threads) * work.each);
    work.room = &room;
    if (work.packed)
        run_tasks(
            functions.pack_parts(call), threads,
            [](void* context, long part, int) {
                const Work& work = *static_cast<const Work*>(context);
                work.functions.pack(work.call, part, work.room->at(0));
            },
            &work);
    run_tasks(
        tasks, threads,
        [](void* context, long task, int worker) { static_cast<const Work*>(context)->multiply(task, worker); }, &work);
}

}  // namespace regard
