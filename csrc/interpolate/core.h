// Combinations of rows and inner products with a difference, on blocks of floats or doubles. No torch here.
#pragma once

#include <cstdint>

#include "common/isa_table.h"

namespace gankern::interpolate {

template <class T>
struct Kernels {
  // <a, b> - <a, c>
  double (*dot_difference)(const T* a, const T* b, const T* c, int64_t count);
  // out = c a
  void (*scale)(T* out, const T* a, T c, int64_t count);
  // out = sum of c[k] x[k] over two or four rows
  void (*combine_two)(T* out, const T* const* x, const T* c, int64_t count);
  void (*combine_four)(T* out, const T* const* x, const T* c, int64_t count);
};

}  // namespace gankern::interpolate

GANKERN_DECLARE_KERNELS(interpolate)
