// One call of an operator: its operands in the layers' order, and the parallel regions over all layers.
#pragma once

#include <numeric>

#include "spectral_norm/layers.h"

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

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t k = 0; k < a.dim(); ++k) {
    if (a.size(k) != b.size(k)) return false;
  }
  return true;
}

template <class T>
double square_norm(const T* x, int64_t count) {
  double sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += static_cast<double>(x[k]) * static_cast<double>(x[k]);
  return sum;
}

template <class T, class F>
void divide_vector(T* to, const F* from, double divisor, int64_t count) {
  for (int64_t k = 0; k < count; ++k) to[k] = static_cast<T>(from[k] / divisor);
}

template <class T>
void copy_vector(T* to, const Tensor& from, int64_t length, const char* name) {
  STD_TORCH_CHECK(from.dim() == 1 && from.size(0) == length, "spectral_norm: expected ", name, " of length ", length);
  dispatch_floating(from, "spectral_norm", [&](auto element) {
    const auto* x = static_cast<const decltype(element)*>(from.data_ptr());
    const int64_t stride = from.stride(0);
    for (int64_t k = 0; k < length; ++k) to[k] = static_cast<T>(x[k * stride]);
  });
}

// One call: the layers, operands in the layers' order, and the parallel regions. S is the weights' element type.
template <class S>
class Call : public Layers<S> {
 public:
  using T = Accumulate<S>;
  using Layers<S>::kernels;
  using Layers<S>::list;
  static constexpr ScalarType scalar_type = scalar_type_of<T>;

  Call(const Tensors& weights, const Dims& dims) : Layers<S>(weights, dims), weights_(weights) {
    for (const Layer& x : list) length_ += x.rows + x.columns(), rows_ += x.rows;
  }

  int64_t count() const { return static_cast<int64_t>(list.size()); }
  int64_t length() const { return length_; }

  // Pointers to tensors of the weights' shapes, which are copied where they are not contiguous.
  std::vector<const S*> inputs(const Tensors& tensors, const char* name) {
    STD_TORCH_CHECK(tensors.size() == list.size(), "spectral_norm: expected one of ", name, " per weight");
    std::vector<const S*> found;
    for (size_t k = 0; k < list.size(); ++k) {
      const Tensor& x = tensors[k];
      STD_TORCH_CHECK(same_shape(x, weights_[k]) && x.scalar_type() == weights_[0].scalar_type(),
                      "spectral_norm: expected ", name, " of the weights' shapes and dtype");
      kept_.push_back(x.is_contiguous() ? x : torch::stable::contiguous(x));
      found.push_back(static_cast<const S*>(kept_.back().data_ptr()));
    }
    return found;
  }

  // Fresh tensors of the weights' shapes.
  std::vector<S*> outputs(Tensors* tensors) const {
    std::vector<S*> found;
    const bool kept = may_keep(weights_[0]);
    for (const Tensor& w : weights_) {
      tensors->push_back(new_output(w, sizeof(S), kept));
      found.push_back(static_cast<S*>(tensors->back().data_ptr()));
    }
    return found;
  }

  // A fresh tensor of one number per layer.
  Tensor numbers(const std::vector<double>& values) const {
    Tensor x = new_empty(weights_[0], {count()}, scalar_type);
    for (int64_t k = 0; k < count(); ++k) static_cast<T*>(x.data_ptr())[k] = static_cast<T>(values[k]);
    return x;
  }

  std::vector<T> numbers(const Tensor& x) const {
    STD_TORCH_CHECK(x.numel() == count() && x.scalar_type() == scalar_type,
                    "spectral_norm: expected one number per layer, in the accumulation dtype");
    std::vector<T> found(count());
    copy_vector(found.data(), x, count(), "numbers");
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

  // sigma of each layer, after n iterations that leave new u and v in `vectors`.
  std::vector<double> iterate(const std::vector<const S*>& w, int64_t n, double eps) {
    std::vector<double> sigma(count());
    make_products(n > 0);
    for (int64_t iteration = 0; iteration < n; ++iteration) {
      products(w, true);
      parts_.run(false,
                 [&](const Items::Item& item, int64_t) { sigma[item.layer] = finish(item.layer, w[item.layer], eps); });
    }
    if (n > 0) return sigma;
    return bilinear(w);
  }

  // u . (M v) of each layer.
  std::vector<double> bilinear(const std::vector<const S*>& m) {
    std::vector<double> found(count());
    make_products(false);
    products(m, false);
    for (int64_t k = 0; k < count(); ++k) {
      double sum = 0;
      for (int64_t r = 0; r < list[k].rows; ++r) sum += static_cast<double>(u[k][r]) * static_cast<double>(y_[k][r]);
      found[k] = sum;
    }
    return found;
  }

  // <a, b> of each layer.
  std::vector<double> dots(const std::vector<const S*>& a, const std::vector<const S*>& b) const {
    std::vector<double> parts(this->elements.list.size()), found(count());
    this->elements.run(false, [&](const Items::Item& item, int64_t index) {
      parts[index] = this->dot(a[item.layer] + item.begin, b[item.layer] + item.begin, item.end - item.begin);
    });
    for (size_t index = 0; index < parts.size(); ++index) found[this->elements.list[index].layer] += parts[index];
    return found;
  }

  // out = alpha x + beta u v^T, with one alpha and beta per layer.
  void add_rank_one(const std::vector<S*>& out, const std::vector<const S*>& x, const std::vector<double>& alpha,
                    const std::vector<double>& beta) const {
    this->runs.run(true, [&](const Items::Item& item, int64_t) {
      const int64_t k = item.layer, length = list[k].run_length(), rows = list[k].rows;
      for (int64_t run = item.begin; run < item.end; ++run) {
        const T factor = list[k].transposed() ? v[k][run] : u[k][run % rows];
        const T* vector = list[k].transposed() ? u[k] : v[k] + run / rows * length;
        this->combine(out[k] + run * length, x[k] + run * length, alpha[k], vector, beta[k] * factor, length);
      }
    });
  }

 private:
  Tensors weights_, kept_;
  int64_t length_ = 0, rows_ = 0;
  std::vector<T> y_memory_;
  std::unique_ptr<T[]> z_memory_;
  std::vector<T*> y_, z_;       // W v by layer; by item a part of W^T W v
  std::vector<int64_t> first_;  // item of each layer's first part
  Items parts_;                 // layers, by the size of their parts of z

  void make_products(bool with_z) {
    if (with_z && z_memory_ == nullptr) {
      int64_t columns = 0;
      for (const auto& item : this->rows.list) columns += list[item.layer].columns();
      z_memory_.reset(new T[columns]);
      T* next = z_memory_.get();
      for (const auto& item : this->rows.list) z_.push_back(next), next += list[item.layer].columns();
    }
    if (!y_.empty()) return;
    y_memory_.resize(rows_);
    T* next = y_memory_.data();
    for (const Layer& x : list) y_.push_back(next), next += x.rows;
    first_.assign(count() + 1, 0);
    for (const auto& item : this->rows.list) ++first_[item.layer + 1];
    std::partial_sum(first_.begin(), first_.end(), first_.begin());
    for (int64_t k = 0; k < count(); ++k) parts_.add(k, 0, 1, (first_[k + 1] - first_[k]) * list[k].columns());
  }

  void products(const std::vector<const S*>& m, bool with_z) {
    this->rows.run(false, [&](const Items::Item& item, int64_t index) {
      const int64_t k = item.layer, columns = list[k].columns();
      if (with_z) std::fill_n(z_[index], columns, T(0));
      this->panels(k, m[k], item.begin, item.end, [&](const T* panel, int64_t stride, int64_t row, int64_t used) {
        kernels.dots(panel, stride, used, columns, v[k], y_[k] + row);
        if (with_z) kernels.add_rows(panel, stride, used, columns, y_[k] + row, z_[index]);
      });
    });
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
    const double a = clamp(std::sqrt(square_norm(left.data(), h)), eps);
    divide_vector(left.data(), left.data(), a, h);
    divide_vector(u[k], left.data(), 1.0, h);
    this->panels(k, w, 0, h, [&](const T* panel, int64_t stride, int64_t row, int64_t used) {
      for (int64_t r = 0; r < used; ++r) {
        for (int64_t c = 0; c < columns; ++c) right[c] += left[row + r] * static_cast<double>(panel[r * stride + c]);
      }
    });
    const double s = std::sqrt(square_norm(right.data(), columns)), b = clamp(s, eps);
    divide_vector(v[k], right.data(), b, columns);
    return s * (s / b);
  }

  // From y and the parts of z: u, v and sigma. With y not normalised, z = W^T y is |W v| times torch's W^T u, and
  // sigma = u . (W v) = (W^T u) . v = |W^T u|^2 / max(|W^T u|, eps).
  double finish(int64_t k, const S* w, double eps) {
    const int64_t h = list[k].rows, columns = list[k].columns();
    const double length = std::sqrt(square_norm(y_[k], h)), a = clamp(length, eps);
    if (first_[k] == first_[k + 1]) {  // no rows: W^T u is zero
      std::fill_n(v[k], columns, T(0));
      return 0;
    }
    T* z = z_[first_[k]];
    for (int64_t part = first_[k] + 1; part < first_[k + 1]; ++part) {
      const T* more = z_[part];
      for (int64_t c = 0; c < columns; ++c) z[c] += more[c];
    }
    divide_vector(u[k], y_[k], a, h);
    double s = std::sqrt(square_norm(z, columns));
    if (!safe<T>(length, s)) return finish_exactly(k, w, eps);
    s /= a;
    const double b = clamp(s, eps);
    divide_vector(v[k], z, a * b, columns);
    return s * (s / b);
  }
};

}  // namespace gankern::spectral_norm
