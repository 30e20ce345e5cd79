#include "spectral_norm/call.h"

// Checks and the registration.

namespace gankern::spectral_norm {
namespace {

void check(const Tensors& weights, const Dims& dims) {
  STD_TORCH_CHECK(!weights.empty() && dims.size() == weights.size(), "spectral_norm: expected one of dims per weight");
  for (size_t k = 0; k < weights.size(); ++k) {
    STD_TORCH_CHECK(dims[k] >= 0 && dims[k] < weights[k].dim() && dtype_of(weights[k]) == dtype_of(weights[0]),
                    "spectral_norm: expected weights of one dtype, and dims inside their shapes");
  }
}

std::tuple<Tensors, Tensor, Tensor> run(const Tensors& weights, const Tensors& u, const Tensors& v, const Dims& dims,
                                        int64_t n, double eps, bool divide, bool keep) {
  check(weights, dims);
  STD_TORCH_CHECK(u.size() == weights.size() && v.size() == weights.size(),
                  "spectral_norm: expected one u and one v per weight");
  STD_TORCH_CHECK(n >= 0, "spectral_norm: expected n_power_iterations >= 0, got ", n);
  return dispatch_floating(weights[0], "spectral_norm", [&](auto element) {
    Call<decltype(element)> call(weights, dims);
    Tensor vectors = call.new_vector(call.length());
    call.set_vectors(vectors);
    for (int64_t k = 0; k < call.count(); ++k) {
      read_vector(call.u[k], u[k], call.list[k].rows, "u");
      read_vector(call.v[k], v[k], call.list[k].columns(), "v");
    }
    const auto w = call.inputs(weights, "weights");
    Tensors normalized;
    const auto out = divide ? call.outputs(&normalized) : std::vector<decltype(element)*>();
    using T = typename decltype(call)::T;
    const auto sigma =
        call.iterate(w, n, eps, divide ? &call.elements : nullptr, [&](const Items::Item& item, double divisor) {
          const int64_t k = item.layer, at = item.begin;
          call.divide(out[k] + at, w[k] + at, item.end - at, static_cast<T>(divisor));
        });
    for (int64_t k = 0; keep && n > 0 && k < call.count(); ++k) {
      write_vector(u[k], call.u[k], call.list[k].rows, "u");
      write_vector(v[k], call.v[k], call.list[k].columns(), "v");
    }
    return std::tuple(normalized, vectors, call.numbers(sigma));
  });
}

std::tuple<Tensors, Tensor, Tensor> forward(const Tensors& weights, const Tensors& u, const Tensors& v,
                                            const Dims& dims, int64_t n, double eps) {
  return run(weights, u, v, dims, n, eps, true, false);
}

std::tuple<Tensors, Tensor, Tensor> forward_in_place(const Tensors& weights, const Tensors& u, const Tensors& v,
                                                     const Dims& dims, int64_t n, double eps) {
  return run(weights, u, v, dims, n, eps, true, true);
}

std::tuple<Tensor, Tensor> power(const Tensors& weights, const Tensors& u, const Tensors& v, const Dims& dims,
                                 int64_t n, double eps) {
  auto [none, vectors, sigma] = run(weights, u, v, dims, n, eps, false, false);
  return {vectors, sigma};
}

Tensors backward(const Tensors& grads, const Tensor& grad_sigma, const Tensors& weights, const Tensor& vectors,
                 const Tensor& sigma, const Dims& dims) {
  check(weights, dims);
  return dispatch_floating(weights[0], "spectral_norm_backward", [&](auto element) {
    Call<decltype(element)> call(weights, dims);
    call.set_vectors(vectors);
    const auto g = call.inputs(grads, "grads"), w = call.inputs(weights, "weights");
    const auto s = call.numbers(sigma), ds = call.numbers(grad_sigma);
    Tensors dw;
    const auto out = call.outputs(&dw);
    std::vector<double> parts(call.elements.list.size()), beta(call.count());
    call.schedule(
        call.elements, &call.runs,
        [&](const Items::Item& item, int64_t index) { parts[index] = call.dot_item(item, g, w); },
        [&](int64_t k) { beta[k] = ds[k] - call.sum_parts(parts, k) / s[k] / s[k]; },
        [&](const Items::Item& item, int64_t) {
          const int64_t k = item.layer;
          call.add_rank_one(item, out[k], g[k], 1.0 / s[k], beta[k]);
        });
    return dw;
  });
}

std::tuple<Tensors, Tensor, Tensors> double_backward(const Tensors& cotangents, const Tensors& grads,
                                                     [[maybe_unused]] const Tensor& grad_sigma, const Tensors& weights,
                                                     const Tensor& vectors, const Tensor& sigma, const Dims& dims) {
  check(weights, dims);
  return dispatch_floating(weights[0], "spectral_norm_double_backward", [&](auto element) {
    Call<decltype(element)> call(weights, dims);
    call.set_vectors(vectors);
    const auto t = call.inputs(cotangents, "cotangents"), g = call.inputs(grads, "grads");
    const auto w = call.inputs(weights, "weights");
    const auto s = call.numbers(sigma);
    const auto nothing = [](auto...) {};
    const std::vector<double> a = call.bilinear(t, nullptr, nothing);
    std::vector<double> tg(call.elements.list.size()), gw(tg.size()), alpha(call.count()), beta(call.count());
    Tensors dgrads, dweights;
    const auto dg = call.outputs(&dgrads), dw = call.outputs(&dweights);
    call.schedule(
        call.elements, &call.runs,
        [&](const Items::Item& item, int64_t index) {
          tg[index] = call.dot_item(item, t, g);
          gw[index] = call.dot_item(item, g, w);
        },
        [&](int64_t k) {
          alpha[k] = -a[k] / s[k] / s[k];
          beta[k] = (2.0 * a[k] * (call.sum_parts(gw, k) / s[k]) - call.sum_parts(tg, k)) / s[k] / s[k];
        },
        [&](const Items::Item& item, int64_t) {
          const int64_t k = item.layer;
          call.add_rank_one(item, dw[k], g[k], alpha[k], beta[k]);
        });
    const auto make_dg = [&](const Items::Item& item, int64_t) {
      const int64_t k = item.layer, at = item.begin;
      using T = typename decltype(call)::T;
      if (a[k] == 0 || std::isnormal(static_cast<T>(alpha[k]))) {
        call.combine(dg[k] + at, t[k] + at, 1.0 / s[k], w[k] + at, alpha[k], item.end - at);
        return;
      }
      for (int64_t j = at; j < item.end;
           ++j) {  // rare: a / sigma^2 leaves T, also to 0, where (a W / sigma) / sigma does not
        const double n = static_cast<double>(w[k][j]) / s[k];
        const double x = (static_cast<double>(t[k][j]) - a[k] * n) / s[k];
        dg[k][j] = static_cast<decltype(element)>(static_cast<T>(x));
      }
    };
    call.schedule(call.elements, nullptr, make_dg, nothing, nothing);
    return std::tuple(dgrads, call.numbers(a), dweights);
  });
}

}  // namespace
}  // namespace gankern::spectral_norm

STABLE_TORCH_LIBRARY_IMPL(gankern_native, CPU, m) {
  using namespace gankern::spectral_norm;
  m.impl("spectral_norm", TORCH_BOX(&forward));
  m.impl("spectral_norm_", TORCH_BOX(&forward_in_place));
  m.impl("spectral_norm_power", TORCH_BOX(&power));
  m.impl("spectral_norm_backward", TORCH_BOX(&backward));
  m.impl("spectral_norm_double_backward", TORCH_BOX(&double_backward));
}
