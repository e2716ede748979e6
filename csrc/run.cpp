#include "run.h"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>

#include "pool.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace regard {

namespace {

struct InstructionSet {
    const char *name, *vectors;
    const Kernels *of_float, *of_double;
    double (*peak)(double);
    bool (*present)();
};

#if defined(__x86_64__)
// Conversions of float16: not every compiler's __builtin_cpu_supports knows their name.
bool has_f16c() {
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

// Tiles of bfloat16: Linux lets a process have them when it asks.
bool has_amx() {
#if defined(__linux__)
    constexpr unsigned of_bfloat16 = 1u << 22, of_tiles = 1u << 24;
    constexpr long ask_for_state = 0x1023, tile_data = 18;
    unsigned a, b, c, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & of_bfloat16) || !(d & of_tiles)) return false;
    static const bool granted = syscall(SYS_arch_prctl, ask_for_state, tile_data) == 0;
    return granted;
#else
    return false;
#endif
}
#endif

const InstructionSet sets[] = {
#if defined(__x86_64__)
    {"amx", "avx512", &avx512::of_float, &avx512::of_double, avx512::peak,
     [] { return has_avx512() && __builtin_cpu_supports("avx512bf16") && has_amx(); }},
    {"avx512", "avx512", &avx512::of_float, &avx512::of_double, avx512::peak, has_avx512},
    {"avx2", "avx2", &avx2::of_float, &avx2::of_double, avx2::peak,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }},
#endif
    {"generic", "generic", &generic::of_float, &generic::of_double, generic::peak, [] { return true; }},
};

const InstructionSet* find(const std::string& name) {
    for (const auto& set : sets)
        if (name == set.name && set.present()) return &set;
    std::string known;
    for (const auto& set : sets) {
        if (!set.present()) continue;
        known += known.empty() ? set.name : std::string(", ") + set.name;
    }
    throw std::invalid_argument("this machine has no instruction set called '" + name + "'; it has " + known);
}

const InstructionSet* first_present() {
    for (const auto& set : sets)
        if (set.present()) return &set;
    return nullptr;
}

std::atomic<const InstructionSet*> chosen{nullptr};

const InstructionSet& current() {
    const InstructionSet* set = chosen.load();
    if (!set) {
        const char* wanted = std::getenv("REGARD_ISA");
        set = wanted && *wanted ? find(wanted) : first_present();
        chosen.store(set);
    }
    return *set;
}

// Threads' rooms are kept between calls: fresh memory costs a page fault for every 4 KiB.
class Scratch {
   public:
    Scratch(size_t bytes, int threads) : stride_((bytes + 4095) / 4096 * 4096) {
        std::lock_guard<std::mutex> lock(mutex());
        auto& kept = store();
        for (size_t i = 0; i < kept.size(); ++i)
            if (kept[i].bytes >= stride_ * size_t(threads)) {
                block_ = kept[i];
                kept.erase(kept.begin() + long(i));
                return;
            }
        block_ = {stride_ * size_t(threads), ::operator new(stride_ * size_t(threads), std::align_val_t(4096))};
    }
    ~Scratch() {
        std::lock_guard<std::mutex> lock(mutex());
        auto& kept = store();
        if (kept.size() < most_kept && block_.bytes <= most_bytes) {
            kept.push_back(block_);
            return;
        }
        ::operator delete(block_.start, std::align_val_t(4096));
    }
    Scratch(const Scratch&) = delete;
    void operator=(const Scratch&) = delete;

    void* of(int worker) const { return static_cast<char*>(block_.start) + stride_ * size_t(worker); }

   private:
    struct Block {
        size_t bytes = 0;
        void* start = nullptr;
    };
    static constexpr size_t most_kept = 4, most_bytes = size_t(64) << 20;
    static std::mutex& mutex() {
        static auto* mutex = new std::mutex;
        return *mutex;
    }
    static std::vector<Block>& store() {
        static auto* blocks = new std::vector<Block>;
        return *blocks;
    }
    size_t stride_;
    Block block_;
};

// A lambda over tasks, as the pool's plain function.
template <class Body>
void run(long count, int threads, const Body& body) {
    run_tasks(
        count, threads, [](void* context, long index, int worker) { (*static_cast<const Body*>(context))(index, worker); },
        const_cast<Body*>(&body));
}

template <class Unit>
const Unit* following(const std::vector<Unit>& units, long number) {
    return size_t(number) + 1 < units.size() ? &units[size_t(number) + 1] : nullptr;
}

// Below some microseconds of work a second thread costs more than it brings.
int useful_threads(const Problem& problem, int threads) {
    const double work = double(problem.work()) * double(problem.sizes.heads) * double(problem.sizes.dim + problem.sizes.value_dim);
    return work < 1e6 ? 1 : threads;
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const auto& set : sets)
        if (set.present()) names.emplace_back(set.name);
    return names;
}

std::string instruction_set() { return current().name; }
std::string vectors() { return current().vectors; }
void use_instruction_set(const std::string& name) { chosen.store(find(name)); }
double fma_peak(double seconds) { return current().peak(seconds); }
bool multiplies_pairs() {
#if defined(__x86_64__)
    // On Intel's Emerald Rapids they take longer than as many products of float32.
    const bool slow = __builtin_cpu_is("intel") && !__builtin_cpu_is("cooperlake");
    return vectors() == "avx512" && __builtin_cpu_supports("avx512bf16") && !slow;
#else
    return false;
#endif
}
bool multiplies_tiles() { return instruction_set() == "amx"; }
const Kernels& kernels_of(Element element) { return element == Element::float32 ? *current().of_float : *current().of_double; }

// Which units add to the same numbers of a bias's gradient.
Problem::Chains chains_of(const Call& call, const Gradients& gradients) {
    Problem::Chains chains;
    chains.any = gradients.bias.values || gradients.distances.values;
    if (gradients.bias.values) {
        // Dilation cuts a sequence into several spans.
        const bool one_number = call.bias.row_stride == 0 && call.bias.key_stride == 0;
        chains.sequences = call.bias.sequence_stride == 0 || (call.problem->step > 1 && one_number);
        chains.heads = call.bias.head_stride == 0;
        chains.blocks = call.bias.key_stride == 0;
    }
    if (gradients.distances.values) chains.sequences = chains.blocks = true;
    return chains;
}

namespace {

Call with_tiles(Call call) {
    call.tiles = multiplies_tiles();
    return call;
}

}  // namespace

void forward(const Call& given, const Problem::Forward& work, const Kernels& kernels, int threads) {
    const Call call = with_tiles(given);
    threads = useful_threads(*call.problem, threads);
    const Scratch scratch(kernels.forward_scratch(call), threads);
    const std::unique_ptr<char[]> partials(new char[size_t(work.partials) * kernels.partial_size(call)]);
    if (!call.problem->covers_queries) kernels.no_queries(call);
    run(long(work.tasks.size()) - 1, threads, [&](long task, int worker) {
        for (long u = work.tasks[task]; u < work.tasks[task + 1]; ++u)
            kernels.forward(call, work.units[u], following(work.units, u), partials.get(), scratch.of(worker));
    });
    if (work.joins.empty()) return;
    run(long(work.joins.size()), threads,
        [&](long number, int worker) { kernels.join(call, work.joins[number], partials.get(), scratch.of(worker)); });
}

void backward(const Call& given, Gradients gradients, const Problem::Backward& work, const Kernels& kernels, int threads) {
    const Call call = with_tiles(given);
    const Problem& problem = *call.problem;
    threads = useful_threads(problem, threads);
    const Scratch scratch(kernels.backward_scratch(call), threads);
    const std::unique_ptr<char[]> delta(new char[size_t(problem.sizes.total_queries * problem.sizes.heads) * size_t(kernels.bytes)]);
    std::vector<int32_t> turns(size_t(work.turns), 0);
    gradients.delta = delta.get();
    gradients.turns = turns.data();
    const bool sums_apart = work.turns && gradients.query.stored != Stored::whole;
    const size_t sums = sums_apart ? size_t(problem.sizes.total_queries * problem.sizes.heads * problem.sizes.dim) : 0;
    const std::unique_ptr<char[]> query_sums(new char[sums * size_t(kernels.bytes)]);
    gradients.query_sums = query_sums.get();
    kernels.no_gradients(call, gradients);
    std::vector<long> shared;  // spans whose queries several blocks of keys reach
    for (long s = 0; s < long(problem.spans.size()); ++s)
        if (work.turn_begin[s] >= 0) shared.push_back(s);
    run(long(shared.size()), threads,
        [&](long i, int worker) { kernels.delta(call, gradients, shared[i], scratch.of(worker)); });
    run(long(work.tasks.size()) - 1, threads, [&](long task, int worker) {
        for (long u = work.tasks[task]; u < work.tasks[task + 1]; ++u)
            kernels.backward(call, gradients, work, work.units[u], following(work.units, u), scratch.of(worker));
    });
    if (gradients.sinks) run(problem.sizes.heads, threads, [&](long head, int) { kernels.sinks(call, gradients, head); });
}

void inspect(const Call& call, const Inspection& wanted, const Problem::Backward& work, const Kernels& kernels, int threads) {
    threads = useful_threads(*call.problem, threads);
    const Scratch scratch(kernels.backward_scratch(call), threads);
    // A head's lists and sums have one owner.
    run(call.problem->sizes.kv_heads, threads, [&](long head, int worker) {
        for (const BackwardUnit& unit : work.units)
            if (unit.kv_head == head) kernels.inspect(call, wanted, unit, scratch.of(worker));
    });
}

}  // namespace regard
