// All layers of a call in one launch: their power iterations and division, or a derivative's sums and its results.
#pragma once

#include "common/launch.cuh"
#include "spectral_norm/tickets.cuh"

namespace gankern::spectral_norm {

enum class Order { forward, backward, double_backward };

constexpr int64_t chunk = 8192;  // elements of an item

// A contiguous weight (outer, rows, inner), seen as a matrix of `rows` rows and outer * inner columns.
struct Entry {
  const void* in[3];  // W, u, v; G, W; or V, G, W
  void* out[2];       // W / sigma; dW; or dG, dW
  int64_t rows, inner, columns;
  int64_t u_at, y_at, z_at;        // where its vectors begin: u then v, W v, and its items' parts of W^T W v
  int64_t step;                    // rows of an item
  int first_rows, first_elements;  // its first items
};

struct Problem {
  Entry layers[most_layers];
  int count, iterations, row_items, element_items;
  bool divide;
  double eps;
  void *vectors, *sigma, *y, *z;
  const void* grad_sigma;
  void* dgrad_sigma;
  double *parts, *numbers;  // three per item of elements; two per layer
  Counters* counters;
};
static_assert(sizeof(Problem) <= 4000, "a kernel's parameters have 4 KiB");

// |W v|, and squared |W^T (W v)|, within which no sum overflows or loses digits to underflow.
template <class T>
constexpr double safe_low = std::is_same_v<T, double> ? 1e-75 : 1e-8;
template <class T>
constexpr double safe_high = std::is_same_v<T, double> ? 1e75 : 1e12;

// As torch's clamp_min: NaN stays.
__device__ __forceinline__ double clamp(double x, double eps) { return x < eps ? eps : x; }

template <class S>
struct Block {
  using T = Accumulate<S>;
  const Problem& p;
  double* scratch;
  const int t = threadIdx.x;

  __device__ __forceinline__ T* vector(void* base, int64_t at) const { return static_cast<T*>(base) + at; }

  // The layer of an item, given each layer's first.
  __device__ __forceinline__ int layer_of(int item, int Entry::* first) const {
    int k = 0;
    while (k + 1 < p.count && p.layers[k + 1].*first <= item) ++k;
    return k;
  }
  __device__ __forceinline__ int items_of(int k, int Entry::* first, int all) const {
    return (k + 1 < p.count ? p.layers[k + 1].*first : all) - p.layers[k].*first;
  }

  // The place of row 0 of column c.
  __device__ __forceinline__ static int64_t place(const Entry& x, int64_t c) {
    return x.inner == x.columns ? c : c / x.inner * x.rows * x.inner + c % x.inner;
  }

  // y = W v for an item's rows, and its part of W^T y. The second read of a panel comes from the cache.
  __device__ __forceinline__ void products(const Entry& x, int local, const T* v, bool with_z) const {
    const S* w = static_cast<const S*>(x.in[0]);
    const int64_t begin = local * x.step, end = begin + x.step < x.rows ? begin + x.step : x.rows;
    T* z = vector(p.z, x.z_at + local * x.columns);
    for (int64_t r = begin; r == begin || r < end; r += panel) {
      const int used = end - r < panel ? static_cast<int>(end - r) : panel;
      T part[panel] = {};
      for (int64_t c = t; c < x.columns; c += block_threads) {
        const S* column = w + place(x, c) + r * x.inner;
        const T factor = fresh(v + c);
#pragma unroll
        for (int i = 0; i < panel; ++i) {
          if (i < used) part[i] += static_cast<T>(column[i * x.inner]) * factor;
        }
      }
      double sums[panel];
#pragma unroll
      for (int i = 0; i < panel; ++i) sums[i] = part[i];
      block_sums(sums, scratch);
#pragma unroll
      for (int i = 0; i < panel; ++i) {
        if (t == i && i < used) vector(p.y, x.y_at)[r + i] = static_cast<T>(sums[i]);
      }
      if (!with_z) continue;
      for (int64_t c = t; c < x.columns; c += block_threads) {
        const S* column = w + place(x, c) + r * x.inner;
        T more = 0;
#pragma unroll
        for (int i = 0; i < panel; ++i) {
          if (i < used) more += static_cast<T>(column[i * x.inner]) * static_cast<T>(sums[i]);
        }
        z[c] = r == begin ? more : z[c] + more;
      }
    }
  }

  // u, v and sigma of a layer, from y and the parts of z = W^T y, which is |y| times W^T u.
  __device__ __forceinline__ void finish(const Entry& x, int k, int parts) const {
    T *u = vector(p.vectors, x.u_at), *v = u + x.rows, *sigma = vector(p.sigma, k);
    const T *y = vector(p.y, x.y_at), *z = vector(p.z, x.z_at);
    if (p.iterations == 0) {
      const T *old_u = static_cast<const T*>(x.in[1]), *old_v = static_cast<const T*>(x.in[2]);
      const double found = block_sum(x.rows, scratch, [&](int64_t r) {
        return static_cast<double>(old_u[r]) * static_cast<double>(fresh(y + r));
      });
      for (int64_t r = t; r < x.rows; r += block_threads) u[r] = old_u[r];
      for (int64_t c = t; c < x.columns; c += block_threads) v[c] = old_v[c];
      if (t == 0) *sigma = static_cast<T>(found);
      return;
    }
    const double length = sqrt(block_sum(x.rows, scratch, [&](int64_t r) {
      const double value = fresh(y + r);
      return value * value;
    }));
    const double a = clamp(length, p.eps);
    for (int64_t r = t; r < x.rows; r += block_threads) u[r] = static_cast<T>(fresh(y + r) / a);
    double norm = sqrt(block_sum(x.columns, scratch, [&](int64_t c) {
      T total = 0;
      for (int i = 0; i < parts; ++i) total += fresh(z + i * x.columns + c);
      v[c] = total;
      return static_cast<double>(total) * static_cast<double>(total);
    }));
    const double low = safe_low<T>, high = safe_high<T>;
    const bool safe = length > low && length < high && norm > low * low && norm < high * high;
    if (!safe) {  // rare: W^T u itself. The block's own u is behind the barriers of the sum above.
      norm = sqrt(block_sum(x.columns, scratch, [&](int64_t c) {
        const S* column = static_cast<const S*>(x.in[0]) + place(x, c);
        T total = 0;
        for (int64_t r = 0; r < x.rows; ++r) total += static_cast<T>(column[r * x.inner]) * fresh(u + r);
        v[c] = total;
        return static_cast<double>(total) * static_cast<double>(total);
      }));
    }
    const double divisor = safe ? a : 1.0, s = norm / divisor, b = clamp(s, p.eps);
    for (int64_t c = t; c < x.columns; c += block_threads) v[c] = static_cast<T>(v[c] / (divisor * b));
    if (t == 0) *sigma = static_cast<T>(s * (s / b));
  }

  // Calls f(k, u_r v_c) for an item's elements, with the product in P; no product for void.
  template <class P, class F>
  __device__ __forceinline__ void elements(const Entry& x, int local, F&& f) const {
    const int64_t size = x.rows * x.columns, begin = local * chunk;
    const int64_t end = begin + chunk < size ? begin + chunk : size;
    if (size <= UINT32_MAX - chunk) {  // a division of 32-bit numbers is far cheaper
      each<P, uint32_t>(x, static_cast<uint32_t>(begin), static_cast<uint32_t>(end), f);
    } else {
      each<P, int64_t>(x, begin, end, f);
    }
  }

  template <class P, class I, class F>
  __device__ __forceinline__ void each(const Entry& x, I begin, I end, F& f) const {
    const I rows = static_cast<I>(x.rows), inner = static_cast<I>(x.inner);
    const T *u = vector(p.vectors, x.u_at), *v = u + x.rows;
#pragma unroll 4
    for (I k = begin + t; k < end; k += block_threads) {
      if constexpr (std::is_void_v<P>) {
        f(k);
      } else {
        const I run = k / inner;
        f(k,
          static_cast<P>(fresh(u + run % rows)) * static_cast<P>(fresh(v + (run / rows * inner + (k - run * inner)))));
      }
    }
  }

  __device__ __forceinline__ void divide(const Entry& x, int k, int local) const {
    const T s = fresh(vector(p.sigma, k));
    const S* w = static_cast<const S*>(x.in[0]);
    S* out = static_cast<S*>(x.out[0]);
    elements<void>(x, local, [&](auto at) { out[at] = static_cast<S>(static_cast<T>(w[at]) / s); });
  }

  // An item's <G, W>; in the double backward <V, u v^T>, <V, G> and <G, W>.
  template <Order order>
  __device__ __forceinline__ void sums(const Entry& x, int local, int item) const {
    constexpr bool twice = order == Order::double_backward;
    const S *first = static_cast<const S*>(x.in[0]), *second = static_cast<const S*>(x.in[1]);
    [[maybe_unused]] const S* third = static_cast<const S*>(x.in[2]);
    double found[3] = {};
    if constexpr (twice) {
      elements<double>(x, local, [&](auto at, double product) {
        const double a = static_cast<T>(first[at]), b = static_cast<T>(second[at]);
        found[0] += a * product, found[1] += a * b, found[2] += b * static_cast<double>(static_cast<T>(third[at]));
      });
    } else {
      elements<void>(x, local, [&](auto at) {
        found[2] += static_cast<double>(static_cast<T>(first[at])) * static_cast<double>(static_cast<T>(second[at]));
      });
    }
    block_sums(found, scratch);
    if (t == 0) {
      for (int i = 0; i < 3; ++i) p.parts[3 * int64_t(item) + i] = found[i];
    }
  }

  // A layer's a and beta, from its items' sums.
  template <Order order>
  __device__ __forceinline__ void finish_sums(const Entry& x, int k, int items) const {
    double total[3] = {};
    for (int i = t; i < items; i += block_threads) {
      for (int j = 0; j < 3; ++j) total[j] += fresh(p.parts + 3 * (x.first_elements + int64_t(i)) + j);
    }
    block_sums(total, scratch);
    if (t != 0) return;
    const double s = *vector(p.sigma, k), c = total[2] / s;
    if constexpr (order == Order::backward) {
      p.numbers[2 * k + 1] = static_cast<double>(static_cast<const T*>(p.grad_sigma)[k]) - c / s;
    } else {
      p.numbers[2 * k] = total[0];
      p.numbers[2 * k + 1] = (2 * total[0] * c - total[1]) / s / s;
      vector(p.dgrad_sigma, k)[0] = static_cast<T>(total[0]);
    }
  }

  template <Order order>
  __device__ __forceinline__ void results(const Entry& x, int k, int local) const {
    const T s = *vector(p.sigma, k), beta = static_cast<T>(fresh(p.numbers + 2 * k + 1));
    const S* first = static_cast<const S*>(x.in[0]);
    S* out = static_cast<S*>(x.out[0]);
    if constexpr (order == Order::backward) {
      elements<T>(x, local, [&](auto at, T product) {
        out[at] = static_cast<S>(static_cast<T>(first[at]) / s + beta * product);
      });
    } else {
      const T a = static_cast<T>(fresh(p.numbers + 2 * k));
      const S *g = static_cast<const S*>(x.in[1]), *w = static_cast<const S*>(x.in[2]);
      S* dw = static_cast<S*>(x.out[1]);
      elements<T>(x, local, [&](auto at, T product) {
        out[at] = static_cast<S>((static_cast<T>(first[at]) - a * (static_cast<T>(w[at]) / s)) / s);
        dw[at] = static_cast<S>(beta * product - a / s * (static_cast<T>(g[at]) / s));
      });
    }
  }
};

template <Order order, class S>
__global__ void __launch_bounds__(block_threads, 1) layers_kernel(const __grid_constant__ Problem p) {
  const Block<S> block{p, shared_memory<double, scratch_doubles>()};
  const int passes = order != Order::forward || p.iterations == 0 ? 1 : p.iterations;
  const int phase = order == Order::forward ? p.row_items : p.element_items;  // tickets of a pass
  const int total = passes * phase + (p.divide ? p.element_items : 0);
  constexpr auto first = order == Order::forward ? &Entry::first_rows : &Entry::first_elements;
  for (int ticket; (ticket = draw(p.counters, block.scratch)) < total;) {
    if (ticket >= passes * phase) {
      const int item = ticket - passes * phase, k = block.layer_of(item, &Entry::first_elements);
      const Entry& x = p.layers[k];
      wait(p.counters, k, passes);
      if constexpr (order == Order::forward) {
        block.divide(x, k, item - x.first_elements);
      } else {
        block.template results<order>(x, k, item - x.first_elements);
      }
      continue;
    }
    const int pass = ticket / phase, item = ticket % phase, k = block.layer_of(item, first);
    const Entry& x = p.layers[k];
    const int items = block.items_of(k, first, phase);
    wait(p.counters, k, pass);
    if constexpr (order == Order::forward) {
      using T = Accumulate<S>;
      const T* v = pass == 0 ? static_cast<const T*>(x.in[2]) : block.vector(p.vectors, x.u_at) + x.rows;
      block.products(x, item - x.first_rows, v, p.iterations > 0);
    } else {
      block.template sums<order>(x, item - x.first_elements, item);
    }
    if (!arrive(p.counters, k, (pass + 1) * items - 1, block.scratch)) continue;
    if constexpr (order == Order::forward) {
      block.finish(x, k, items);
    } else {
      block.template finish_sums<order>(x, k, items);
    }
    end_phase(p.counters, k, pass + 1);
  }
}

}  // namespace gankern::spectral_norm
