// Sums of squares, inner products and combinations of two rows, on blocks of floats or doubles. No torch here.
// The factors 2 stand where autograd has them: a subnormal product doubled is not a double's product.
#pragma once

#include <cstdint>

#include "common/isa_table.h"

namespace gankern::norm_penalty {

template <class T>
struct Kernels {
  // <a, a>
  double (*square)(const T* a, int64_t count);
  // <a, 2 b>
  double (*twice_dot)(const T* a, const T* b, int64_t count);
  // out = c a
  void (*scale)(T* out, const T* a, T c, int64_t count);
  // out = 2 (c a)
  void (*twice_scale)(T* out, const T* a, T c, int64_t count);
  // out = 2 (c a) + e b
  void (*twice_scale_add)(T* out, const T* a, T c, const T* b, T e, int64_t count);
};

}  // namespace gankern::norm_penalty

GANKERN_DECLARE_KERNELS(norm_penalty)
