// Kernels are launched on torch's current stream of a tensor's device, through one checked call.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "common/tensor.h"

namespace gankern {

// A block's shared memory. Its size is static, so that ptxas counts it (`make gates`). One call per kernel.
template <class T, size_t count>
__device__ __forceinline__ T* shared_memory() {
  static_assert(count * sizeof(T) <= 48 << 10, "more than any GPU gives a block without an opt-in");
  __shared__ __align__(16) T values[count];
  return values;
}

// Makes x's device current while it lives. Kernels stride over their work, so that any number of blocks may be asked
// for: CUDA's limit of 2^31 - 1 only bounds how many run at once.
class Launcher {
 public:
  explicit Launcher(const Tensor& x) : guard_(x.get_device_index()) {
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream) == 0,
                    "gankern: torch gave no stream for CUDA device ", x.get_device_index());
    stream_ = static_cast<cudaStream_t>(stream);
  }

  template <class... P>
  void operator()(const char* name, void (*kernel)(P...), int64_t blocks, int threads,
                  const std::type_identity_t<P>&... arguments) const {
    if (blocks == 0) return;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks < INT32_MAX ? blocks : INT32_MAX));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream_;
    const cudaError_t status = cudaLaunchKernelEx(&config, kernel, arguments...);
    if (status != cudaSuccess) cudaGetLastError();  // ours to report, not the next caller's
    STD_TORCH_CHECK(status == cudaSuccess, name, ": the launch failed: ", cudaGetErrorString(status));
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace gankern
