// What operators ask of the tensors that they are given.
#pragma once

#include <algorithm>

#include "common/tensor.h"

namespace gankern::spectral_norm {

inline bool same_shape(const Tensor& a, const Tensor& b) {
  const auto one = a.sizes(), two = b.sizes();
  return one.size() == two.size() && std::equal(one.begin(), one.end(), two.begin());
}

inline int32_t dtype_of(const Tensor& x) {
  int32_t dtype;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  return dtype;
}

// f(pointer, stride) of a vector of any dtype and stride.
template <class F>
void with_vector(const Tensor& x, int64_t length, const char* name, const F& f) {
  STD_TORCH_CHECK(x.dim() == 1 && x.size(0) == length, "spectral_norm: expected ", name, " of length ", length);
  dispatch_floating(x, "spectral_norm",
                    [&](auto element) { f(static_cast<decltype(element)*>(x.data_ptr()), x.stride(0)); });
}

template <class T>
void read_vector(T* to, const Tensor& from, int64_t length, const char* name) {
  with_vector(from, length, name, [&](const auto* x, int64_t stride) {
    for (int64_t k = 0; k < length; ++k) to[k] = static_cast<T>(x[k * stride]);
  });
}

template <class T>
void write_vector(const Tensor& to, const T* from, int64_t length, const char* name) {
  with_vector(to, length, name, [&](auto* x, int64_t stride) {
    for (int64_t k = 0; k < length; ++k) x[k * stride] = static_cast<std::decay_t<decltype(*x)>>(from[k]);
  });
}

}  // namespace gankern::spectral_norm
