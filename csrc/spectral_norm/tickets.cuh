// Work of several phases in one launch: blocks draw tickets from one counter, and phases follow each other per layer.
//
// A ticket's work may wait for work of smaller tickets alone. Those were drawn by blocks that run, so every wait ends,
// whatever number of blocks the GPU holds at once: no cooperative launch is needed. The last block to arrive at a layer
// finishes its phase. Which block does what leaves no trace in the sums.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace gankern::spectral_norm {

constexpr int most_layers = 32;
constexpr int block_threads = 256;
constexpr int panel = 8;  // rows that one pass over v serves

// Zero before a launch.
struct Counters {
  int ticket, arrived[most_layers], done[most_layers];
};

// Scratch of a block: sums of `panel` numbers per thread, then a few words.
constexpr int scratch_doubles = panel * block_threads + 2;

__device__ __forceinline__ int& shared_word(double* scratch) {
  return *reinterpret_cast<int*>(scratch + panel * block_threads);
}

// What another block wrote in this launch is in L2, while this processor's L1 may hold something older.
template <class T>
__device__ __forceinline__ T fresh(const T* p) {
  return __ldcg(p);
}

__device__ __forceinline__ int draw(Counters* counters, double* scratch) {
  __syncthreads();
  if (threadIdx.x == 0) shared_word(scratch) = atomicAdd(&counters->ticket, 1);
  __syncthreads();
  return shared_word(scratch);
}

// Returns once a layer has gone through so many phases.
__device__ __forceinline__ void wait(Counters* counters, int layer, int phases) {
  if (threadIdx.x == 0) {
    while (atomicAdd(&counters->done[layer], 0) < phases) __nanosleep(64);
    __threadfence();
  }
  __syncthreads();
}

// Whether this block is the last of a layer's phase: `last` others arrived before it, from the first phase on.
__device__ __forceinline__ bool arrive(Counters* counters, int layer, int last, double* scratch) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared_word(scratch) = atomicAdd(&counters->arrived[layer], 1) == last;
  __syncthreads();
  __threadfence();
  return shared_word(scratch) != 0;
}

__device__ __forceinline__ void end_phase(Counters* counters, int layer, int phases) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) atomicExch(&counters->done[layer], phases);
}

// Sums of N numbers over the block, in one order; every thread gets them.
template <int N>
__device__ __forceinline__ void block_sums(double (&x)[N], double* scratch) {
  static_assert(N <= panel);
  const int t = threadIdx.x;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) scratch[i * block_threads + t] = x[i];
  for (int step = block_threads / 2; step > 0; step /= 2) {
    __syncthreads();
    if (t >= step) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) scratch[i * block_threads + t] += scratch[i * block_threads + t + step];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = scratch[i * block_threads];
}

template <class F>
__device__ __forceinline__ double block_sum(int64_t count, double* scratch, F&& f) {
  double x[1] = {0};
  for (int64_t k = threadIdx.x; k < count; k += block_threads) x[0] += f(k);
  block_sums(x, scratch);
  return x[0];
}

}  // namespace gankern::spectral_norm
