// Tensors as kernels see them: any strides and any floating dtype, read and written as the accumulation type.
#pragma once

#include <cuda_runtime.h>

#include "common/tensor.h"

namespace gankern {

// An (N, B, C) tensor, or an (N, B) one with stride_c = 0.
struct Strided {
  void* data = nullptr;
  ScalarType dtype = ScalarType::Float;
  int64_t stride_n = 0, stride_b = 0, stride_c = 0;

  Strided() = default;
  explicit Strided(const Tensor& x)
      : data(x.data_ptr()),
        dtype(x.scalar_type()),
        stride_n(x.stride(0)),
        stride_b(x.stride(1)),
        stride_c(x.dim() == 3 ? x.stride(2) : 0) {}

  __device__ __forceinline__ int64_t offset(int64_t i, int64_t b, int64_t c = 0) const {
    return i * stride_n + b * stride_b + c * stride_c;
  }
};

// Calls f with a value of x's element type, in a kernel that accumulates in T. The switch stands outside the loops,
// so that loads within them can overlap.
template <class T, class F>
__device__ __forceinline__ void with_element(const Strided& x, F&& f) {
  if constexpr (std::is_same_v<T, double>) {
    f(double{});
  } else if (x.dtype == ScalarType::Float) {
    f(float{});
  } else if (x.dtype == ScalarType::BFloat16) {
    f(torch::headeronly::BFloat16{});
  } else {
    f(torch::headeronly::Half{});
  }
}

}  // namespace gankern
