#include "interpolate/core.h"

#include "common/row_kernels.h"

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

// Terms of <a, b> - <a, c>.
template <class T>
struct DifferenceOfProducts {
  const T* a;
  const T* b;
  const T* c;
  GANKERN_INLINE Vec<T> vector(int64_t d) const {
    return load_any(a + d) * load_any(b + d) - load_any(a + d) * load_any(c + d);
  }
  GANKERN_INLINE T element(int64_t d) const { return a[d] * b[d] - a[d] * c[d]; }
};

template <class T>
double dot_difference(const T* a, const T* b, const T* c, int64_t count) {
  return reduce<T>(count, DifferenceOfProducts<T>{a, b, c});
}

template <class T>
void scale(T* out, const T* a, T c, int64_t count) {
  fill<T>(out, count, Combination<T, 1>{&a, &c});
}

template <class T, int N>
void combine(T* out, const T* const* x, const T* c, int64_t count) {
  fill<T>(out, count, Combination<T, N>{x, c});
}

template <class T>
constexpr interpolate::Kernels<T> table = {dot_difference<T>, scale<T>, combine<T, 2>, combine<T, 4>};

}  // namespace

extern const interpolate::Kernels<float> interpolate_float;
extern const interpolate::Kernels<double> interpolate_double;
const interpolate::Kernels<float> interpolate_float = table<float>;
const interpolate::Kernels<double> interpolate_double = table<double>;

}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
