// The part of CUDA that gankern's kernels use, for a C++ compiler: see emulate.cpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Of the thread that runs now.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

// Returns when every thread of the block has called it or ended.
void __syncthreads();

// Kernels use it to order a warp's reads, never to pass data.
inline void __syncwarp() {}
