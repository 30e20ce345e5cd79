#include <algorithm>
#include <vector>

#include "spectral_norm/kernels.cuh"

// Checks, the table of layers and the registration. One launch serves `most_layers` layers, and a group of more takes
// as many launches as that needs; besides, only zeros for the counters are written.

namespace gankern::spectral_norm {
namespace {

using Tensors = std::vector<Tensor>;
using Dims = std::vector<int64_t>;

// Blocks beyond what a GPU holds only draw no ticket.
constexpr int64_t most_blocks = 1056;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The layers of one call: their sizes, and operands that stay alive until the launch.
class Call {
 public:
  Call(const char* name, const Tensors& weights, const Dims& dims) : name_(name), weights_(weights) {
    STD_TORCH_CHECK(!weights.empty() && dims.size() == weights.size(), name, ": expected one of dims per weight");
    for (size_t k = 0; k < weights.size(); ++k) {
      const Tensor& w = weights[k];
      STD_TORCH_CHECK(dims[k] >= 0 && dims[k] < w.dim() && w.scalar_type() == weights[0].scalar_type() &&
                          w.get_device_index() == weights[0].get_device_index(),
                      name, ": expected weights of one dtype and device, and dims inside their shapes");
      Entry x = {};
      int64_t outer = 1;
      x.rows = x.inner = 1;
      for (int64_t axis = 0; axis < w.dim(); ++axis) {
        (axis < dims[k] ? outer : axis == dims[k] ? x.rows : x.inner) *= w.size(axis);
      }
      x.columns = outer * x.inner;
      x.inner = std::max<int64_t>(x.inner, 1);
      x.u_at = length_, x.y_at = rows_;
      length_ += x.rows + x.columns, rows_ += x.rows, elements_ += w.numel();
      layers_.push_back(x);
    }
  }

  int64_t count() const { return static_cast<int64_t>(layers_.size()); }
  int64_t length() const { return length_; }

  // Sets an operand of every layer; it has the weights' dtype and shapes.
  void in(int index, const Tensors& tensors, const char* what) {
    STD_TORCH_CHECK(tensors.size() == layers_.size(), name_, ": expected one of ", what, " per weight");
    for (size_t k = 0; k < layers_.size(); ++k) {
      STD_TORCH_CHECK(tensors[k].numel() == weights_[k].numel() &&
                          tensors[k].scalar_type() == weights_[k].scalar_type() &&
                          tensors[k].get_device_index() == weights_[0].get_device_index(),
                      name_, ": expected ", what, " of the weights' shapes, dtype and device");
      layers_[k].in[index] = keep(tensors[k]);
    }
  }

  // Sets u or v of every layer.
  void vectors_in(int index, const Tensors& tensors, ScalarType type, const char* what) {
    STD_TORCH_CHECK(tensors.size() == layers_.size(), name_, ": expected one ", what, " per weight");
    for (size_t k = 0; k < layers_.size(); ++k) {
      const int64_t length = index == 1 ? layers_[k].rows : layers_[k].columns;
      STD_TORCH_CHECK(tensors[k].dim() == 1 && tensors[k].size(0) == length &&
                          tensors[k].get_device_index() == weights_[0].get_device_index(),
                      name_, ": expected ", what, " of length ", length, " on the weights' device");
      layers_[k].in[index] = keep(tensors[k].scalar_type() == type ? tensors[k] : torch::stable::to(tensors[k], type));
    }
  }

  Tensors out(int index) {
    Tensors found;
    for (size_t k = 0; k < layers_.size(); ++k) {
      found.push_back(torch::stable::new_empty(weights_[k], weights_[k].sizes(), weights_[k].scalar_type()));
      layers_[k].out[index] = found.back().data_ptr();
    }
    return found;
  }

  // A number per layer, or all vectors, in the accumulation dtype.
  void* given(const Tensor& x, int64_t length, ScalarType type) {
    STD_TORCH_CHECK(
        x.numel() == length && x.scalar_type() == type && x.get_device_index() == weights_[0].get_device_index(), name_,
        ": expected vectors and numbers of every layer in the accumulation dtype");
    return keep(x);
  }

  template <Order order, class S>
  void run(Problem p) {
    using T = Accumulate<S>;
    const Launcher launch(weights_[0]);
    const int64_t piece = std::max<int64_t>(elements_ / 512, chunk);
    auto* sigma = static_cast<T*>(p.sigma);
    for (int64_t from = 0; from < count(); from += most_layers) {
      p.count = static_cast<int>(std::min<int64_t>(count() - from, most_layers));
      int64_t z_length = 0, rows = 0, elements = 0;
      for (int k = 0; k < p.count; ++k) {
        Entry& x = p.layers[k] = layers_[from + k];
        x.step = ceil_div(std::max<int64_t>(piece / std::max<int64_t>(x.columns, 1), 1), panel) * panel;
        const int64_t items = std::max<int64_t>(ceil_div(x.rows, x.step), 1);
        x.z_at = z_length, x.first_rows = static_cast<int>(rows), x.first_elements = static_cast<int>(elements);
        z_length += items * x.columns, rows += items;
        elements += std::max<int64_t>(ceil_div(x.rows * x.columns, chunk), 1);
      }
      const int64_t tickets = std::max(p.iterations, 1) * rows + 2 * elements;
      STD_TORCH_CHECK(tickets < INT32_MAX / 2, name_, ": expected fewer elements in a group of layers");
      p.row_items = static_cast<int>(rows), p.element_items = static_cast<int>(elements);
      constexpr bool forward = order == Order::forward;
      constexpr ScalarType type = scalar_type_of<T>;
      const Tensor y = new_empty(weights_[0], {forward ? rows_ : 0}, type);
      const Tensor z = new_empty(weights_[0], {forward ? z_length : 0}, type);
      const Tensor parts = new_empty(weights_[0], {forward ? 0 : 3 * elements}, ScalarType::Double);
      const Tensor numbers = new_empty(weights_[0], {2 * int64_t{most_layers}}, ScalarType::Double);
      Tensor counters = new_empty(weights_[0], {int64_t{sizeof(Counters) / sizeof(int)}}, ScalarType::Int);
      torch::stable::zero_(counters);
      p.y = y.data_ptr(), p.z = z.data_ptr(), p.sigma = sigma + from;
      p.parts = static_cast<double*>(parts.data_ptr()), p.numbers = static_cast<double*>(numbers.data_ptr());
      p.counters = static_cast<Counters*>(counters.data_ptr());
      launch(name_, layers_kernel<order, S>, std::min(tickets, most_blocks), block_threads, p);
      if (p.grad_sigma) p.grad_sigma = static_cast<const T*>(p.grad_sigma) + most_layers;
      if (p.dgrad_sigma) p.dgrad_sigma = static_cast<T*>(p.dgrad_sigma) + most_layers;
    }
  }

 private:
  const char* name_;
  const Tensors& weights_;
  std::vector<Entry> layers_;
  Tensors kept_;
  int64_t length_ = 0, rows_ = 0, elements_ = 0;

  void* keep(const Tensor& x) {
    kept_.push_back(x.is_contiguous() ? x : torch::stable::contiguous(x));
    return kept_.back().data_ptr();
  }
};

std::tuple<Tensors, Tensor, Tensor> iterate(const char* name, const Tensors& weights, const Tensors& u,
                                            const Tensors& v, const Dims& dims, int64_t n, double eps, bool divide) {
  Call call(name, weights, dims);
  STD_TORCH_CHECK(n >= 0 && n <= INT32_MAX, name, ": expected n_power_iterations >= 0, got ", n);
  return dispatch_floating(weights[0], name, [&](auto element) {
    using S = decltype(element);
    constexpr ScalarType type = scalar_type_of<Accumulate<S>>;
    call.in(0, weights, "weights");
    call.vectors_in(1, u, type, "u");
    call.vectors_in(2, v, type, "v");
    Tensors normalized;
    if (divide) normalized = call.out(0);
    const Tensor vectors = new_empty(weights[0], {call.length()}, type);
    const Tensor sigma = new_empty(weights[0], {call.count()}, type);
    Problem p = {};
    p.iterations = static_cast<int>(n), p.divide = divide, p.eps = eps;
    p.vectors = vectors.data_ptr(), p.sigma = sigma.data_ptr();
    call.run<Order::forward, S>(p);
    return std::tuple(normalized, vectors, sigma);
  });
}

std::tuple<Tensors, Tensor, Tensor> forward(const Tensors& weights, const Tensors& u, const Tensors& v,
                                            const Dims& dims, int64_t n, double eps) {
  return iterate("spectral_norm", weights, u, v, dims, n, eps, true);
}

std::tuple<Tensor, Tensor> power(const Tensors& weights, const Tensors& u, const Tensors& v, const Dims& dims,
                                 int64_t n, double eps) {
  auto [none, vectors, sigma] = iterate("spectral_norm_power", weights, u, v, dims, n, eps, false);
  return {vectors, sigma};
}

Tensors backward(const Tensors& grads, const Tensor& grad_sigma, const Tensors& weights, const Tensor& vectors,
                 const Tensor& sigma, const Dims& dims) {
  Call call("spectral_norm_backward", weights, dims);
  return dispatch_floating(weights[0], "spectral_norm_backward", [&](auto element) {
    using S = decltype(element);
    constexpr ScalarType type = scalar_type_of<Accumulate<S>>;
    call.in(0, grads, "grads");
    call.in(1, weights, "weights");
    Problem p = {};
    p.divide = true;
    p.vectors = call.given(vectors, call.length(), type), p.sigma = call.given(sigma, call.count(), type);
    p.grad_sigma = call.given(grad_sigma, call.count(), type);
    Tensors dw = call.out(0);
    call.run<Order::backward, S>(p);
    return dw;
  });
}

std::tuple<Tensors, Tensor, Tensors> double_backward(const Tensors& cotangents, const Tensors& grads,
                                                     [[maybe_unused]] const Tensor& grad_sigma, const Tensors& weights,
                                                     const Tensor& vectors, const Tensor& sigma, const Dims& dims) {
  Call call("spectral_norm_double_backward", weights, dims);
  return dispatch_floating(weights[0], "spectral_norm_double_backward", [&](auto element) {
    using S = decltype(element);
    constexpr ScalarType type = scalar_type_of<Accumulate<S>>;
    call.in(0, cotangents, "cotangents");
    call.in(1, grads, "grads");
    call.in(2, weights, "weights");
    Problem p = {};
    p.divide = true;
    p.vectors = call.given(vectors, call.length(), type), p.sigma = call.given(sigma, call.count(), type);
    const Tensor a = new_empty(weights[0], {call.count()}, type);
    p.dgrad_sigma = a.data_ptr();
    Tensors dgrads = call.out(0), dweights = call.out(1);
    call.run<Order::double_backward, S>(p);
    return std::tuple(dgrads, a, dweights);
  });
}

}  // namespace
}  // namespace gankern::spectral_norm

STABLE_TORCH_LIBRARY_IMPL(gankern_cuda, CUDA, m) {
  using namespace gankern::spectral_norm;
  m.impl("spectral_norm", TORCH_BOX(&forward));
  m.impl("spectral_norm_power", TORCH_BOX(&power));
  m.impl("spectral_norm_backward", TORCH_BOX(&backward));
  m.impl("spectral_norm_double_backward", TORCH_BOX(&double_backward));
}
