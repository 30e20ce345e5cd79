// Exact search for close rows: a rigorous float32 filter on tiles of pairs, then direct differences in float64.
// No torch here; `gankern/ops/closest_pairs/bounds.py` derives the slack that makes the filter safe.
#pragma once

#include <cstdint>

#include "common/isa_table.h"

namespace gankern::closest_pairs {

// Points are packed in panels of `panel` rows, [panel][k][row in panel], zero beyond the last row. The same form
// serves both sides of a tile: `rows` neighbours of one panel are broadcast against the whole of another.
struct Points {
  const float* packed = nullptr;
  const float* half = nullptr;  // h_i: half the squared norm less the slack; the largest float for no row
  const float* tail = nullptr;  // [tests][padded rows]: the coordinate that stands for all that a prefix leaves out
  int64_t count = 0;            // rows
  int64_t padded = 0;           // rows of all panels
  int64_t first = 0;            // number of row 0 in the sample
};

// A run of coordinates; after it, where `test` is not negative, the pairs that may matter are sought.
struct Segment {
  int64_t end;
  int64_t test;
};

struct Candidate {
  int64_t a;  // row of side a, counted from 0 within its points
  int64_t b;
};

// A pair is kept while <a, b> + tail_a tail_b - h_a - h_b >= -theta. `offer` gets the kept pairs after the last
// segment, and may lower *theta or raise h_a meanwhile.
struct Scan {
  Points a, b;
  int64_t k = 0;
  const Segment* segments = nullptr;
  int64_t segment_count = 0;
  bool upper = false;     // only pairs whose number in a is below that in b
  bool distinct = false;  // only pairs of different numbers
  const float* theta = nullptr;
  void* context = nullptr;
  void (*offer)(void* context, const Candidate* candidates, int64_t count) = nullptr;
};

enum class Element : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3, u8 = 4 };

constexpr int64_t tile_rows = 192;  // a multiple of every panel
constexpr int64_t run = 128;        // multiply-adds before sums go to memory: bounds the rounding, fits the L1 cache

struct Kernels {
  int panel;
  // Runs one tile: panels [a0, a1) against [b0, b1), tile_rows rows at most on each side. `scratch` holds
  // tile_rows^2 floats. Returns the multiply-adds per pair, summed over pairs.
  int64_t (*tile)(const Scan&, int64_t a0, int64_t a1, int64_t b0, int64_t b1, float* scratch);
  // sum_c (x_c - y_c)^2 in float64: lane c mod 16 adds its terms in order of c, lanes are added in halves (l and
  // l + 8, then + 4, + 2, + 1), and nothing is fused. Stops early, with a value above `bound`, once it must be.
  double (*squared_distance)(Element, const void* x, const void* y, int64_t d, double bound);
  // w = (float)(scale (x - centre)); returns the float64 sum of squares before that rounding.
  double (*centre)(Element, const void* x, const double* centre, double scale, int64_t d, float* w);
  // One panel from `count` rows of w, `stride` apart: its coordinates [0, k).
  void (*pack)(const float* w, int64_t stride, int64_t count, int64_t k, float* packed);
  // out[c][row] += <row of the panel, q_c> for c < m, over k coordinates; q's panels are `stride` floats apart.
  void (*project)(const float* panel, const float* q, int64_t stride, int64_t m, int64_t k, float* out);
};

}  // namespace gankern::closest_pairs

GANKERN_DECLARE_PER_ISA(closest_pairs::Kernels, closest_pairs_kernels)

namespace gankern::closest_pairs {

inline const Kernels& kernels(Isa isa) { return GANKERN_PER_ISA(closest_pairs_kernels, isa); }

}  // namespace gankern::closest_pairs
