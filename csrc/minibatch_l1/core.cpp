#include "minibatch_l1/core.h"

#include <stdlib.h>

#include "common/simd.h"

// The i < j symmetry halves the work: K_ijb and q_ijb are symmetric and sgn(M_ibc - M_jbc) is antisymmetric, so a
// pair is visited once and gives to both rows. Within a pair of tiles the sums stay local, and are then added to
// the part's totals; for large N what rounding takes is kept beside these, so that errors do not grow with N.

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

using minibatch_l1::Problem;

constexpr int max_tile_rows = 64;

// Rows i that share each load of row j, and columns j that go through a phase together: exp is a long chain of
// dependent instructions, so many of them must be under way at once.
constexpr int block_rows = 2;
constexpr int block_columns = 8;

// Elements c whose row sums are kept in registers at a time.
constexpr int chunk = GANKERN_VECTOR_BYTES == 64 ? 4 : 2;

// One group's inputs.
template <class T>
struct View {
  int64_t c;
  const T* m;
  const T* g;
  const T* v;
};

// Local sums of the two tiles of a pair; row 0 of each is the tile's first row.
template <class T>
struct Sums {
  T* n_i;
  T* n_j;
  T* c_i;
  T* c_j;
  int64_t i0;
  int64_t j0;
};

// A block of R rows from i against `columns` columns from j: one vector for each of its pairs.
template <class T, int R>
struct Block {
  Vec<T> at[R * block_columns];
  int64_t i, j, columns;
};

template <class T, int C>
GANKERN_INLINE Vec<T> distance(const T* a, const T* b, int64_t c) {
  constexpr int W = Simd<T>::lanes;
  Vec<T> d = {};
  if constexpr (C > 0) {
    d = absolute<T>(load(a) - load(b));
#pragma GCC unroll 16
    for (int k = 1; k < C; ++k) d += absolute<T>(load(a + k * W) - load(b + k * W));
  } else {
    for (int64_t k = 0; k < c; ++k) d += absolute<T>(load(a + k * W) - load(b + k * W));
  }
  return d;
}

// sum_c (V_i - V_j) sgn(M_i - M_j)
template <class T, int C>
GANKERN_INLINE Vec<T> slope(const T* vi, const T* vj, const T* mi, const T* mj, int64_t c) {
  constexpr int W = Simd<T>::lanes;
  const int64_t count = C > 0 ? C : c;
  Vec<T> q = {};
#pragma GCC unroll 4
  for (int64_t k = 0; k < count; ++k) {
    q += (load(vi + k * W) - load(vj + k * W)) * sign<T>(load(mi + k * W) - load(mj + k * W));
  }
  return q;
}

template <class T, int C, int R>
GANKERN_INLINE void distances(const View<T>& x, Block<T, R>& d, int64_t c) {
  constexpr int W = Simd<T>::lanes;
  const T* mi = x.m + d.i * c * W;
#pragma GCC unroll 1
  for (int64_t b = 0; b < d.columns; ++b) {
    const T* mj = x.m + (d.j + b) * c * W;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) d.at[b * R + r] = distance<T, C>(mi + r * c * W, mj, c);
  }
}

// K = exp(-d) in place of d.
template <class T, int R>
GANKERN_INLINE void exponentials(Block<T, R>& d) {
#pragma GCC unroll 2
  for (int64_t p = 0; p < d.columns * R; ++p) d.at[p] = exp_negative(d.at[p]);
}

// Adds `direction` times each pair's value to both of its rows.
template <class T, int R, int direction>
GANKERN_INLINE void add_to_rows(const Block<T, R>& k, const Sums<T>& s) {
  constexpr int W = Simd<T>::lanes;
  T* own = s.n_i + (k.i - s.i0) * W;
  T* out = s.n_j + (k.j - s.j0) * W;
  Vec<T> sum[R];
  for (int r = 0; r < R; ++r) sum[r] = load(own + r * W);
  for (int64_t b = 0; b < k.columns; ++b) {
    Vec<T> other = load(out + b * W);
    for (int r = 0; r < R; ++r) {
      sum[r] += direction * k.at[b * R + r];
      other += direction * k.at[b * R + r];
    }
    store(out + b * W, other);
  }
  for (int r = 0; r < R; ++r) store(own + r * W, sum[r]);
}

// w = (G_i + G_j) k for each pair.
template <class T, int R>
GANKERN_INLINE void weigh(const View<T>& x, Block<T, R>& k) {
  constexpr int W = Simd<T>::lanes;
  for (int64_t b = 0; b < k.columns; ++b) {
    for (int r = 0; r < R; ++r) k.at[b * R + r] *= load(x.g + (k.i + r) * W) + load(x.g + (k.j + b) * W);
  }
}

// Adds direction * w * sgn(M_i - M_j) to row i and its opposite to row j, for N elements from k0 on.
template <class T, int R, int direction, int N>
GANKERN_INLINE void spread_chunk(const View<T>& x, const Block<T, R>& w, const Sums<T>& s, int64_t c, int64_t k0) {
  constexpr int W = Simd<T>::lanes;
  const T* mi = x.m + (w.i * c + k0) * W;
  const T* mj = x.m + (w.j * c + k0) * W;
  T* own = s.c_i + ((w.i - s.i0) * c + k0) * W;
  T* out = s.c_j + ((w.j - s.j0) * c + k0) * W;
  Vec<T> row[R * N], sum[R * N];
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < N; ++k) {
      row[r * N + k] = load(mi + (r * c + k) * W);
      sum[r * N + k] = load(own + (r * c + k) * W);
    }
  }
#pragma GCC unroll 1
  for (int64_t b = 0; b < w.columns; ++b, mj += c * W, out += c * W) {
    for (int k = 0; k < N; ++k) {
      Vec<T> other = load(out + k * W);
      for (int r = 0; r < R; ++r) {
        const Vec<T> si = direction * sign<T>(row[r * N + k] - load(mj + k * W));
        sum[r * N + k] += w.at[b * R + r] * si;
        other -= w.at[b * R + r] * si;
      }
      store(out + k * W, other);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < N; ++k) store(own + (r * c + k) * W, sum[r * N + k]);
  }
}

template <class T, int C, int R, int direction>
GANKERN_INLINE void spread(const View<T>& x, const Block<T, R>& w, const Sums<T>& s, int64_t c) {
  int64_t k = 0;
#pragma GCC unroll 8
  for (; k + chunk <= c; k += chunk) spread_chunk<T, R, direction, chunk>(x, w, s, c, k);
#pragma GCC unroll 4
  for (; k < c; ++k) spread_chunk<T, R, direction, 1>(x, w, s, c, k);
}

struct Forward {
  template <class T, int C, int R>
  static GANKERN_INLINE void block(const View<T>& x, const Sums<T>& s, Block<T, R>& p, int64_t c) {
    distances<T, C, R>(x, p, c);
    exponentials<T, R>(p);
    add_to_rows<T, R, 1>(p, s);
  }
};

struct Backward {
  template <class T, int C, int R>
  static GANKERN_INLINE void block(const View<T>& x, const Sums<T>& s, Block<T, R>& p, int64_t c) {
    distances<T, C, R>(x, p, c);
    exponentials<T, R>(p);
    weigh<T, R>(x, p);
    spread<T, C, R, -1>(x, p, s, c);
  }
};

struct DoubleBackward {
  template <class T, int C, int R>
  static GANKERN_INLINE void block(const View<T>& x, const Sums<T>& s, Block<T, R>& p, int64_t c) {
    constexpr int W = Simd<T>::lanes;
    distances<T, C, R>(x, p, c);
    exponentials<T, R>(p);
#pragma GCC unroll 1
    for (int64_t b = 0; b < p.columns; ++b) {
      const int64_t j = (p.j + b) * c * W;
      for (int r = 0; r < R; ++r) {
        const int64_t i = (p.i + r) * c * W;
        p.at[b * R + r] *= slope<T, C>(x.v + i, x.v + j, x.m + i, x.m + j, c);
      }
    }
    add_to_rows<T, R, -1>(p, s);
    weigh<T, R>(x, p);
    spread<T, C, R, 1>(x, p, s, c);
  }
};

template <class Order, class T, int C, int R>
GANKERN_INLINE void walk(const View<T>& x, const Sums<T>& s, int64_t i, int64_t j0, int64_t j1) {
  const int64_t c = C > 0 ? C : x.c;
  Block<T, R> p;
  p.i = i;
  for (p.j = j0; p.j < j1; p.j += block_columns) {
    p.columns = j1 - p.j < block_columns ? j1 - p.j : block_columns;
    Order::template block<T, C, R>(x, s, p, c);
  }
}

template <class Order, class T, int C>
void tile_pair(const View<T>& x, const Sums<T>& s, int64_t i1, int64_t j1) {
  if (s.i0 != s.j0) {
    int64_t i = s.i0;
    for (; i + block_rows <= i1; i += block_rows) walk<Order, T, C, block_rows>(x, s, i, s.j0, j1);
    for (; i < i1; ++i) walk<Order, T, C, 1>(x, s, i, s.j0, j1);
    return;
  }
  int64_t i = s.i0;
  for (; i + block_rows <= i1; i += block_rows) {
    for (int r = 0; r + 1 < block_rows; ++r) walk<Order, T, C, 1>(x, s, i + r, i + r + 1, i + block_rows);
    walk<Order, T, C, block_rows>(x, s, i, i + block_rows, j1);
  }
  for (; i < i1; ++i) walk<Order, T, C, 1>(x, s, i, i + 1, j1);
}

template <class T>
GANKERN_INLINE void zero(T* x, int64_t count) {
  for (int64_t k = 0; k < count; k += Simd<T>::lanes) store(x + k, Vec<T>{});
}

// Adds `from` to `to` and the rounding error of that, by Knuth's two-sum, to `lost`.
template <class T>
GANKERN_INLINE void add(T* to, T* lost, const T* from, int64_t count) {
  for (int64_t k = 0; k < count; k += Simd<T>::lanes) {
    const Vec<T> a = load(to + k), b = load(from + k), sum = a + b, part = sum - a;
    store(lost + k, load(lost + k) + ((a - (sum - part)) + (b - part)));
    store(to + k, sum);
  }
}

template <class T>
GANKERN_INLINE int64_t smaller(T a, T b) {
  return a < b ? a : b;
}

template <class T>
GANKERN_INLINE void add(T* to, const T* from, int64_t count) {
  for (int64_t k = 0; k < count; k += Simd<T>::lanes) store(to + k, load(to + k) + load(from + k));
}

// Local sums of a pair of tiles are on the stack, or in memory of the item's own where rows are wide.
constexpr int64_t stack_bytes = 98304;

// Tiles from which on totals are compensated; below, plain sums lose no more than the tiles' own.
constexpr int64_t plain_tiles = 16;

// Totals of one part and group. `lost` is what rounding took from them, or null where they are plain.
template <class T>
struct Totals {
  T* sum;
  T* lost;
  int64_t rows, row;  // `row` elements each

  GANKERN_INLINE void begin() const {
    zero(sum, rows * row);
    if (lost) zero(lost, rows * row);
  }
  GANKERN_INLINE void take(const T* local, int64_t first, int64_t last) const {
    if (lost) {
      add(sum + first * row, lost + first * row, local, (last - first) * row);
    } else {
      add(sum + first * row, local, (last - first) * row);
    }
  }
  GANKERN_INLINE void end() const {
    if (!lost) return;
    for (int64_t k = 0; k < rows * row; k += Simd<T>::lanes) {
      const Vec<T> error = load(lost + k);  // NaN beside an infinite sum
      store(sum + k, load(sum + k) + (error == error ? error : Vec<T>{}));
    }
  }
};

template <class Order, class T, int C, bool with_n, bool with_c>
void item(const Problem<T>& p, int64_t index) {
  constexpr int W = Simd<T>::lanes;
  const int64_t c = C > 0 ? C : p.c;
  const int64_t group = index % p.groups, part = index / p.groups;
  const int64_t rows = minibatch_l1::tile_rows(p.c, W * sizeof(T));
  const int64_t tiles = (p.n + rows - 1) / rows;
  const int64_t pairs = tiles * (tiles + 1) / 2;
  const int64_t first = pairs * part / p.parts, last = pairs * (part + 1) / p.parts;

  View<T> x = {c, p.m + group * p.n * c * W, nullptr, nullptr};
  if constexpr (with_c) x.g = p.g + group * p.n * W;
  if constexpr (with_n && with_c) x.v = p.v + group * p.n * c * W;
  const int64_t count_n = with_n ? p.n * W : 0, count_c = with_c ? p.n * c * W : 0;
  const int64_t local_count = with_c ? 2 * rows * c * W : 0;
  const bool wide = local_count * static_cast<int64_t>(sizeof(T)) > stack_bytes, compensated = tiles > plain_tiles;
  alignas(64) T local_n[2 * max_tile_rows * W];
  alignas(64) T stack_c[with_c ? stack_bytes / sizeof(T) : 1];
  void* memory = nullptr;
  const int64_t wanted = (wide ? local_count : 0) + (compensated ? count_n + count_c : 0);
  if (wanted > 0 && posix_memalign(&memory, 64, wanted * sizeof(T)) != 0) __builtin_trap();
  T* own = static_cast<T*>(memory);
  T* local_c = wide ? own + (compensated ? count_n + count_c : 0) : stack_c;

  const Totals<T> total_n = {with_n ? p.out_n + index * count_n : nullptr, compensated ? own : nullptr, p.n, W};
  const Totals<T> total_c = {with_c ? p.out_c + index * count_c : nullptr, compensated ? own + count_n : nullptr, p.n,
                             c * W};
  if (with_n) total_n.begin();
  if (with_c) total_c.begin();

  int64_t seen = 0;
  for (int64_t ti = 0; ti < tiles && seen < last; seen += tiles - ti, ++ti) {
    const int64_t i0 = ti * rows, i1 = smaller(i0 + rows, p.n);
    const int64_t from = ti + (first > seen ? first - seen : 0);
    const int64_t to = smaller(tiles, ti + last - seen);
    for (int64_t tj = from; tj < to; ++tj) {
      const int64_t j0 = tj * rows, j1 = smaller(j0 + rows, p.n);
      Sums<T> s = {local_n, local_n, local_c, local_c, i0, j0};
      if (ti != tj) s.n_j += rows * W, s.c_j += with_c ? rows * c * W : 0;
      if (with_n) zero(local_n, 2 * rows * W);
      if (with_c) zero(local_c, 2 * rows * c * W);
      tile_pair<Order, T, C>(x, s, i1, j1);
      if (with_n) total_n.take(s.n_i, i0, i1);
      if (with_c) total_c.take(s.c_i, i0, i1);
      if (ti == tj) continue;
      if (with_n) total_n.take(s.n_j, j0, j1);
      if (with_c) total_c.take(s.c_j, j0, j1);
    }
  }
  if (with_n) total_n.end();
  if (with_c) total_c.end();
  free(memory);
}

// Kernel dimensions with code of their own: their rows stay in registers.
template <class Order, class T, bool with_n, bool with_c>
void dispatch(const Problem<T>& p, int64_t index) {
  switch (p.c) {
    case 3:
      return item<Order, T, 3, with_n, with_c>(p, index);
    case 4:
      return item<Order, T, 4, with_n, with_c>(p, index);
    case 5:
      return item<Order, T, 5, with_n, with_c>(p, index);
    case 8:
      return item<Order, T, 8, with_n, with_c>(p, index);
    case 16:
      return item<Order, T, 16, with_n, with_c>(p, index);
    default:
      return item<Order, T, 0, with_n, with_c>(p, index);
  }
}

template <class T>
void add_parts(T* x, int64_t parts, int64_t groups, int64_t run, int64_t group) {
  for (int64_t part = 1; part < parts; ++part) add(x + group * run, x + (part * groups + group) * run, run);
}

template <class T>
constexpr minibatch_l1::Kernels<T> table = {
    Simd<T>::lanes,
    dispatch<Forward, T, true, false>,
    dispatch<Backward, T, false, true>,
    dispatch<DoubleBackward, T, true, true>,
    add_parts<T>,
};

}  // namespace

extern const minibatch_l1::Kernels<float> minibatch_l1_float;
extern const minibatch_l1::Kernels<double> minibatch_l1_double;
const minibatch_l1::Kernels<float> minibatch_l1_float = table<float>;
const minibatch_l1::Kernels<double> minibatch_l1_double = table<double>;

}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
