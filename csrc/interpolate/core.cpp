#include "interpolate/core.h"

#include "common/row_kernels.h"

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

template <class T>
double dot_difference(const T* a, const T* b, const T* c, int64_t count) {
  return reduce<T>(count, ProductOfDifference<T>{a, b, c});
}

template <class T>
void scale(T* out, const T* a, T c, int64_t count) {
  combine<T, 1>(out, &a, &c, count);
}

template <class T, int N>
void combine_rows(T* out, const T* const* x, const T* c, int64_t count) {
  combine<T, N>(out, x, c, count);
}

template <class T>
constexpr interpolate::Kernels<T> table = {dot_difference<T>, scale<T>, combine_rows<T, 2>, combine_rows<T, 4>};

}  // namespace

extern const interpolate::Kernels<float> interpolate_float;
extern const interpolate::Kernels<double> interpolate_double;
const interpolate::Kernels<float> interpolate_float = table<float>;
const interpolate::Kernels<double> interpolate_double = table<double>;

}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
