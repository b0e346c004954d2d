// What preprocess.cu needs of CUDA, for a C++ compiler: threads are the iterations of a loop.
#pragma once

#define __global__
#define __device__
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(threads)

struct Index {
    int x, y;
};

// One set for each host thread: simulated streams run side by side.
static thread_local Index threadIdx, blockIdx, blockDim;

// Run `kernel` for all threads of a grid, in the order of their numbers.
template <class Job>
void run_grid(void (*kernel)(Job), const Job& job, Index grid, Index block) {
    blockDim = block;
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
            for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y)
                for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x)
                    kernel(job);
}
