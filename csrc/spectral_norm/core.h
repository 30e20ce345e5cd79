// Row and element loops of spectral normalisation, on raw pointers. No torch here.
#pragma once

#include <cstdint>

#include "common/isa_table.h"

namespace gankern::spectral_norm {

// A panel is `rows` rows of `columns` contiguous elements each, `stride` apart.
template <class T>
struct Kernels {
  // y_r = W_r . v, and z += sum_r y_r W_r unless z is null
  void (*multiply)(const T* w, int64_t stride, int64_t rows, int64_t columns, const T* v, T* y, T* z);
  // `stream`: b is not read again before it has left the caches. It leaves a's place to a.
  double (*dot)(const T* a, const T* b, int64_t count, bool stream);
  // sum_k x_k^2, in double
  double (*square)(const T* x, int64_t count);
  // out = x / divisor, in double
  void (*divide_exactly)(T* out, const T* x, int64_t count, double divisor);
  // out = x / divisor. `stream` keeps the output out of the caches, here and below.
  void (*divide)(T* out, const T* x, int64_t count, T divisor, bool stream);
  // out = alpha x + beta y
  void (*combine)(T* out, const T* x, T alpha, const T* y, T beta, int64_t count, bool stream);
};

// Rows whose loads of v or z are shared, at most. They are read twice, and the second time from the L1 or L2 cache.
constexpr int block_rows = 4;

}  // namespace gankern::spectral_norm

GANKERN_DECLARE_KERNELS(spectral_norm)
