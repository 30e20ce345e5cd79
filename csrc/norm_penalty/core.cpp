#include "norm_penalty/core.h"

#include "common/row_kernels.h"

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

template <class T>
double dot(const T* a, const T* b, int64_t count) {
  return reduce<T>(count, Product<T>{a, b});
}

template <class T>
void scale(T* out, const T* a, T c, int64_t count) {
  combine<T, 1>(out, &a, &c, count);
}

template <class T>
void combine_two(T* out, const T* a, T c, const T* b, T e, int64_t count) {
  const T* rows[2] = {a, b};
  const T factors[2] = {c, e};
  combine<T, 2>(out, rows, factors, count);
}

template <class T>
constexpr norm_penalty::Kernels<T> table = {dot<T>, scale<T>, combine_two<T>};

}  // namespace

extern const norm_penalty::Kernels<float> norm_penalty_float;
extern const norm_penalty::Kernels<double> norm_penalty_double;
const norm_penalty::Kernels<float> norm_penalty_float = table<float>;
const norm_penalty::Kernels<double> norm_penalty_double = table<double>;

}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
