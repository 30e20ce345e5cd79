// What the operators on rows share: checks, the sample as raw rows, packed points, and the parallel loops.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "closest_pairs/search.h"
#include "common/tensor.h"

namespace gankern::closest_pairs {

// Room that starts at a whole vector: what the kernels load from.
class Aligned {
 public:
  explicit Aligned(int64_t count = 0, float value = 0) : memory_(count + 16, value) {}

  float* data() { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) / 64 * 64); }

 private:
  std::vector<float> memory_;
};

inline void check(bool good, const char* what) { STD_TORCH_CHECK(good, "closest_pairs: expected ", what); }

inline void check_matrix(const Tensor& x, ScalarType dtype, const char* what) {
  check(x.dim() == 2 && x.is_contiguous() && x.scalar_type() == dtype, what);
}

inline void check_vector(const Tensor& x, ScalarType dtype, int64_t size, const char* what) {
  check(x.dim() == 1 && x.is_contiguous() && x.scalar_type() == dtype && x.size(0) == size, what);
}

inline Data data_of(const Tensor& x) {
  check(x.dim() == 2 && x.is_contiguous(), "a contiguous matrix");
  Data data;
  switch (x.scalar_type()) {
    case ScalarType::Double:
      data.element = Element::f64;
      break;
    case ScalarType::Half:
      data.element = Element::f16;
      break;
    case ScalarType::BFloat16:
      data.element = Element::bf16;
      break;
    case ScalarType::Byte:
      data.element = Element::u8;
      break;
    default:
      check(x.scalar_type() == ScalarType::Float, "float64, float32, bfloat16, float16 or uint8");
      data.element = Element::f32;
  }
  data.d = x.size(1);
  data.row_bytes = data.d * x.element_size();
  data.bytes = static_cast<const char*>(x.data_ptr());
  return data;
}

template <class F>
void for_each(int64_t count, const F& f) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) f(k);
  });
}

// Work of very unequal size: whoever is free takes the next item. f(item, state), one state per worker.
template <class Make, class F>
void share_out(int64_t count, const Make& make, const F& f) {
  std::atomic<int64_t> next{0};
  const int64_t workers = std::min<int64_t>(count, 64);
  for_each(workers, [&](int64_t) {
    int64_t item = next.fetch_add(1);
    if (item >= count) return;
    auto state = make();
    for (; item < count; item = next.fetch_add(1)) f(item, state);
  });
}

// Packed points with their h and tails, both padded to whole panels.
struct Side {
  Points points;
  int64_t panels = 0;
  Aligned half, tail;

  Side(const Tensor& packed, const Tensor& h, const Tensor& tails, int64_t first, int64_t panel) {
    check(packed.dim() == 3 && packed.is_contiguous() && packed.scalar_type() == ScalarType::Float &&
              packed.size(2) == panel,
          "points packed for the instruction set in use");
    const int64_t n = h.size(0), tests = tails.size(0);
    panels = packed.size(0);
    check_vector(h, ScalarType::Float, n, "float32 h");
    check_matrix(tails, ScalarType::Float, "float32 tails");
    check(tails.size(1) == n && panels == (n + panel - 1) / panel, "h and tails for every point");
    points.packed = static_cast<const float*>(packed.data_ptr());
    points.count = n;
    points.padded = panels * panel;
    points.first = first;
    half = Aligned(points.padded, std::numeric_limits<float>::max());
    tail = Aligned(tests * points.padded);
    float* to_half = half.data();
    float* to_tail = tail.data();
    std::copy_n(static_cast<const float*>(h.data_ptr()), n, to_half);
    for (int64_t t = 0; t < tests; ++t) {
      std::copy_n(static_cast<const float*>(tails.data_ptr()) + t * n, n, to_tail + t * points.padded);
    }
    points.half = to_half;
    points.tail = to_tail;
  }
};

// Segments from an (S, 2) tensor: they cover [0, k) in order, and the last one ends with a test.
inline std::vector<Segment> segments_of(const Tensor& x, int64_t k, int64_t tests) {
  check(x.dim() == 2 && x.size(1) == 2 && x.size(0) > 0 && x.is_contiguous() && x.scalar_type() == ScalarType::Long,
        "int64 segments (S, 2)");
  const auto* from = static_cast<const int64_t*>(x.data_ptr());
  std::vector<Segment> plan;
  int64_t begin = 0;
  for (int64_t n = 0; n < x.size(0); ++n) {
    plan.push_back({from[2 * n], from[2 * n + 1]});
    check(plan.back().end > begin && plan.back().test < tests, "segments in order, and tests with a tail");
    begin = plan.back().end;
  }
  check(begin == k && plan.back().test >= 0, "segments up to k, and a test after the last");
  return plan;
}

}  // namespace gankern::closest_pairs
