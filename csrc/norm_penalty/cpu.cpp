#include <cmath>

#include "common/rows.h"
#include "norm_penalty/core.h"

// Checks, parallel regions and the few scalar formulas per sample; the loops over elements are in core.cpp.

namespace gankern::norm_penalty {
namespace {

enum Kind : int64_t { two_sided = 0, one_sided = 1, zero_centered = 2 };

// The scalars of one row, in double, in the order of autograd's own steps: half types and float lose nothing, and
// double rounds subnormal numbers as plain torch does.
struct Row {
  double n, target;
  int64_t kind;
  // Nothing depends on the norm of a flat row; at n = 0 the gradient of the norm is 0.
  bool flat() const { return kind != zero_centered && (n == 0 || (kind == one_sided && n < target)); }
  bool straight() const { return kind == zero_centered || n == 0; }

  // c / 2, with dg = c g for the upstream gradient p.
  double half(double p) const {
    if (kind == zero_centered) return p;
    return flat() ? 0 : p * (2 * (n - target)) / (2 * n);
  }
  // The gradient of p, s = <V, 2 g>.
  double slope(double s) const {
    if (kind == zero_centered) return s;
    return flat() ? 0 : s / (2 * n) * (2 * (n - target));
  }
  // What of g goes into its own gradient.
  double curve(double p, double s) const {
    if (straight()) return 0;
    const double dnorm = (flat() ? 0 : 2 * (s / (2 * n) * p)) - 2 * (s * (half(p) / (2 * n)));
    return 2 * (dnorm / (2 * n));
  }
};

void check(const Tensor& g, int64_t kind, const char* op) {
  STD_TORCH_CHECK(g.dim() == 2, op, ": expected g of shape (N, D), got ", g.dim(), " dimensions");
  STD_TORCH_CHECK(kind >= two_sided && kind <= zero_centered, op, ": expected kind 0, 1 or 2, got ", kind);
}

// One sum per row of a, over blocks read at the same place of a and of other matrices: partial sums, [N][parts].
template <class F>
Tensor row_sums(const Tensor& a, const F& block_sum) {
  const int64_t n = a.size(0), d = a.size(1), parts = rows::parts_of(d);
  Tensor partial = new_empty(a, {n, parts}, ScalarType::Double);
  double* sums = static_cast<double*>(partial.data_ptr());
  rows::for_each_part(n, d, [&](int64_t i, int64_t p, int64_t d0, int64_t d1) {
    double sum = 0;
    rows::for_each_block(d0, d1, [&](int64_t at, int64_t count) { sum += block_sum(i, at, count); });
    sums[i * parts + p] = sum;
  });
  return partial;
}

std::tuple<Tensor, Tensor> forward(const Tensor& g, int64_t kind, double target) {
  check(g, kind, "norm_penalty");
  return dispatch_floating(g, "norm_penalty", [&](auto element) {
    using S = decltype(element);
    using T = Accumulate<S>;
    const int64_t n = g.size(0), parts = rows::parts_of(g.size(1));
    Tensor value = new_empty(g, {n}, scalar_type_of<T>), norm = new_empty(g, {n}, scalar_type_of<T>);
    const rows::Matrix<S> x(g);
    const auto square = kernels<T>(isa()).square;
    const Tensor partial = row_sums(g, [&](int64_t i, int64_t at, int64_t count) {
      alignas(64) T source[rows::block];
      return square(x.read(i, at, count, source), count);
    });
    T* values = static_cast<T*>(value.data_ptr());
    T* norms = static_cast<T*>(norm.data_ptr());
    for (int64_t i = 0; i < n; ++i) {
      const T total = static_cast<T>(rows::add_parts<T>(partial, i, parts));
      norms[i] = std::sqrt(total);
      const T excess = norms[i] - static_cast<T>(target);
      values[i] = kind == zero_centered ? total : kind == one_sided && excess < 0 ? T(0) : excess * excess;
    }
    return std::tuple(value, norm);
  });
}

Tensor backward(const Tensor& grad, const Tensor& g, const Tensor& norm, int64_t kind, double target) {
  check(g, kind, "norm_penalty_backward");
  rows::check_vector(grad, g, "norm_penalty_backward", "grad");
  rows::check_vector(norm, g, "norm_penalty_backward", "norm");
  return dispatch_floating(g, "norm_penalty_backward", [&](auto element) {
    using S = decltype(element);
    using T = Accumulate<S>;
    const auto scale = kernels<T>(isa()).scale;
    const int64_t n = g.size(0), d = g.size(1);
    Tensor dg = new_empty(g, {n, d}, g.scalar_type());
    const rows::Matrix<S> x(g), out(dg);
    const T* p = static_cast<const T*>(grad.data_ptr());
    const T* norms = static_cast<const T*>(norm.data_ptr());
    const int64_t grad_stride = grad.stride(0), norm_stride = norm.stride(0);
    rows::for_each_part(n, d, [&](int64_t i, int64_t, int64_t d0, int64_t d1) {
      alignas(64) T source[rows::block], result[rows::block];
      const T c = static_cast<T>(2 * Row{norms[i * norm_stride], target, kind}.half(p[i * grad_stride]));
      rows::for_each_block(d0, d1, [&](int64_t at, int64_t count) {
        T* to = out.target(i, at, result);
        scale(to, x.read(i, at, count, source), c, count);
        out.write(i, at, count, to);
      });
    });
    return dg;
  });
}

std::tuple<Tensor, Tensor> double_backward(const Tensor& v, const Tensor& grad, const Tensor& g, const Tensor& norm,
                                           int64_t kind, double target) {
  check(g, kind, "norm_penalty_double_backward");
  rows::check_matrix(v, g, "norm_penalty_double_backward", "v");
  rows::check_vector(grad, g, "norm_penalty_double_backward", "grad");
  rows::check_vector(norm, g, "norm_penalty_double_backward", "norm");
  return dispatch_floating(g, "norm_penalty_double_backward", [&](auto element) {
    using S = decltype(element);
    using T = Accumulate<S>;
    const Kernels<T>& run = kernels<T>(isa());
    const int64_t n = g.size(0), d = g.size(1), parts = rows::parts_of(d);
    Tensor dgrad = new_empty(g, {n}, scalar_type_of<T>), dg = new_empty(g, {n, d}, g.scalar_type());
    const rows::Matrix<S> cotangent(v), x(g), out(dg);
    const Tensor partial = row_sums(g, [&](int64_t i, int64_t at, int64_t count) {
      alignas(64) T first[rows::block], second[rows::block];
      return run.twice_dot(cotangent.read(i, at, count, first), x.read(i, at, count, second), count);
    });
    const T* p = static_cast<const T*>(grad.data_ptr());
    const T* norms = static_cast<const T*>(norm.data_ptr());
    T* dp = static_cast<T*>(dgrad.data_ptr());
    const int64_t grad_stride = grad.stride(0), norm_stride = norm.stride(0);
    rows::for_each_part(n, d, [&](int64_t i, int64_t part, int64_t d0, int64_t d1) {
      alignas(64) T first[rows::block], second[rows::block], result[rows::block];
      const Row row{norms[i * norm_stride], target, kind};
      const double along = rows::add_parts<T>(partial, i, parts), up = p[i * grad_stride];
      if (part == 0) dp[i] = static_cast<T>(row.slope(along));
      const T half = static_cast<T>(row.half(up)), curve = static_cast<T>(row.curve(up, along));
      rows::for_each_block(d0, d1, [&](int64_t at, int64_t count) {
        T* to = out.target(i, at, result);
        const T* tangent = cotangent.read(i, at, count, first);
        if (row.straight()) {
          run.twice_scale(to, tangent, half, count);
        } else {
          run.twice_scale_add(to, tangent, half, x.read(i, at, count, second), curve, count);
        }
        out.write(i, at, count, to);
      });
    });
    return std::tuple(dgrad, dg);
  });
}

}  // namespace
}  // namespace gankern::norm_penalty

STABLE_TORCH_LIBRARY_IMPL(gankern_native, CPU, m) {
  using namespace gankern::norm_penalty;
  m.impl("norm_penalty", TORCH_BOX(&forward));
  m.impl("norm_penalty_backward", TORCH_BOX(&backward));
  m.impl("norm_penalty_double_backward", TORCH_BOX(&double_backward));
}
