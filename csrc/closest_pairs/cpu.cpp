#include "closest_pairs/operands.h"

// Checks, parallel regions and registration of the steps that gankern/ops/closest_pairs/native.py puts together.

namespace gankern::closest_pairs {
namespace {

Tensor distances(const Tensor& x, const Tensor& y, const Tensor& i, const Tensor& j) {
  const Data a = data_of(x), b = data_of(y);
  check(a.d == b.d && a.element == b.element, "x and y of one width and dtype");
  const int64_t count = i.size(0);
  check_vector(i, ScalarType::Long, count, "int64 rows i");
  check_vector(j, ScalarType::Long, count, "int64 rows j, as many as i");
  Tensor out = new_empty(x, {count}, ScalarType::Double);
  const auto* rows_i = static_cast<const int64_t*>(i.data_ptr());
  const auto* rows_j = static_cast<const int64_t*>(j.data_ptr());
  auto* squared = static_cast<double*>(out.data_ptr());
  for (int64_t n = 0; n < count; ++n) {
    check(rows_i[n] >= 0 && rows_i[n] < x.size(0) && rows_j[n] >= 0 && rows_j[n] < y.size(0), "rows within bounds");
  }
  const Kernels& k = kernels(isa());
  torch::stable::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      squared[n] = k.squared_distance(a.element, a.row(rows_i[n]), b.row(rows_j[n]), a.d,
                                      std::numeric_limits<double>::infinity());
    }
  });
  return out;
}

// Rows [begin, end) of x, centred, scaled and packed, and their squared norms in float64.
std::tuple<Tensor, Tensor> points(const Tensor& x, int64_t begin, int64_t end, const Tensor& centre, double scale) {
  const Data a = data_of(x);
  check(0 <= begin && begin <= end && end <= x.size(0), "a range of rows");
  check_vector(centre, ScalarType::Double, a.d, "a float64 centre");
  const Kernels& k = kernels(isa());
  const int64_t count = end - begin, panels = (count + k.panel - 1) / k.panel;
  Tensor packed = new_empty(x, {panels, a.d, k.panel}, ScalarType::Float);
  Tensor norms = new_empty(x, {count}, ScalarType::Double);
  auto* to = static_cast<float*>(packed.data_ptr());
  auto* squares = static_cast<double*>(norms.data_ptr());
  const auto* middle = static_cast<const double*>(centre.data_ptr());
  for_each(panels, [&](int64_t p) {
    std::vector<float> rows(k.panel * run);
    const int64_t first = p * k.panel, used = std::min<int64_t>(k.panel, count - first);
    std::fill_n(squares + first, used, 0.0);
    for (int64_t c = 0; c < a.d; c += run) {
      const int64_t width = std::min(run, a.d - c), bytes = c * (a.row_bytes / a.d);
      for (int64_t r = 0; r < used; ++r) {
        const char* from = static_cast<const char*>(a.row(begin + first + r)) + bytes;
        squares[first + r] += k.centre(a.element, from, middle + c, scale, width, rows.data() + r * run);
      }
      k.pack(rows.data(), run, used, width, to + (p * a.d + c) * k.panel);
    }
  });
  return {packed, norms};
}

// Features <w_i, q_c> of every row, w as in points(), for the m rows q of the basis; and the squared norms.
std::tuple<Tensor, Tensor> project(const Tensor& x, const Tensor& centre, double scale, const Tensor& basis) {
  const Data a = data_of(x);
  check_vector(centre, ScalarType::Double, a.d, "a float64 centre");
  check_matrix(basis, ScalarType::Float, "a float32 basis");
  check(basis.size(1) == a.d, "a basis as wide as x");
  const Kernels& k = kernels(isa());
  const int64_t n = x.size(0), m = basis.size(0), panels = (n + k.panel - 1) / k.panel;
  const int64_t q_panels = (m + k.panel - 1) / k.panel, stride = a.d * k.panel;
  Tensor q = new_empty(x, {q_panels, a.d, k.panel}, ScalarType::Float);
  auto* q_data = static_cast<float*>(q.data_ptr());
  const auto* basis_data = static_cast<const float*>(basis.data_ptr());
  for_each(q_panels, [&](int64_t p) {
    k.pack(basis_data + p * k.panel * a.d, a.d, std::min<int64_t>(k.panel, m - p * k.panel), a.d, q_data + p * stride);
  });
  Tensor features = new_empty(x, {n, m}, ScalarType::Float);
  Tensor norms = new_empty(x, {n}, ScalarType::Double);
  auto* out = static_cast<float*>(features.data_ptr());
  auto* squares = static_cast<double*>(norms.data_ptr());
  const auto* middle = static_cast<const double*>(centre.data_ptr());
  struct Scratch {
    Aligned rows, panel, sums;
  };
  const auto make = [&] { return Scratch{Aligned(k.panel * run), Aligned(k.panel * run), Aligned(k.panel * m)}; };
  share_out(panels, make, [&](int64_t p, Scratch& s) {
    const int64_t first = p * k.panel, used = std::min<int64_t>(k.panel, n - first);
    float *rows = s.rows.data(), *panel = s.panel.data(), *sums = s.sums.data();
    std::fill_n(sums, k.panel * m, 0.0F);
    std::fill_n(squares + first, used, 0.0);
    for (int64_t c = 0; c < a.d; c += run) {
      const int64_t width = std::min(run, a.d - c), bytes = c * (a.row_bytes / a.d);
      for (int64_t r = 0; r < used; ++r) {
        const char* from = static_cast<const char*>(a.row(first + r)) + bytes;
        squares[first + r] += k.centre(a.element, from, middle + c, scale, width, rows + r * run);
      }
      k.pack(rows, run, used, width, panel);
      k.project(panel, q_data + c * k.panel, stride, m, width, sums);
    }
    for (int64_t r = 0; r < used; ++r) {
      for (int64_t c = 0; c < m; ++c) out[(first + r) * m + c] = sums[c * k.panel + r];
    }
  });
  return {features, norms};
}

Tensor pack(const Tensor& features) {
  check_matrix(features, ScalarType::Float, "float32 features");
  const Kernels& k = kernels(isa());
  const int64_t n = features.size(0), m = features.size(1), panels = (n + k.panel - 1) / k.panel;
  Tensor packed = new_empty(features, {panels, m, k.panel}, ScalarType::Float);
  const auto* from = static_cast<const float*>(features.data_ptr());
  auto* to = static_cast<float*>(packed.data_ptr());
  for_each(panels, [&](int64_t p) {
    k.pack(from + p * k.panel * m, m, std::min<int64_t>(k.panel, n - p * k.panel), m, to + p * m * k.panel);
  });
  return packed;
}

// One worker's view: offers the candidates of its tiles to the shared list.
struct PairWorker {
  const Kernels& kernels;
  const Data& x;
  Best& best;
  int64_t first_a, first_b;
  int64_t work = 0, exact = 0;
  Aligned scratch = Aligned(tile_rows * tile_rows);

  static void offer(void* context, const Candidate* candidates, int64_t count) {
    auto& self = *static_cast<PairWorker*>(context);
    for (int64_t n = 0; n < count; ++n) {
      const int64_t i = self.first_a + candidates[n].a, j = self.first_b + candidates[n].b;
      if (self.best.hopeless(i, j)) continue;
      const double bound = self.best.bound();
      const double squared =
          self.kernels.squared_distance(self.x.element, self.x.row(i), self.x.row(j), self.x.d, bound);
      ++self.exact;
      if (squared <= bound) self.best.add({squared, i, j});
    }
  }
};

// Offers all pairs of a's row tiles [begin, end) with b; where both are the same points, each pair once. `segments` is
// (S, 2): the end of each segment and the test after it, or -1. `best_*` hold what earlier scans kept, at most k;
// `seed` is a squared distance that k pairs of the sample do not exceed. Returns the best of both, sorted, and
// (multiply-adds, exact distances).
std::tuple<Tensor, Tensor, Tensor, Tensor> scan(const Tensor& x, const Tensor& a, const Tensor& half_a,
                                                const Tensor& tail_a, int64_t first_a, const Tensor& b,
                                                const Tensor& half_b, const Tensor& tail_b, int64_t first_b,
                                                const Tensor& segments, int64_t begin, int64_t end, double scale,
                                                double margin, double seed, int64_t k, const Tensor& best_squared,
                                                const Tensor& best_i, const Tensor& best_j) {
  const Data data = data_of(x);
  const Kernels& kernel = kernels(isa());
  Side side_a(a, half_a, tail_a, first_a, kernel.panel), side_b(b, half_b, tail_b, first_b, kernel.panel);
  check(k > 0 && a.size(1) == b.size(1) && tail_a.size(0) == tail_b.size(0), "two sides of one kind");
  check(first_a >= 0 && first_a + half_a.size(0) <= x.size(0) && first_b >= 0 && first_b + half_b.size(0) <= x.size(0),
        "points of x");
  const auto plan = segments_of(segments, a.size(1), tail_a.size(0));
  const int64_t kept = best_squared.size(0);
  check_vector(best_squared, ScalarType::Double, kept, "float64 best distances");
  check_vector(best_i, ScalarType::Long, kept, "int64 best rows");
  check_vector(best_j, ScalarType::Long, kept, "int64 best rows");

  Best best(k, seed, scale, margin, data.d);
  for (int64_t n = 0; n < kept; ++n) {
    best.add({static_cast<const double*>(best_squared.data_ptr())[n], static_cast<const int64_t*>(best_i.data_ptr())[n],
              static_cast<const int64_t*>(best_j.data_ptr())[n]});
  }
  Scan s;
  s.a = side_a.points;
  s.b = side_b.points;
  s.k = a.size(1);
  s.segments = plan.data();
  s.segment_count = static_cast<int64_t>(plan.size());
  s.upper = true;
  s.theta = best.theta();
  s.offer = PairWorker::offer;

  const int64_t step = tile_rows / kernel.panel, tiles_b = (side_b.panels + step - 1) / step;
  check(0 <= begin && begin <= end && end <= (side_a.panels + step - 1) / step, "a range of row tiles");
  const bool same = first_a == first_b;
  std::vector<std::pair<int64_t, int64_t>> items;
  for (int64_t ta = begin; ta < end; ++ta) {
    for (int64_t tb = same ? ta : 0; tb < tiles_b; ++tb) items.emplace_back(ta * step, tb * step);
  }
  std::atomic<int64_t> work{0}, exact{0};
  struct Worker : PairWorker {
    std::atomic<int64_t>&all_work, &all_exact;
    Worker(PairWorker w, std::atomic<int64_t>& x, std::atomic<int64_t>& y)
        : PairWorker(std::move(w)), all_work(x), all_exact(y) {}
    ~Worker() { all_work += work, all_exact += exact; }
  };
  share_out(
      static_cast<int64_t>(items.size()), [&] { return Worker({kernel, data, best, first_a, first_b}, work, exact); },
      [&](int64_t item, Worker& worker) {
        const auto [a0, b0] = items[item];
        Scan mine = s;
        mine.context = static_cast<PairWorker*>(&worker);
        worker.work += kernel.tile(mine, a0, std::min(a0 + step, side_a.panels), b0, std::min(b0 + step, side_b.panels),
                                   worker.scratch.data());
      });

  std::vector<Entry> found = best.entries();
  std::sort(found.begin(), found.end());
  const auto count = static_cast<int64_t>(found.size());
  Tensor squared = new_empty(x, {count}, ScalarType::Double);
  Tensor i = new_empty(x, {count}, ScalarType::Long), j = new_empty(x, {count}, ScalarType::Long);
  Tensor counts = new_empty(x, {2}, ScalarType::Long);
  for (int64_t n = 0; n < count; ++n) {
    static_cast<double*>(squared.data_ptr())[n] = found[n].squared;
    static_cast<int64_t*>(i.data_ptr())[n] = found[n].i;
    static_cast<int64_t*>(j.data_ptr())[n] = found[n].j;
  }
  static_cast<int64_t*>(counts.data_ptr())[0] = work;
  static_cast<int64_t*>(counts.data_ptr())[1] = exact;
  return {squared, i, j, counts};
}

}  // namespace
}  // namespace gankern::closest_pairs

STABLE_TORCH_LIBRARY_IMPL(gankern_native, CPU, m) {
  using namespace gankern::closest_pairs;
  m.impl("closest_pairs_distances", TORCH_BOX(&distances));
  m.impl("closest_pairs_points", TORCH_BOX(&points));
  m.impl("closest_pairs_project", TORCH_BOX(&project));
  m.impl("closest_pairs_pack", TORCH_BOX(&pack));
  m.impl("closest_pairs_scan", TORCH_BOX(&scan));
}
