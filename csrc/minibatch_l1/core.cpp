#include "minibatch_l1/core.h"

#include "common/simd.h"

// The i < j symmetry halves the work: K_ijb and q_ijb are symmetric and sgn(M_ibc - M_jbc) is antisymmetric, so a
// pair is visited once and gives to both rows. Within a pair of tiles the sums stay local, and are then added to
// the part's totals: sums in two levels, for accuracy as much as for the cache.

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

using minibatch_l1::Problem;

constexpr int max_tile_rows = 64;

// Rows i that share each load of row j.
constexpr int block_rows = 2;

// Where the walk stands: block of `R` rows from i against rows [j0, j1) of one group. Row pointers are to row 0.
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

struct Forward {
  template <class T, int C, int R>
  static GANKERN_INLINE void rows(const View<T>& x, const Sums<T>& s, int64_t i, int64_t j0, int64_t j1) {
    constexpr int W = Simd<T>::lanes;
    const int64_t c = C > 0 ? C : x.c;
    Vec<T> sum[R];
    for (int r = 0; r < R; ++r) sum[r] = load(s.n_i + (i + r - s.i0) * W);
    for (int64_t j = j0; j < j1; ++j) {
      T* out = s.n_j + (j - s.j0) * W;
      Vec<T> other = load(out);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Vec<T> k = exp_negative(distance<T, C>(x.m + (i + r) * c * W, x.m + j * c * W, c));
        sum[r] += k;
        other += k;
      }
      store(out, other);
    }
    for (int r = 0; r < R; ++r) store(s.n_i + (i + r - s.i0) * W, sum[r]);
  }
};

struct Backward {
  template <class T, int C, int R>
  static GANKERN_INLINE void rows(const View<T>& x, const Sums<T>& s, int64_t i, int64_t j0, int64_t j1) {
    constexpr int W = Simd<T>::lanes;
    const int64_t c = C > 0 ? C : x.c;
    for (int64_t j = j0; j < j1; ++j) {
      const T* mj = x.m + j * c * W;
      T* out = s.c_j + (j - s.j0) * c * W;
      const Vec<T> gj = load(x.g + j * W);
      Vec<T> w[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        w[r] = exp_negative(distance<T, C>(x.m + (i + r) * c * W, mj, c)) * (load(x.g + (i + r) * W) + gj);
      }
#pragma GCC unroll 16
      for (int64_t k = 0; k < c; ++k) {
        Vec<T> other = load(out + k * W);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          T* own = s.c_i + ((i + r - s.i0) * c + k) * W;
          const Vec<T> si = sign<T>(load(x.m + ((i + r) * c + k) * W) - load(mj + k * W));
          store(own, load(own) - w[r] * si);
          other += w[r] * si;
        }
        store(out + k * W, other);
      }
    }
  }
};

struct DoubleBackward {
  template <class T, int C, int R>
  static GANKERN_INLINE void rows(const View<T>& x, const Sums<T>& s, int64_t i, int64_t j0, int64_t j1) {
    constexpr int W = Simd<T>::lanes;
    const int64_t c = C > 0 ? C : x.c;
    for (int64_t j = j0; j < j1; ++j) {
      const T* mj = x.m + j * c * W;
      const T* vj = x.v + j * c * W;
      T* out_n = s.n_j + (j - s.j0) * W;
      T* out_c = s.c_j + (j - s.j0) * c * W;
      const Vec<T> gj = load(x.g + j * W);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const T* mi = x.m + (i + r) * c * W;
        const T* vi = x.v + (i + r) * c * W;
        T* own_n = s.n_i + (i + r - s.i0) * W;
        T* own_c = s.c_i + (i + r - s.i0) * c * W;
        const Vec<T> kernel = exp_negative(distance<T, C>(mi, mj, c));
        Vec<T> q = {};
#pragma GCC unroll 16
        for (int64_t k = 0; k < c; ++k) {
          q += (load(vi + k * W) - load(vj + k * W)) * sign<T>(load(mi + k * W) - load(mj + k * W));
        }
        const Vec<T> kq = kernel * q;
        store(own_n, load(own_n) - kq);
        store(out_n, load(out_n) - kq);
        const Vec<T> w = (load(x.g + (i + r) * W) + gj) * kq;
#pragma GCC unroll 16
        for (int64_t k = 0; k < c; ++k) {
          const Vec<T> si = sign<T>(load(mi + k * W) - load(mj + k * W));
          store(own_c + k * W, load(own_c + k * W) + w * si);
          store(out_c + k * W, load(out_c + k * W) - w * si);
        }
      }
    }
  }
};

template <class Order, class T, int C>
void tile_pair(const View<T>& x, const Sums<T>& s, int64_t i1, int64_t j1) {
  if (s.i0 != s.j0) {
    int64_t i = s.i0;
    for (; i + block_rows <= i1; i += block_rows) Order::template rows<T, C, block_rows>(x, s, i, s.j0, j1);
    for (; i < i1; ++i) Order::template rows<T, C, 1>(x, s, i, s.j0, j1);
    return;
  }
  int64_t i = s.i0;
  for (; i + block_rows <= i1; i += block_rows) {
    for (int r = 0; r + 1 < block_rows; ++r) Order::template rows<T, C, 1>(x, s, i + r, i + r + 1, i + block_rows);
    Order::template rows<T, C, block_rows>(x, s, i, i + block_rows, j1);
  }
  for (; i < i1; ++i) Order::template rows<T, C, 1>(x, s, i, i + 1, j1);
}

template <class T>
GANKERN_INLINE void zero(T* x, int64_t count) {
  for (int64_t k = 0; k < count; k += Simd<T>::lanes) store(x + k, Vec<T>{});
}

template <class T>
GANKERN_INLINE void add(T* to, const T* from, int64_t count) {
  for (int64_t k = 0; k < count; k += Simd<T>::lanes) store(to + k, load(to + k) + load(from + k));
}

template <class T>
GANKERN_INLINE int64_t smaller(T a, T b) {
  return a < b ? a : b;
}

// Room on the stack for the local sums of a pair of tiles. Rows too wide for it are added straight into the totals.
constexpr int64_t local_bytes = 98304;

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
  T* total_n = with_n ? p.out_n + (part * p.groups + group) * p.n * W : nullptr;
  T* total_c = with_c ? p.out_c + (part * p.groups + group) * p.n * c * W : nullptr;
  if (with_n) zero(total_n, p.n * W);
  if (with_c) zero(total_c, p.n * c * W);

  alignas(64) T local_n[2 * max_tile_rows * W];
  alignas(64) T local_c[with_c ? local_bytes / sizeof(T) : 1];
  const bool local = !with_c || 2 * rows * c * W * static_cast<int64_t>(sizeof(T)) <= local_bytes;

  int64_t seen = 0;
  for (int64_t ti = 0; ti < tiles && seen < last; seen += tiles - ti, ++ti) {
    const int64_t i0 = ti * rows, i1 = smaller(i0 + rows, p.n);
    const int64_t from = ti + (first > seen ? first - seen : 0);
    const int64_t to = smaller(tiles, ti + last - seen);
    for (int64_t tj = from; tj < to; ++tj) {
      const int64_t j0 = tj * rows, j1 = smaller(j0 + rows, p.n);
      Sums<T> s = {local_n, local_n, local_c, local_c, i0, j0};
      if (!local) {
        if (with_n) s.n_i = total_n + i0 * W, s.n_j = total_n + j0 * W;
        s.c_i = total_c + i0 * c * W, s.c_j = total_c + j0 * c * W;
        tile_pair<Order, T, C>(x, s, i1, j1);
        continue;
      }
      if (ti != tj) s.n_j += rows * W, s.c_j += with_c ? rows * c * W : 0;
      if (with_n) zero(local_n, 2 * rows * W);
      if (with_c) zero(local_c, 2 * rows * c * W);
      tile_pair<Order, T, C>(x, s, i1, j1);
      if (with_n) add(total_n + i0 * W, s.n_i, (i1 - i0) * W);
      if (with_c) add(total_c + i0 * c * W, s.c_i, (i1 - i0) * c * W);
      if (ti == tj) continue;
      if (with_n) add(total_n + j0 * W, s.n_j, (j1 - j0) * W);
      if (with_c) add(total_c + j0 * c * W, s.c_j, (j1 - j0) * c * W);
    }
  }
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
