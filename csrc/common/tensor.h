// The only header that sees torch, and only its stable ABI: one library serves every torch from 2.11 on.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <exception>
#include <initializer_list>
#include <type_traits>

namespace gankern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The type that a kernel computes and accumulates in: float for the half types, else the type itself.
template <class S>
using Accumulate = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <class T>
constexpr ScalarType scalar_type_of = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;

// An uninitialised tensor on `like`'s device. torch's allocator aligns it to 64 bytes.
inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  try {
    return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()), dtype);
  } catch (const std::exception&) {
    // The stable ABI's own message has neither size nor reason.
    double elements = 1;
    for (int64_t size : sizes) elements *= static_cast<double>(size);
    STD_TORCH_CHECK(false, "gankern could not allocate ", elements * (dtype == ScalarType::Double ? 8 : 4) / 1048576,
                    " MiB (out of memory)");
  }
}

// Calls f with a value of x's element type; `op` is for the error message.
template <class F>
decltype(auto) dispatch_floating(const Tensor& x, const char* op, F&& f) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(torch::headeronly::BFloat16{});
    case ScalarType::Half:
      return f(torch::headeronly::Half{});
    default:
      STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, op,
                      ": expected float64, float32, bfloat16 or float16, got scalar type ",
                      static_cast<int>(x.scalar_type()));
      return f(float{});
  }
}

}  // namespace gankern
