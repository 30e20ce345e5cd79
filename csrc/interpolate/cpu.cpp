#include "common/rows.h"
#include "interpolate/core.h"

// Checks and parallel regions; the loops over elements are in core.cpp.

namespace gankern::interpolate {
namespace {

using rows::Matrix;

void check(const Tensor& real, const Tensor& fake, const Tensor& alpha, const char* op) {
  STD_TORCH_CHECK(real.dim() == 2, op, ": expected real of shape (N, D), got ", real.dim(), " dimensions");
  rows::check_matrix(fake, real, op, "fake");
  rows::check_vector(alpha, real, op, "alpha");
}

// A vector of one number per sample, of any stride.
template <class T>
struct PerSample {
  const T* data;
  int64_t stride;
  explicit PerSample(const Tensor& x) : data(static_cast<const T*>(x.data_ptr())), stride(x.stride(0)) {}
  T operator[](int64_t n) const { return data[n * stride]; }
};

// out[n] = <a, b> - <a, c> per row, from partial sums in [N][parts].
template <class T>
Tensor add_partial(const Tensor& partial, const Tensor& like) {
  const int64_t n = partial.size(0), parts = partial.size(1);
  Tensor out = new_empty(like, {n}, scalar_type_of<T>);
  T* to = static_cast<T*>(out.data_ptr());
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(rows::add_parts<T>(partial, i, parts));
  return out;
}

Tensor forward(const Tensor& real, const Tensor& fake, const Tensor& alpha) {
  check(real, fake, alpha, "interpolate");
  return dispatch_floating(real, "interpolate", [&](auto element) {
    using S = decltype(element);
    using T = Accumulate<S>;
    const auto combine = kernels<T>(isa()).combine_two;
    const int64_t n = real.size(0), d = real.size(1);
    Tensor result = new_empty(real, {n, d}, real.scalar_type());
    const Matrix<S> r(real), f(fake), out(result);
    const PerSample<T> a(alpha);
    rows::for_each_part(n, d, [&](int64_t i, int64_t, int64_t d0, int64_t d1) {
      alignas(64) T first[rows::block], second[rows::block], buffer[rows::block];
      const T factors[2] = {a[i], 1 - a[i]};
      rows::for_each_block(d0, d1, [&](int64_t at, int64_t count) {
        const T* terms[2] = {r.read(i, at, count, first), f.read(i, at, count, second)};
        T* to = out.target(i, at, buffer);
        combine(to, terms, factors, count);
        out.write(i, at, count, to);
      });
    });
    return result;
  });
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& real, const Tensor& fake,
                                            const Tensor& alpha) {
  check(real, fake, alpha, "interpolate_backward");
  rows::check_matrix(grad, real, "interpolate_backward", "grad");
  return dispatch_floating(real, "interpolate_backward", [&](auto element) {
    using S = decltype(element);
    using T = Accumulate<S>;
    const Kernels<T>& run = kernels<T>(isa());
    const int64_t n = real.size(0), d = real.size(1), parts = rows::parts_of(d);
    Tensor dreal = new_empty(real, {n, d}, real.scalar_type()), dfake = new_empty(real, {n, d}, real.scalar_type());
    Tensor partial = new_empty(real, {n, parts}, ScalarType::Double);
    double* sums = static_cast<double*>(partial.data_ptr());
    const Matrix<S> g(grad), r(real), f(fake), out_r(dreal), out_f(dfake);
    const PerSample<T> a(alpha);
    rows::for_each_part(n, d, [&](int64_t i, int64_t p, int64_t d0, int64_t d1) {
      alignas(64) T first[rows::block], second[rows::block], third[rows::block], buffer[rows::block];
      double sum = 0;
      rows::for_each_block(d0, d1, [&](int64_t at, int64_t count) {
        const T* up = g.read(i, at, count, first);
        sum += run.dot_difference(up, r.read(i, at, count, second), f.read(i, at, count, third), count);
        T* to = out_r.target(i, at, buffer);
        run.scale(to, up, a[i], count);
        out_r.write(i, at, count, to);
        to = out_f.target(i, at, buffer);
        run.scale(to, up, 1 - a[i], count);
        out_f.write(i, at, count, to);
      });
      sums[i * parts + p] = sum;
    });
    return std::tuple(dreal, dfake, add_partial<T>(partial, real));
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(const Tensor& vr, const Tensor& vf, const Tensor& va,
                                                           const Tensor& grad, const Tensor& real, const Tensor& fake,
                                                           const Tensor& alpha) {
  constexpr const char* op = "interpolate_double_backward";
  check(real, fake, alpha, op);
  rows::check_matrix(vr, real, op, "vr");
  rows::check_matrix(vf, real, op, "vf");
  rows::check_vector(va, real, op, "va");
  rows::check_matrix(grad, real, op, "grad");
  return dispatch_floating(real, op, [&](auto element) {
    using S = decltype(element);
    using T = Accumulate<S>;
    const Kernels<T>& run = kernels<T>(isa());
    const int64_t n = real.size(0), d = real.size(1), parts = rows::parts_of(d);
    Tensor dgrad = new_empty(real, {n, d}, real.scalar_type()), dreal = new_empty(real, {n, d}, real.scalar_type());
    Tensor dfake = new_empty(real, {n, d}, real.scalar_type());
    Tensor partial = new_empty(real, {n, parts}, ScalarType::Double);
    double* sums = static_cast<double*>(partial.data_ptr());
    const Matrix<S> g(grad), r(real), f(fake), cr(vr), cf(vf), out_g(dgrad), out_r(dreal), out_f(dfake);
    const PerSample<T> a(alpha), w(va);
    rows::for_each_part(n, d, [&](int64_t i, int64_t p, int64_t d0, int64_t d1) {
      alignas(64) T b0[rows::block], b1[rows::block], b2[rows::block], b3[rows::block], b4[rows::block];
      alignas(64) T buffer[rows::block];
      const T factors[4] = {a[i], 1 - a[i], w[i], -w[i]};
      double sum = 0;
      rows::for_each_block(d0, d1, [&](int64_t at, int64_t count) {
        const T* terms[4] = {cr.read(i, at, count, b0), cf.read(i, at, count, b1), r.read(i, at, count, b2),
                             f.read(i, at, count, b3)};
        const T* up = g.read(i, at, count, b4);
        sum += run.dot_difference(up, terms[0], terms[1], count);
        T* to = out_g.target(i, at, buffer);
        run.combine_four(to, terms, factors, count);
        out_g.write(i, at, count, to);
        to = out_r.target(i, at, buffer);
        run.scale(to, up, w[i], count);
        out_r.write(i, at, count, to);
        to = out_f.target(i, at, buffer);
        run.scale(to, up, -w[i], count);
        out_f.write(i, at, count, to);
      });
      sums[i * parts + p] = sum;
    });
    return std::tuple(dgrad, dreal, dfake, add_partial<T>(partial, real));
  });
}

}  // namespace
}  // namespace gankern::interpolate

STABLE_TORCH_LIBRARY_IMPL(gankern_native, CPU, m) {
  using namespace gankern::interpolate;
  m.impl("interpolate", TORCH_BOX(&forward));
  m.impl("interpolate_backward", TORCH_BOX(&backward));
  m.impl("interpolate_double_backward", TORCH_BOX(&double_backward));
}
