// The layers of one call, how their work is cut, and loops over it that know strides and element types.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "common/buffers.h"
#include "common/tensor.h"
#include "spectral_norm/core.h"
#include "spectral_norm/schedule.h"

namespace gankern::spectral_norm {

// A contiguous weight (outer, rows, inner), seen as a matrix of `rows` rows and outer * inner columns.
struct Layer {
  int64_t outer = 1, rows = 1, inner = 1;
  int64_t columns() const { return outer * inner; }
  int64_t size() const { return outer * rows * inner; }

  // Runs are contiguous pieces of the weight along which u v^T is a multiple of a piece of v, or, for a transposed
  // matrix, of u.
  bool transposed() const { return inner == 1 && outer > 1; }
  int64_t runs() const { return transposed() ? outer : outer * rows; }
  int64_t run_length() const { return transposed() ? rows : inner; }
};

template <class S>
class Layers {
 public:
  using T = Accumulate<S>;
  const Kernels<T>& kernels = spectral_norm::kernels<T>(isa());
  std::vector<Layer> list;
  Items rows;               // ranges of rows
  Items elements;           // ranges of elements
  Items runs;               // ranges of runs
  std::vector<char> small;  // layers of which a core's own cache holds most
  bool stream = false;      // no cache holds the layers together

  Layers(const std::vector<Tensor>& weights, const std::vector<int64_t>& dims) {
    int64_t total = 0;
    for (size_t k = 0; k < weights.size(); ++k) {
      Layer layer;
      const auto sizes = weights[k].sizes();
      for (int64_t axis = 0; axis < static_cast<int64_t>(sizes.size()); ++axis) {
        (axis < dims[k] ? layer.outer : axis == dims[k] ? layer.rows : layer.inner) *= sizes[axis];
      }
      total += layer.size();
      list.push_back(layer);
      small.push_back(layer.size() * static_cast<int64_t>(sizeof(S)) <= (768 << 10));
    }
    // Enough pieces of rows for many threads, few enough that their partial z, a row each, cost nothing.
    const int64_t piece = std::max<int64_t>(total / 128, 65536);
    const int64_t stretch = std::clamp<int64_t>(total / 512, 16384, 262144) / 64 * 64;
    for (const Layer& x : list) {
      const int64_t parts = std::max<int64_t>(1, (x.size() + piece / 2) / piece);
      rows.cut(x.rows, (x.rows + parts - 1) / parts, x.columns(), block_rows);
      elements.cut(x.size(), stretch, 1, 64);
      runs.cut(x.runs(), stretch / std::max<int64_t>(x.run_length(), 1), x.run_length(), 1);
    }
    stream = total * static_cast<int64_t>(sizeof(S)) >= (16 << 20);
  }

  // See Schedule.
  template <class F, class Finish, class G>
  void schedule(const Items& first, const Items* second, const F& f, const Finish& finish, const G& g) const {
    Schedule(first, second, small).run(f, finish, g);
  }

  // Calls f(panel, stride, first row, rows) for panels of the rows [begin, end) of a layer, in T and row-major.
  template <class F>
  void panels(int64_t k, const S* w, int64_t begin, int64_t end, const F& f) const {
    const Layer& x = list[k];
    const int64_t columns = x.columns();
    if constexpr (std::is_same_v<S, T>) {
      if (x.outer == 1) return f(w + begin * columns, columns, begin, end - begin);
    }
    const int64_t bytes = std::max<int64_t>(columns * sizeof(T), 1);
    const int64_t count = std::clamp<int64_t>(262144 / bytes / block_rows * block_rows, block_rows, 64);
    const std::unique_ptr<T[]> packed(new T[count * columns]);
    for (int64_t r = begin; r < end; r += count) {
      const int64_t used = std::min(count, end - r);
      for (int64_t o = 0; o < x.outer; ++o) {
        const S* from = w + (o * x.rows + r) * x.inner;
        for (int64_t i = 0; i < used; ++i) {
          T* to = packed.get() + i * columns + o * x.inner;
          for (int64_t j = 0; j < x.inner; ++j) to[j] = static_cast<T>(from[i * x.inner + j]);
        }
      }
      f(packed.get(), columns, r, used);
    }
  }

  double dot(const S* a, const S* b, int64_t count) const {
    double sum = 0;
    blocks(count, [&](int64_t k, int64_t n, T* one, T* two) {
      sum += kernels.dot(read(a + k, one, n), read(b + k, two, n), n, stream);
    });
    return sum;
  }

  void divide(S* out, const S* x, int64_t count, T divisor) const {
    blocks(count, [&](int64_t k, int64_t n, T* one, T*) {
      write(out + k, one, n, [&](T* to) { kernels.divide(to, read(x + k, one, n), n, divisor, stream); });
    });
  }

  // out = alpha x + beta y, with y of either type.
  template <class Y>
  void combine(S* out, const S* x, double alpha, const Y* y, double beta, int64_t count) const {
    const T a = static_cast<T>(alpha), b = static_cast<T>(beta);
    const bool normal = std::isnormal(a) && std::isfinite(b);
    blocks(count, [&](int64_t k, int64_t n, T* one, T* two) {
      const T* p = read(x + k, one, n);
      const T* q = read(y + k, two, n);
      write(out + k, one, n, [&](T* to) {
        if (normal) return kernels.combine(to, p, a, q, b, n, stream);
        for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(alpha * p[i] + beta * q[i]);
      });
    });
  }

 private:
  // Half types go through two buffers on the stack; the others are used in place.
  template <class F>
  static void blocks(int64_t count, const F& f) {
    if constexpr (std::is_same_v<S, T>) {
      f(0, count, nullptr, nullptr);
    } else {
      alignas(64) T one[1024], two[1024];
      for (int64_t k = 0; k < count; k += 1024) f(k, std::min<int64_t>(1024, count - k), one, two);
    }
  }

  static const T* read(const T* x, T*, int64_t) { return x; }
  template <class H>
  static const T* read(const H* x, T* buffer, int64_t count) {
    for (int64_t k = 0; k < count; ++k) buffer[k] = static_cast<T>(x[k]);
    return buffer;
  }

  template <class F>
  static void write(S* out, [[maybe_unused]] T* buffer, [[maybe_unused]] int64_t count, const F& f) {
    if constexpr (std::is_same_v<S, T>) {
      f(out);
    } else {
      f(buffer);
      for (int64_t k = 0; k < count; ++k) out[k] = static_cast<S>(buffer[k]);
    }
  }
};

}  // namespace gankern::spectral_norm
