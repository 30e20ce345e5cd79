#include "minibatch_l1/core.h"

#include "minibatch_l1/pairs.h"

// A work item: its pairs of tiles one after another. Within a pair the sums are local, and are then added to the
// part's totals; for large N what rounding takes is kept beside these.

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

using minibatch_l1::Problem;

template <class T>
GANKERN_INLINE int64_t smaller(T a, T b) {
  return a < b ? a : b;
}

template <class T>
GANKERN_INLINE void zero(T* x, int64_t count) {
  for (int64_t k = 0; k < count; k += Simd<T>::lanes) store(x + k, Vec<T>{});
}

template <class T>
void add(T* to, const T* from, int64_t count) {
  for (int64_t k = 0; k < count; k += Simd<T>::lanes) store(to + k, load(to + k) + load(from + k));
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

// Lanes moved round: lane l of `to` is lane lanes[l] of `from`, which may be `to`.
template <class T>
GANKERN_INLINE void turn(T* to, const T* from, int64_t count, Int<T> lanes) {
  for (int64_t k = 0; k < count; k += Simd<T>::lanes) store(to + k, permute<T>(load(from + k), lanes));
}

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
  GANKERN_INLINE void take(const T* local, int64_t first, int64_t count) const {
    if (lost) {
      add(sum + first * row, lost + first * row, local, count * row);
    } else {
      add(sum + first * row, local, count * row);
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

// The slots of a folded group: which lanes a turn moves where, and which of them hold a row.
template <class T>
struct Slots {
  static constexpr int W = Simd<T>::lanes;
  Int<T> lane, slot;
  int64_t width, fold;

  GANKERN_INLINE explicit Slots(int64_t fold) : width(W / fold), fold(fold) {
    for (int l = 0; l < W; ++l) lane[l] = l, slot[l] = l / width;
  }
  GANKERN_INLINE Int<T> turned(int64_t turns) const {
    return (lane + static_cast<decltype(lane[0] + 0)>(turns * width)) & (W - 1);
  }
  GANKERN_INLINE Int<T> below(int64_t count) const { return slot < static_cast<decltype(slot[0] + 0)>(count); }
};

template <class T>
GANKERN_INLINE Side<T> side(const Problem<T>& p, int64_t row, int64_t rows) {
  constexpr int W = Simd<T>::lanes;
  const int64_t n = row * W, c = row * p.c * W;
  return {p.m + c, p.g ? p.g + n : nullptr, p.v ? p.v + c : nullptr, nullptr, nullptr, rows};
}

template <class Order, class T, int C>
void item(const Problem<T>& p, int64_t index) {
  constexpr int W = Simd<T>::lanes;
  const int64_t c = C > 0 ? C : p.c;
  const int64_t group = index % p.groups, part = index / p.groups;
  const int64_t fold = group + 1 == p.groups ? p.fold : 1, vector_rows = p.rows(group), row0 = group * p.n;
  const int64_t rows = minibatch_l1::tile_rows(p.rows(0), c, W * sizeof(T));
  const int64_t tiles = minibatch_l1::tile_count(vector_rows, rows), pairs = minibatch_l1::tile_pairs(tiles, fold);
  const int64_t first = pairs * part / p.parts, last = pairs * (part + 1) / p.parts;

  // Each item has its totals and its local memory; see local_size().
  const int64_t at = part * p.total_rows + row0;
  const Totals<T> total_n = {p.out_n + at * W, p.lost_n ? p.lost_n + at * W : nullptr, vector_rows, W};
  const Totals<T> total_c = {p.out_c + at * c * W, p.lost_c ? p.lost_c + at * c * W : nullptr, vector_rows, c * W};
  if (Order::with_n) total_n.begin();
  if (Order::with_c) total_c.begin();
  T* local_n = p.local + index * minibatch_l1::local_size(c, rows, p.fold, W);
  T* local_c = local_n + 2 * rows * W;
  T* turned_m = local_c + 2 * rows * c * W;
  T* turned_v = turned_m + rows * c * W;
  T* turned_g = turned_v + rows * c * W;

  const Slots<T> slots(fold);
  const int64_t in_last_row = p.n - (vector_rows - 1) * fold;  // slots of the last vector row that hold a row
  TilePair<T> t;
  t.c = c;
  t.diagonal = slots.below(fold / 2);
  t.edge_i = slots.below(in_last_row);

  int64_t seen = 0;
  for (int64_t turns = 0; turns < minibatch_l1::turn_count(fold) && seen < last; ++turns) {
    const bool triangular = minibatch_l1::triangular(turns, fold);
    const Int<T> forth = slots.turned(turns), back = slots.turned(fold - turns);
    t.edge_j = reinterpret_cast<Int<T>>(permute<T>(reinterpret_cast<Vec<T>>(t.edge_i), forth));
    for (int64_t ti = 0; ti < tiles && seen < last; ++ti) {
      const int64_t start = triangular ? ti : 0;
      const int64_t from = start + (first > seen ? first - seen : 0), to = smaller(tiles, start + last - seen);
      seen += tiles - start;
      for (int64_t tj = from; tj < to; ++tj) {
        const int64_t i0 = ti * rows, ni = smaller(rows, vector_rows - i0);
        const int64_t j0 = tj * rows, nj = smaller(rows, vector_rows - j0);
        const bool same = ti == tj && turns == 0;
        t.i = side(p, row0 + i0, ni);
        t.j = side(p, row0 + j0, nj);
        if (turns > 0) {
          turn(turned_m, t.j.m, nj * c * W, forth);
          t.j.m = turned_m;
          if (Order::with_c) turn(turned_g, t.j.g, nj * W, forth), t.j.g = turned_g;
          if (Order::with_v) turn(turned_v, t.j.v, nj * c * W, forth), t.j.v = turned_v;
        }
        t.i.sum_n = local_n, t.j.sum_n = same ? local_n : local_n + rows * W;
        t.i.sum_c = local_c, t.j.sum_c = same ? local_c : local_c + rows * c * W;
        t.shape = !triangular || ti != tj ? Shape::full : turns == 0 ? Shape::above_diagonal : Shape::diagonal;
        t.last_i = in_last_row < fold && ti + 1 == tiles ? ni - 1 : -1;
        t.last_j = in_last_row < fold && tj + 1 == tiles ? nj - 1 : -1;
        t.guarded = t.last_i >= 0 || t.last_j >= 0 || t.shape == Shape::diagonal;

        if (Order::with_n) zero(local_n, 2 * rows * W);
        if (Order::with_c) zero(local_c, 2 * rows * c * W);
        tile_pair<Order, T, C>(t);
        if (turns > 0) {
          if (Order::with_n) turn(t.j.sum_n, t.j.sum_n, nj * W, back);
          if (Order::with_c) turn(t.j.sum_c, t.j.sum_c, nj * c * W, back);
        }
        if (Order::with_n) total_n.take(t.i.sum_n, i0, ni);
        if (Order::with_c) total_c.take(t.i.sum_c, i0, ni);
        if (same) continue;
        if (Order::with_n) total_n.take(t.j.sum_n, j0, nj);
        if (Order::with_c) total_c.take(t.j.sum_c, j0, nj);
      }
    }
  }
  if (Order::with_n) total_n.end();
  if (Order::with_c) total_c.end();
}

// Kernel dimensions with code of their own: their rows stay in registers.
template <class Order, class T>
void dispatch(const Problem<T>& p, int64_t index) {
  switch (p.c) {
    case 3:
      return item<Order, T, 3>(p, index);
    case 4:
      return item<Order, T, 4>(p, index);
    case 5:
      return item<Order, T, 5>(p, index);
    case 8:
      return item<Order, T, 8>(p, index);
    case 16:
      return item<Order, T, 16>(p, index);
    default:
      return item<Order, T, 0>(p, index);
  }
}

template <class T>
constexpr minibatch_l1::Kernels<T> table = {
    Simd<T>::lanes, dispatch<Forward, T>, dispatch<Backward, T>, dispatch<DoubleBackward, T>, add<T>,
};

}  // namespace

extern const minibatch_l1::Kernels<float> minibatch_l1_float;
extern const minibatch_l1::Kernels<double> minibatch_l1_double;
const minibatch_l1::Kernels<float> minibatch_l1_float = table<float>;
const minibatch_l1::Kernels<double> minibatch_l1_double = table<double>;

}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
