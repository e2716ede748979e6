#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace regard {

namespace {

struct Job {
    long count;
    int threads;
    void (*task)(void*, long, int);
    void* context;
    std::atomic<long> next{0};
    std::atomic<int> workers{0};

    void work() {
        const int worker = workers.fetch_add(1);
        if (worker >= threads) return;
        for (long index; (index = next.fetch_add(1)) < count;) task(context, index, worker);
    }
};

class Pool {
   public:
    // False when another call has the pool: then the caller works alone.
    bool run(Job& job) {
        std::unique_lock<std::mutex> only(busy_, std::try_to_lock);
        if (!only.owns_lock()) return false;
        grow(job.threads - 1);
        {
            std::lock_guard<std::mutex> lock(state_);
            job_ = &job;
            ++generation_;
        }
        wake_.notify_all();
        job.work();
        std::unique_lock<std::mutex> lock(state_);
        job_ = nullptr;  // who wakes up now finds nothing
        idle_.wait(lock, [&] { return active_ == 0; });
        return true;
    }

   private:
    void grow(int wanted) {
        try {
            while (int(threads_.size()) < wanted) {
                threads_.emplace_back([this] { serve(); });
                threads_.back().detach();
            }
        } catch (const std::system_error&) {
            // Fewer threads do the same work.
        }
    }

    void serve() {
        long seen = 0;
        std::unique_lock<std::mutex> lock(state_);
        for (;;) {
            wake_.wait(lock, [&] { return job_ && generation_ != seen; });
            seen = generation_;
            Job* job = job_;
            ++active_;
            lock.unlock();
            job->work();
            lock.lock();
            if (--active_ == 0) idle_.notify_one();
        }
    }

    std::mutex busy_, state_;
    std::condition_variable wake_, idle_;
    std::vector<std::thread> threads_;
    Job* job_ = nullptr;
    long generation_ = 0;
    int active_ = 0;
};

using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<Parallel> openmp{nullptr};

// Never destroyed: its threads wait until the process ends. A forked child has neither them nor OpenMP's and gets a new pool.
Pool* the_pool = nullptr;
std::once_flag made;

Pool& pool() {
    std::call_once(made, [] {
        the_pool = new Pool;
#if defined(__unix__) || defined(__APPLE__)
        pthread_atfork(nullptr, nullptr, [] {
            the_pool = new Pool;
            openmp.store(nullptr);
        });
#endif
    });
    return *the_pool;
}

}  // namespace

void run_tasks(long count, int threads, void (*task)(void*, long, int), void* context) {
    Job job{count, threads, task, context, {}, {}};
    if (threads > 1 && count > 1) {
        if (const Parallel parallel = openmp.load(std::memory_order_acquire)) {
            parallel([](void* data) { static_cast<Job*>(data)->work(); }, &job, unsigned(threads), 0);
            return;
        }
        if (pool().run(job)) return;
    }
    job.work();
}

bool share_openmp() {
#if defined(__linux__)
    if (openmp.load(std::memory_order_acquire)) return true;
    pool();  // prepares for forks
    // PyTorch's wheels bring a copy of their own; where several are loaded, theirs is the one that spins.
    std::string found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto& found = *static_cast<std::string*>(data);
            const char* name = info->dlpi_name;
            if (!name || !std::strstr(name, "libgomp")) return 0;
            if (found.empty() || std::strstr(name, "/torch/lib") || std::strstr(name, "/torch.libs/")) found = name;
            return 0;
        },
        &found);
    if (found.empty()) return false;
    void* library = dlopen(found.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (!library) return false;
    if (void* symbol = dlsym(library, "GOMP_parallel"))
        openmp.store(reinterpret_cast<Parallel>(symbol), std::memory_order_release);
#endif
    return openmp.load(std::memory_order_acquire) != nullptr;
}

const char* pool_name() { return openmp.load(std::memory_order_acquire) ? "openmp" : "own"; }

}  // namespace regard
