// The part of CUDA that gankern's kernels use, for a C++ compiler: see emulate.cpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Of the thread that runs now.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

// Returns when every thread of the block has called it or ended.
void __syncthreads();

// Kernels use it to order a warp's reads, never to pass data.
inline void __syncwarp() {}

// Threads and blocks run one at a time, so that atomics and fences have nothing to do.
template <class T>
T atomicAdd(T* p, T x) {
  const T before = *p;
  *p += x;
  return before;
}
template <class T>
T atomicExch(T* p, T x) {
  const T before = *p;
  *p = x;
  return before;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
inline void __threadfence() {}

// A block that waits for another waits for ever here: the blocks before it have ended. On a GPU it might.
inline void __nanosleep(unsigned) { std::abort(); }
