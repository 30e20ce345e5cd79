// Minibatch discrimination, o_ib = sum_{j != i} exp(-sum_c |M_ibc - M_jbc|), on packed buffers. No torch here.
#pragma once

#include <cstdint>

#include "common/isa_table.h"

namespace gankern::minibatch_l1 {

// One call of a kernel handles one work item, a (part, group) pair; items are independent of each other. A group
// is `lanes` neighbouring kernels b, one per vector lane. A part is a fixed run of the pairs of row tiles in the
// upper triangle, each with partial results of its own. How work is cut depends on shapes and lanes alone, never
// on threads: any schedule gives the same bits.
template <class T>
struct Problem {
  int64_t n = 0;       // rows (samples)
  int64_t c = 0;       // kernel dimension
  int64_t groups = 0;  // ceil(B / lanes)
  int64_t parts = 0;
  const T* m = nullptr;  // M  [groups][n][c][lanes]
  const T* g = nullptr;  // upstream gradient G  [groups][n][lanes]; backward and double backward
  const T* v = nullptr;  // cotangent V of dM  [groups][n][c][lanes]; double backward
  T* out_n = nullptr;    // o or dG  [parts][groups][n][lanes]; forward and double backward
  T* out_c = nullptr;    // dM  [parts][groups][n][c][lanes]; backward and double backward
};

template <class T>
struct Kernels {
  int lanes;
  void (*forward)(const Problem<T>&, int64_t item);
  void (*backward)(const Problem<T>&, int64_t item);
  void (*double_backward)(const Problem<T>&, int64_t item);
  // Adds the parts of one group in order, into part 0: x is [parts][groups][run].
  void (*add_parts)(T* x, int64_t parts, int64_t groups, int64_t run, int64_t group);
};

// Rows of a tile: all that one pair of tiles touches should stay in the L1 cache.
static inline int64_t tile_rows(int64_t c, int64_t vector_bytes) {
  const int64_t rows = 24576 / (2 * (c < 1 ? 1 : c) * vector_bytes) / 4 * 4;
  return rows < 8 ? 8 : rows > 64 ? 64 : rows;
}

// Pairs of tiles in the upper triangle, diagonal included.
static inline int64_t tile_pairs(int64_t n, int64_t rows) {
  const int64_t tiles = (n + rows - 1) / rows;
  return tiles * (tiles + 1) / 2;
}

// Parts per group: enough items to balance many threads, few enough that zeroing and adding parts stays small and
// that all parts' results, `part_bytes` each, fit in 32 MiB (or in one part).
static inline int64_t part_count(int64_t n, int64_t groups, int64_t pairs, int64_t part_bytes) {
  const int64_t limits[] = {(16 + groups - 1) / groups, n / 32, pairs, (int64_t{32} << 20) / (part_bytes + 1)};
  int64_t parts = limits[0];
  for (int64_t limit : limits) parts = limit < parts ? limit : parts;
  return parts < 1 ? 1 : parts;
}

}  // namespace gankern::minibatch_l1

GANKERN_DECLARE_PER_ISA(minibatch_l1::Kernels<float>, minibatch_l1_float)
GANKERN_DECLARE_PER_ISA(minibatch_l1::Kernels<double>, minibatch_l1_double)

namespace gankern::minibatch_l1 {

// Kernels compiled for an ISA that the processor supports.
template <class T>
const Kernels<T>& kernels(Isa isa);

template <>
inline const Kernels<float>& kernels<float>(Isa isa) {
  return GANKERN_PER_ISA(minibatch_l1_float, isa);
}

template <>
inline const Kernels<double>& kernels<double>(Isa isa) {
  return GANKERN_PER_ISA(minibatch_l1_double, isa);
}

}  // namespace gankern::minibatch_l1
