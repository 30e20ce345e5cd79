#include "closest_pairs/core.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "closest_pairs/elements.h"
#include "common/simd.h"

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

using closest_pairs::Candidate;
using closest_pairs::Element;
using closest_pairs::Scan;
using closest_pairs::Segment;
using closest_pairs::tile_rows;

typedef Vec<float> F;

constexpr int lanes = Simd<float>::lanes;
constexpr int columns = 3;  // vectors of a panel
constexpr int panel = columns * lanes;
constexpr int rows = GANKERN_VECTOR_BYTES == 64 ? 8 : 4;  // rows of a micro tile: rows * columns sums in registers
constexpr int blocks = panel / rows;

static_assert(tile_rows % panel == 0 && panel % rows == 0);

GANKERN_INLINE F maximum(F a, F b) {
#if defined(__x86_64__) && GANKERN_VECTOR_BYTES == 64
  return _mm512_maskz_max_ps(0xffff, a, b);  // the plain form warns in GCC's header
#elif defined(__x86_64__) && GANKERN_VECTOR_BYTES == 32
  return _mm256_max_ps(a, b);
#elif defined(__x86_64__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

GANKERN_INLINE bool any_at_least(F x, float t) {
#if defined(__x86_64__) && GANKERN_VECTOR_BYTES == 64
  return _mm512_cmp_ps_mask(x, _mm512_set1_ps(t), _CMP_GE_OS) != 0;
#elif defined(__x86_64__) && GANKERN_VECTOR_BYTES == 32
  return _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_set1_ps(t), _CMP_GE_OS)) != 0;
#elif defined(__x86_64__)
  return _mm_movemask_ps(_mm_cmpge_ps(x, _mm_set1_ps(t))) != 0;
#else
  for (int l = 0; l < lanes; ++l) {
    if (x[l] >= t) return true;
  }
  return false;
#endif
}

GANKERN_INLINE float relaxed(const float* p) {
  float x;
  __atomic_load(p, &x, __ATOMIC_RELAXED);
  return x;
}

// sums[r][c] = sum over k of a[k][r] b[k][c], from zero.
GANKERN_INLINE void multiply(const float* a, const float* b, int64_t k, F (&sums)[rows * columns]) {
#pragma GCC unroll 24
  for (int p = 0; p < rows * columns; ++p) sums[p] = F{};
  for (int64_t n = 0; n < k; ++n, a += panel, b += panel) {
    F right[columns];
#pragma GCC unroll 4
    for (int c = 0; c < columns; ++c) right[c] = load(b + c * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const F left = splat(a[r]);
#pragma GCC unroll 4
      for (int c = 0; c < columns; ++c) sums[r * columns + c] += left * right[c];
    }
  }
}

// The micro tile of rows [a, a + rows) of one panel and a whole panel b.
struct Micro {
  const Scan& s;
  int64_t a, b;  // rows within their points
  float* sums;   // what earlier segments left

  GANKERN_INLINE void add(F (&x)[rows * columns]) const {
#pragma GCC unroll 24
    for (int p = 0; p < rows * columns; ++p) x[p] += load(sums + p * lanes);
  }
  GANKERN_INLINE void keep(const F (&x)[rows * columns]) const {
#pragma GCC unroll 24
    for (int p = 0; p < rows * columns; ++p) store(sums + p * lanes, x[p]);
  }

  // x in place becomes minus half the squared distance, slack added; returns whether any pair may matter.
  GANKERN_INLINE bool test(F (&x)[rows * columns], int64_t number) const {
    const float* tail_a = s.a.tail + number * s.a.padded + a;
    const float* tail_b = s.b.tail + number * s.b.padded + b;
    const float* half_b = s.b.half + b;
    F best = splat(-__FLT_MAX__);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const F ta = splat(tail_a[r]), ha = splat(s.a.half[a + r]);
#pragma GCC unroll 4
      for (int c = 0; c < columns; ++c) {
        F& v = x[r * columns + c];
        v = v + ta * load(tail_b + c * lanes) - ha - load(half_b + c * lanes);
        best = maximum(best, v);
      }
    }
    return any_at_least(best, -relaxed(s.theta));
  }

  void offer(const F (&x)[rows * columns]) const {
    alignas(64) float value[rows * panel];
#pragma GCC unroll 24
    for (int p = 0; p < rows * columns; ++p) store(value + p * lanes, x[p]);
    Candidate found[rows * panel];
    int64_t count = 0;
    const float threshold = -relaxed(s.theta);
    for (int64_t r = 0; r < rows; ++r) {
      if (s.a.half[a + r] == __FLT_MAX__) continue;
      for (int64_t c = 0; c < panel; ++c) {
        if (!(value[r * panel + c] >= threshold) || s.b.half[b + c] == __FLT_MAX__) continue;
        const int64_t i = s.a.first + a + r, j = s.b.first + b + c;
        if ((s.upper && i >= j) || (s.distinct && i == j)) continue;
        found[count++] = {a + r, b + c};
      }
    }
    if (count > 0) s.offer(s.context, found, count);
  }
};

int64_t tile(const Scan& s, int64_t a0, int64_t a1, int64_t b0, int64_t b1, float* scratch) {
  constexpr int most = (tile_rows / rows) * (tile_rows / panel);
  bool alive[most];
  int64_t work = 0, begin = 0;
  for (int64_t g = 0; g < s.segment_count; ++g) {
    const Segment segment = s.segments[g];
    const bool last = g + 1 == s.segment_count;
    for (int64_t b = b0; b < b1; ++b) {
      const float* right = s.b.packed + (b * s.k + begin) * panel;
      for (int64_t block = a0 * blocks; block < a1 * blocks; ++block) {
        const int64_t index = (b - b0) * (a1 - a0) * blocks + block - a0 * blocks;
        const Micro m = {s, block * rows, b * panel, scratch + index * rows * panel};
        if (g == 0) {
          alive[index] = m.a < s.a.count && !(s.upper && s.a.first + m.a >= s.b.first + m.b + panel - 1);
        }
        if (!alive[index]) continue;
        const float* left = s.a.packed + (block / blocks * s.k + begin) * panel + block % blocks * rows;
        F x[rows * columns];
        multiply(left, right, segment.end - begin, x);
        work += (segment.end - begin) * rows * panel;
        if (g > 0) m.add(x);
        if (segment.test < 0) {
          m.keep(x);
          continue;
        }
        if (!last) m.keep(x);
        alive[index] = m.test(x, segment.test);
        if (last && alive[index]) m.offer(x);
      }
    }
    begin = segment.end;
  }
  return work;
}

template <class F_>
GANKERN_INLINE double dispatch(Element element, F_ f) {
  switch (element) {
    case Element::f32:
      return f(float{});
    case Element::f64:
      return f(double{});
    case Element::f16:
      return f(Half{});
    case Element::bf16:
      return f(Brain{});
    default:
      return f(uint8_t{});
  }
}

double any_squared_distance(Element element, const void* x, const void* y, int64_t d, double bound) {
  return dispatch(element, [&](auto s) { return squared_distance<decltype(s)>(x, y, d, bound); });
}

double any_centre(Element element, const void* x, const double* middle, double scale, int64_t d, float* w) {
  return dispatch(element, [&](auto s) { return centre<decltype(s)>(x, middle, scale, d, w); });
}

void pack(const float* w, int64_t stride, int64_t count, int64_t k, float* packed) {
  for (int64_t n = 0; n < k; ++n, packed += panel) {
    for (int64_t r = 0; r < count; ++r) packed[r] = w[r * stride + n];
    for (int64_t r = count; r < panel; ++r) packed[r] = 0;
  }
}

void project(const float* data, const float* q, int64_t stride, int64_t m, int64_t k, float* out) {
  for (int64_t c = 0; c < m; c += rows) {
    F x[rows * columns];
    multiply(q + c / panel * stride + c % panel, data, k, x);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      if (c + r >= m) break;
      float* to = out + (c + r) * panel;
#pragma GCC unroll 4
      for (int v = 0; v < columns; ++v) store(to + v * lanes, load(to + v * lanes) + x[r * columns + v]);
    }
  }
}

}  // namespace

extern const closest_pairs::Kernels closest_pairs_kernels;
const closest_pairs::Kernels closest_pairs_kernels = {panel, tile, any_squared_distance, any_centre, pack, project};

}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
