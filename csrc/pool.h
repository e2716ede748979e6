// Threads: the OpenMP pool that another library has loaded, or our own.
//
// Two pools on the same cores take turns badly: the workers of OpenMP spin for a while after each of their jobs.
#pragma once

#include <cstdint>

namespace regard {

// Calls task(context, index, worker) for every index below `count`, in rising order of their starts, on at most `threads`
// threads, the caller among them; `worker` is below `threads`. Tasks must not throw. A task may wait for a task of a lower
// index: that one has been started.
void run_tasks(long count, int threads, void (*task)(void* context, long index, int worker), void* context);

// Looks for an OpenMP runtime in this process and uses its threads from now on; says whether there is one.
bool share_openmp();

// "openmp" or "own".
const char* pool_name();

}  // namespace regard
