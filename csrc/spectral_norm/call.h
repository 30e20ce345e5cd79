// One call of an operator: its operands in the layers' order, and the parallel regions over all layers.
#pragma once

#include <numeric>

#include "spectral_norm/layers.h"
#include "spectral_norm/operands.h"

namespace gankern::spectral_norm {

using Tensors = std::vector<Tensor>;
using Dims = std::vector<int64_t>;

// Bounds of |W v|, and squared those of |W^T (W v)|, within which no sum overflows or loses digits to underflow. Both
// are needed: v comes from the caller and need not be a unit vector, so |W v| alone does not tell the size of W.
template <class T>
constexpr double safe_low = std::is_same_v<T, double> ? 1e-75 : 1e-8;
template <class T>
constexpr double safe_high = std::is_same_v<T, double> ? 1e75 : 1e12;

template <class T>
bool safe(double y, double z) {
  return y > safe_low<T> && y < safe_high<T> && z > safe_low<T> * safe_low<T> && z < safe_high<T> * safe_high<T>;
}

// As torch's clamp_min: NaN stays.
inline double clamp(double x, double eps) { return x < eps ? eps : x; }

// As torch's norm: that of one element does not overflow.
template <class T>
double norm(const Kernels<T>& kernels, const T* x, int64_t count) {
  return count == 1 ? std::abs(static_cast<double>(x[0])) : std::sqrt(kernels.square(x, count));
}

// One call: the layers, operands in the layers' order, and the parallel regions. S is the weights' element type.
template <class S>
class Call : public Layers<S> {
 public:
  using T = Accumulate<S>;
  using Layers<S>::kernels;
  using Layers<S>::list;
  static constexpr ScalarType scalar_type = scalar_type_of<T>;

  Call(const Tensors& weights, const Dims& dims)
      : Layers<S>(weights, dims), weights_(weights), fresh_(filled(weights[0])) {
    for (const Layer& x : list) length_ += x.rows + x.columns();
  }

  int64_t count() const { return static_cast<int64_t>(list.size()); }
  int64_t length() const { return length_; }

  // Pointers to tensors of the weights' shapes, which are copied where they are not contiguous.
  std::vector<const S*> inputs(const Tensors& tensors, const char* name) {
    STD_TORCH_CHECK(tensors.size() == list.size(), "spectral_norm: expected one of ", name, " per weight");
    std::vector<const S*> found;
    const int32_t dtype = dtype_of(weights_[0]);
    for (size_t k = 0; k < list.size(); ++k) {
      const Tensor& x = tensors[k];
      STD_TORCH_CHECK(same_shape(x, weights_[k]) && dtype_of(x) == dtype, "spectral_norm: expected ", name,
                      " of the weights' shapes and dtype");
      if (x.is_contiguous()) {
        found.push_back(static_cast<const S*>(x.data_ptr()));
      } else {
        kept_.push_back(torch::stable::contiguous(x));
        found.push_back(static_cast<const S*>(kept_.back().data_ptr()));
      }
    }
    return found;
  }

  // Fresh tensors of the weights' shapes.
  std::vector<S*> outputs(Tensors* tensors) const {
    std::vector<S*> found;
    for (const Tensor& w : weights_) {
      tensors->push_back(new_output(w, sizeof(S), fresh_));
      found.push_back(static_cast<S*>(tensors->back().data_ptr()));
    }
    return found;
  }

  // A fresh tensor of the accumulation dtype.
  Tensor new_vector(int64_t length) const {
    if (fresh_) return new_empty(weights_[0], {length}, scalar_type);
    const int64_t stride = 1;
    return new_cpu({&length, 1}, &stride,
                   std::is_same_v<T, double> ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  }

  // A fresh tensor of one number per layer.
  Tensor numbers(const std::vector<double>& values) const {
    Tensor x = new_vector(count());
    for (int64_t k = 0; k < count(); ++k) static_cast<T*>(x.data_ptr())[k] = static_cast<T>(values[k]);
    return x;
  }

  std::vector<T> numbers(const Tensor& x) const {
    STD_TORCH_CHECK(x.numel() == count() && x.scalar_type() == scalar_type,
                    "spectral_norm: expected one number per layer, in the accumulation dtype");
    std::vector<T> found(count());
    read_vector(found.data(), x, count(), "numbers");
    return found;
  }

  // Where u and v of each layer lie in `vectors`.
  void set_vectors(const Tensor& vectors) {
    STD_TORCH_CHECK(vectors.dim() == 1 && vectors.numel() == length_ && vectors.is_contiguous() &&
                        vectors.scalar_type() == scalar_type,
                    "spectral_norm: expected vectors of length ", length_, ", in the accumulation dtype");
    T* next = static_cast<T*>(vectors.data_ptr());
    for (const Layer& x : list) {
      u.push_back(next);
      v.push_back(next + x.rows);
      next += x.rows + x.columns();
    }
  }

  std::vector<T*> u, v;

  // sigma of each layer, after n iterations that leave new u and v in `vectors`; g(item, sigma) for the items of
  // `second` as soon as their layer's sigma is known.
  template <class G>
  std::vector<double> iterate(const std::vector<const S*>& w, int64_t n, double eps, const Items* second, const G& g) {
    if (n == 0) return bilinear(w, second, g);
    std::vector<double> sigma(count());
    make_products(true);
    const auto products = [&](const Items::Item& item, int64_t index) { multiply(item, w[item.layer], z_[index]); };
    const auto end = [&](int64_t k) {
      sigma[k] = finish(k, w[k], eps);
      std::copy_n(v[k], list[k].columns(), v_[k]);
    };
    for (int64_t left = n; left > 1; --left) this->schedule(this->rows, nullptr, products, end, [](auto...) {});
    this->schedule(this->rows, second, products, end,
                   [&](const Items::Item& item, int64_t) { g(item, sigma[item.layer]); });
    return sigma;
  }

  // u . (M v) of each layer; g as above.
  template <class G>
  std::vector<double> bilinear(const std::vector<const S*>& m, const Items* second, const G& g) {
    std::vector<double> found(count());
    make_products(false);
    this->schedule(
        this->rows, second, [&](const Items::Item& item, int64_t) { multiply(item, m[item.layer], nullptr); },
        [&](int64_t k) { found[k] = along_u(k, m[k]); },
        [&](const Items::Item& item, int64_t) { g(item, found[item.layer]); });
    return found;
  }

  // The sum of a layer's parts.
  double sum_parts(const std::vector<double>& parts, int64_t k) const {
    const auto first = parts.begin() + this->elements.start[k], last = parts.begin() + this->elements.start[k + 1];
    return std::accumulate(first, last, 0.0);
  }

  double dot_item(const Items::Item& item, const std::vector<const S*>& a, const std::vector<const S*>& b) const {
    return this->dot(a[item.layer] + item.begin, b[item.layer] + item.begin, item.end - item.begin);
  }

  // out = alpha x + beta u v^T for some runs.
  void add_rank_one(const Items::Item& item, S* out, const S* x, double alpha, double beta) const {
    const Layer& layer = list[item.layer];
    const T *left = u[item.layer], *right = v[item.layer];
    const int64_t length = layer.run_length();
    for (int64_t run = item.begin; run < item.end; ++run) {
      const T factor = layer.transposed() ? right[run] : left[run % layer.rows];
      const T* vector = layer.transposed() ? left : right + run / layer.rows * length;
      this->combine(out + run * length, x + run * length, alpha, vector, beta * factor, length);
    }
  }

 private:
  Tensors weights_, kept_;
  bool fresh_;
  int64_t length_ = 0;
  Scratch<T> memory_;
  const Kernels<double>& exact_ = spectral_norm::kernels<double>(isa());
  std::vector<T*> y_, v_, z_;  // by layer W v and v, by item a part of W^T W v

  // Every vector begins a cache line, so that no access lies in two: u and v in `vectors` begin anywhere.
  static int64_t padded(int64_t length) { return (length + 15) / 16 * 16; }

  void make_products(bool with_z) {
    int64_t length = 0;
    for (const Layer& x : list) length += padded(x.rows) + padded(x.columns());
    if (with_z) {
      for (const auto& item : this->rows.list) length += padded(list[item.layer].columns());
    }
    memory_ = Scratch<T>(length);
    T* next = memory_.get();
    for (size_t k = 0; k < list.size(); ++k) {
      y_.push_back(next), next += padded(list[k].rows);
      v_.push_back(std::copy_n(v[k], list[k].columns(), next) - list[k].columns()), next += padded(list[k].columns());
    }
    for (size_t index = 0; with_z && index < this->rows.list.size(); ++index) {
      z_.push_back(next), next += padded(list[this->rows.list[index].layer].columns());
    }
  }

  // y, and unless z is null its part of W^T y, of some rows.
  void multiply(const Items::Item& item, const S* m, T* z) const {
    const int64_t k = item.layer, columns = list[k].columns();
    if (z != nullptr) std::fill_n(z, columns, T(0));
    this->panels(k, m, item.begin, item.end, [&](const T* panel, int64_t stride, int64_t row, int64_t used) {
      kernels.multiply(panel, stride, used, columns, v_[k], y_[k] + row, z);
    });
  }

  // u . y, in double from the start where y may have overflowed or lost digits to underflow.
  double along_u(int64_t k, const S* m) {
    const int64_t h = list[k].rows, columns = list[k].columns();
    double sum = 0, size = 0;
    for (int64_t r = 0; r < h; ++r) sum += static_cast<double>(u[k][r]) * static_cast<double>(y_[k][r]);
    const double length = norm(kernels, y_[k], h);
    if (length > safe_low<T> && length < safe_high<T>) return sum;
    this->panels(k, m, 0, h, [&](const T* panel, int64_t stride, int64_t, int64_t used) {
      for (int64_t r = 0; r < used; ++r) size += kernels.square(panel + r * stride, columns);
    });
    if (size == 0) return sum;
    double exact = 0;
    this->panels(k, m, 0, h, [&](const T* panel, int64_t stride, int64_t row, int64_t used) {
      for (int64_t r = 0; r < used; ++r) {
        double y = 0;
        for (int64_t c = 0; c < columns; ++c) {
          y += static_cast<double>(panel[r * stride + c]) * static_cast<double>(v[k][c]);
        }
        exact += static_cast<double>(u[k][row + r]) * y;
      }
    });
    return exact;
  }

  // One iteration in torch's order, in double: for weights whose square would overflow or underflow. It is slow, and
  // rare.
  double finish_exactly(int64_t k, const S* w, double eps) {
    const int64_t h = list[k].rows, columns = list[k].columns();
    std::vector<double> left(h, 0.0), right(columns, 0.0);
    this->panels(k, w, 0, h, [&](const T* panel, int64_t stride, int64_t row, int64_t used) {
      for (int64_t r = 0; r < used; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          left[row + r] += static_cast<double>(panel[r * stride + c]) * static_cast<double>(v[k][c]);
        }
      }
    });
    const double a = clamp(norm(exact_, left.data(), h), eps);
    exact_.divide_exactly(left.data(), left.data(), h, a);
    std::copy_n(left.data(), h, u[k]);
    this->panels(k, w, 0, h, [&](const T* panel, int64_t stride, int64_t row, int64_t used) {
      for (int64_t r = 0; r < used; ++r) {
        for (int64_t c = 0; c < columns; ++c) right[c] += left[row + r] * static_cast<double>(panel[r * stride + c]);
      }
    });
    const double s = norm(exact_, right.data(), columns), b = clamp(s, eps);
    exact_.divide_exactly(right.data(), right.data(), columns, b);
    std::copy_n(right.data(), columns, v[k]);
    if (std::isinf(s)) return std::accumulate(right.begin(), right.end(), 0.0);  // v is 0, or NaN: so is u . (W v)
    return s * (s / b);
  }

  // From y and the parts of z: u, v and sigma. With y not normalised, z = W^T y is |W v| times torch's W^T u, and
  // sigma = u . (W v) = (W^T u) . v = |W^T u|^2 / max(|W^T u|, eps).
  double finish(int64_t k, const S* w, double eps) {
    const int64_t h = list[k].rows, columns = list[k].columns();
    const double length = norm(kernels, y_[k], h), a = clamp(length, eps);
    const int64_t first = this->rows.start[k], last = this->rows.start[k + 1];
    if (first == last) {  // no rows: W^T u is zero
      std::fill_n(v[k], columns, T(0));
      return 0;
    }
    T* z = z_[first];
    for (int64_t part = first + 1; part < last; ++part) kernels.combine(z, z, 1, z_[part], 1, columns, false);
    kernels.divide_exactly(u[k], y_[k], h, a);
    double s = norm(kernels, z, columns);
    if (!safe<T>(length, s)) return finish_exactly(k, w, eps);
    s /= a;
    const double b = clamp(s, eps);
    kernels.divide_exactly(v[k], z, columns, a * b);
    return s * (s / b);
  }
};

}  // namespace gankern::spectral_norm
