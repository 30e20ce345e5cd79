#include "norm_penalty/core.h"

#include "common/row_kernels.h"

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

// Terms of <a, b> and of <a, 2 b>.
template <class T, int factor>
struct Product {
  const T* a;
  const T* b;
  GANKERN_INLINE Vec<T> vector(int64_t d) const { return load_any(a + d) * (T(factor) * load_any(b + d)); }
  GANKERN_INLINE T element(int64_t d) const { return a[d] * (T(factor) * b[d]); }
};

// Elements of 2 (c a), and of 2 (c a) + e b.
template <class T, bool add>
struct Tangent {
  const T* a;
  T c;
  const T* b;
  T e;
  GANKERN_INLINE Vec<T> vector(int64_t d) const {
    const Vec<T> twice = T(2) * (c * load_any(a + d));
    if constexpr (add) return twice + e * load_any(b + d);
    return twice;
  }
  GANKERN_INLINE T element(int64_t d) const {
    const T twice = 2 * (c * a[d]);
    if constexpr (add) return twice + e * b[d];
    return twice;
  }
};

template <class T>
double square(const T* a, int64_t count) {
  return reduce<T>(count, Product<T, 1>{a, a});
}

template <class T>
double twice_dot(const T* a, const T* b, int64_t count) {
  return reduce<T>(count, Product<T, 2>{a, b});
}

template <class T>
void scale(T* out, const T* a, T c, int64_t count) {
  fill<T>(out, count, Combination<T, 1>{&a, &c});
}

template <class T>
void twice_scale(T* out, const T* a, T c, int64_t count) {
  fill<T>(out, count, Tangent<T, false>{a, c, nullptr, 0});
}

template <class T>
void twice_scale_add(T* out, const T* a, T c, const T* b, T e, int64_t count) {
  fill<T>(out, count, Tangent<T, true>{a, c, b, e});
}

template <class T>
constexpr norm_penalty::Kernels<T> table = {square<T>, twice_dot<T>, scale<T>, twice_scale<T>, twice_scale_add<T>};

}  // namespace

extern const norm_penalty::Kernels<float> norm_penalty_float;
extern const norm_penalty::Kernels<double> norm_penalty_double;
const norm_penalty::Kernels<float> norm_penalty_float = table<float>;
const norm_penalty::Kernels<double> norm_penalty_double = table<double>;

}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
