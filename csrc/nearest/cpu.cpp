#include "closest_pairs/operands.h"

// Nearest rows of y for each row of x, on the tiles of closest_pairs: a bound for each row, in its h.

namespace gankern::nearest {
namespace {

using namespace gankern::closest_pairs;

struct Neighbour {
  double squared;
  int64_t j;

  bool operator<(const Neighbour& o) const { return squared != o.squared ? squared < o.squared : j < o.j; }
};

// What all row tiles share.
struct Search {
  const Kernels& kernels;
  Data x, y;
  int64_t first_a, first_b, k;
  double scale, margin;
  const float* half_a;   // h of x's rows
  double* bound;         // [row] k rows of y are known at or below it
  float* limit;          // [row] h less theta
  double* best_squared;  // [row][k]
  int64_t* best_j;
  std::atomic<int64_t> work{0}, exact{0};

  void set_limit(int64_t row) {
    const float h = half_a[row];
    if (h == std::numeric_limits<float>::max()) {
      limit[row] = h;
      return;
    }
    const double theta = threshold(bound[row], scale, margin, x.d);
    const auto g = static_cast<float>(h - theta * (1 + 0x1p-20));
    limit[row] = std::nextafter(g, -std::numeric_limits<float>::infinity());
  }
};

// One tile of rows of x: its heaps, and its candidates.
struct RowTile {
  Search& s;
  int64_t begin, end;
  std::vector<Neighbour> heaps;
  int64_t exact = 0;

  RowTile(Search& search, int64_t from, int64_t to) : s(search), begin(from), end(to), heaps((to - from) * s.k) {
    for (int64_t n = 0; n < (end - begin) * s.k; ++n) {
      heaps[n] = {s.best_squared[begin * s.k + n], s.best_j[begin * s.k + n]};
    }
    for (int64_t row = begin; row < end; ++row) {
      std::make_heap(heap(row), heap(row) + s.k);
      s.set_limit(row);
    }
  }

  Neighbour* heap(int64_t row) { return heaps.data() + (row - begin) * s.k; }

  static void offer(void* context, const Candidate* candidates, int64_t count) {
    auto& self = *static_cast<RowTile*>(context);
    Search& s = self.s;
    for (int64_t n = 0; n < count; ++n) {
      const int64_t row = candidates[n].a, j = s.first_b + candidates[n].b;
      Neighbour* heap = self.heap(row);
      if (heap->squared == 0 && heap->j < j) continue;
      const double squared =
          s.kernels.squared_distance(s.x.element, s.x.row(s.first_a + row), s.y.row(j), s.x.d, s.bound[row]);
      ++self.exact;
      if (squared > s.bound[row] || !(Neighbour{squared, j} < *heap)) continue;
      std::pop_heap(heap, heap + s.k);
      heap[s.k - 1] = {squared, j};
      std::push_heap(heap, heap + s.k);
      if (heap->squared < s.bound[row]) {
        s.bound[row] = heap->squared;
        s.set_limit(row);
      }
    }
  }

  void write() {
    for (int64_t row = begin; row < end; ++row) std::sort_heap(heap(row), heap(row) + s.k);
    for (int64_t n = 0; n < (end - begin) * s.k; ++n) {
      s.best_squared[begin * s.k + n] = heaps[n].squared;
      s.best_j[begin * s.k + n] = heaps[n].j;
    }
    s.exact += exact;
  }
};

// Offers every row of b to every row of a. `bound` (rows of a) is a squared distance that k rows of y do not exceed;
// `best_*` (rows of a, k) hold what earlier scans kept, filled up with infinity and the largest index. Returns the
// new bound, the best of both, each row sorted, and (multiply-adds, exact distances).
std::tuple<Tensor, Tensor, Tensor, Tensor> scan(const Tensor& x, const Tensor& y, const Tensor& a, const Tensor& half_a,
                                                int64_t first_a, const Tensor& b, const Tensor& half_b, int64_t first_b,
                                                const Tensor& segments, double scale, double margin, bool distinct,
                                                const Tensor& bound, const Tensor& best_squared, const Tensor& best_j) {
  const Kernels& kernel = kernels(isa());
  const int64_t n = half_a.size(0), k = best_squared.size(1);
  Tensor no_tail = new_empty(x, {1, std::max(n, half_b.size(0))}, ScalarType::Float);
  std::fill_n(static_cast<float*>(no_tail.data_ptr()), no_tail.size(1), 0.0F);
  const Tensor tail_a = torch::stable::narrow(no_tail, 1, 0, n);
  const Tensor tail_b = torch::stable::narrow(no_tail, 1, 0, half_b.size(0));
  Side side_a(a, half_a, tail_a, first_a, kernel.panel), side_b(b, half_b, tail_b, first_b, kernel.panel);
  const auto plan = segments_of(segments, a.size(1), 1);
  check(a.size(1) == b.size(1), "two sides of one kind");
  check(first_a >= 0 && first_a + n <= x.size(0) && first_b >= 0 && first_b + half_b.size(0) <= y.size(0),
        "points of x and of y");
  check_vector(bound, ScalarType::Double, n, "a float64 bound for each row");
  check_matrix(best_squared, ScalarType::Double, "float64 best distances");
  check_matrix(best_j, ScalarType::Long, "int64 best rows");
  check(best_squared.size(0) == n && best_j.size(0) == n && best_j.size(1) == k && k > 0, "k best for each row");

  Tensor new_bound = new_empty(x, {n}, ScalarType::Double);
  Tensor squared = new_empty(x, {n, k}, ScalarType::Double), rows = new_empty(x, {n, k}, ScalarType::Long);
  std::copy_n(static_cast<const double*>(bound.data_ptr()), n, static_cast<double*>(new_bound.data_ptr()));
  std::copy_n(static_cast<const double*>(best_squared.data_ptr()), n * k, static_cast<double*>(squared.data_ptr()));
  std::copy_n(static_cast<const int64_t*>(best_j.data_ptr()), n * k, static_cast<int64_t*>(rows.data_ptr()));

  Aligned limit(side_a.points.padded, std::numeric_limits<float>::max());
  Search search{kernel,
                data_of(x),
                data_of(y),
                first_a,
                first_b,
                k,
                scale,
                margin,
                side_a.points.half,
                static_cast<double*>(new_bound.data_ptr()),
                limit.data(),
                static_cast<double*>(squared.data_ptr()),
                static_cast<int64_t*>(rows.data_ptr())};
  check(search.x.d == search.y.d && search.x.element == search.y.element, "x and y of one width and dtype");
  const float theta = 0;
  Scan s;
  s.a = side_a.points;
  s.b = side_b.points;
  s.a.half = limit.data();
  s.k = a.size(1);
  s.segments = plan.data();
  s.segment_count = static_cast<int64_t>(plan.size());
  s.distinct = distinct;
  s.theta = &theta;
  s.offer = RowTile::offer;

  const int64_t step = tile_rows / kernel.panel;
  share_out((side_a.panels + step - 1) / step, [] { return Aligned(tile_rows * tile_rows); },
            [&](int64_t item, Aligned& scratch) {
              const int64_t a0 = item * step, a1 = std::min(a0 + step, side_a.panels);
              RowTile tile(search, a0 * kernel.panel, std::min(a1 * kernel.panel, n));
              Scan mine = s;
              mine.context = &tile;
              for (int64_t b0 = 0; b0 < side_b.panels; b0 += step) {
                search.work += kernel.tile(mine, a0, a1, b0, std::min(b0 + step, side_b.panels), scratch.data());
              }
              tile.write();
            });
  Tensor counts = new_empty(x, {2}, ScalarType::Long);
  static_cast<int64_t*>(counts.data_ptr())[0] = search.work;
  static_cast<int64_t*>(counts.data_ptr())[1] = search.exact;
  return {new_bound, squared, rows, counts};
}

}  // namespace
}  // namespace gankern::nearest

STABLE_TORCH_LIBRARY_IMPL(gankern_native, CPU, m) { m.impl("nearest_scan", TORCH_BOX(&gankern::nearest::scan)); }
