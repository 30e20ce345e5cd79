// Matrices of samples, (N, D), of any strides and dtype, cut into parts: what the ops on rows share.
#pragma once

#include "common/tensor.h"

namespace gankern::rows {

// Elements of a row that one work item handles, and how many of them are converted at a time. Both fix the order of
// sums, together with the shape; threads have no say.
inline constexpr int64_t part = 16384;
inline constexpr int64_t block = 1024;

// A matrix whose elements are stored as S and computed as T.
template <class S>
class Matrix {
 public:
  using T = Accumulate<S>;
  explicit Matrix(const Tensor& x)
      : data_(static_cast<S*>(x.data_ptr())), stride_n_(x.stride(0)), stride_d_(x.stride(1)) {}

  // `count` <= block elements of a row from d0 on: in place where they can be, else converted into `buffer`.
  const T* read(int64_t n, int64_t d0, int64_t count, T* buffer) const {
    const S* from = data_ + n * stride_n_ + d0 * stride_d_;
    if constexpr (std::is_same_v<S, T>) {
      if (stride_d_ == 1 || count == 1) return from;
    }
    for (int64_t k = 0; k < count; ++k) buffer[k] = static_cast<T>(from[k * stride_d_]);
    return buffer;
  }

  // Where results go: into the matrix itself, which is contiguous, or into `buffer`, for `write` to convert.
  T* target(int64_t n, int64_t d0, T* buffer) const {
    if constexpr (std::is_same_v<S, T>) {
      return data_ + n * stride_n_ + d0;
    } else {
      return buffer;
    }
  }

  void write(int64_t n, int64_t d0, int64_t count, const T* from) const {
    if constexpr (!std::is_same_v<S, T>) {
      S* to = data_ + n * stride_n_ + d0;
      for (int64_t k = 0; k < count; ++k) to[k] = static_cast<S>(from[k]);
    }
  }

 private:
  S* data_;
  int64_t stride_n_, stride_d_;
};

inline int64_t parts_of(int64_t d) { return d > part ? (d + part - 1) / part : 1; }

// f(n, part index, first element, end) for all parts of all rows, in parallel.
template <class F>
void for_each_part(int64_t n, int64_t d, const F& f) {
  const int64_t parts = parts_of(d);
  const int64_t each = d < part ? d + 16 : part;
  torch::stable::parallel_for(0, n * parts, 32768 / each + 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t p = item % parts, d0 = p * part;
      f(item / parts, p, d0, d0 + part < d ? d0 + part : d);
    }
  });
}

// f(first element, count) for the blocks of a part.
template <class F>
void for_each_block(int64_t d0, int64_t d1, const F& f) {
  for (int64_t d = d0; d < d1; d += block) f(d, d1 - d < block ? d1 - d : block);
}

// out[n] = the sum of a row's parts, in order; partial sums are [n][parts].
template <class T>
double add_parts(const Tensor& partial, int64_t n, int64_t parts) {
  const double* from = static_cast<const double*>(partial.data_ptr()) + n * parts;
  double sum = 0;
  for (int64_t p = 0; p < parts; ++p) sum += from[p];
  return sum;
}

inline void check_matrix(const Tensor& x, const Tensor& like, const char* op, const char* name) {
  STD_TORCH_CHECK(
      x.dim() == 2 && x.size(0) == like.size(0) && x.size(1) == like.size(1) && x.scalar_type() == like.scalar_type(),
      op, ": expected ", name, " of shape (N, D), all of one dtype");
}

inline void check_vector(const Tensor& x, const Tensor& like, const char* op, const char* name) {
  const ScalarType expected = like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(x.dim() == 1 && x.size(0) == like.size(0) && x.scalar_type() == expected, op, ": expected ", name,
                  " of shape (N,), float64 beside float64 samples and float32 beside all others");
}

}  // namespace gankern::rows
