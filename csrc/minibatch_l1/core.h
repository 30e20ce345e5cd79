// Minibatch discrimination, o_ib = sum_{j != i} exp(-sum_c |M_ibc - M_jbc|), on packed buffers. No torch here.
#pragma once

#include <cstdint>

#include "common/isa_table.h"

namespace gankern::minibatch_l1 {

// One call of a kernel handles one work item, a (part, group) pair; items are independent of each other. A group
// is `lanes` neighbouring kernels b, one per vector lane. A part is a fixed run of the group's pairs of row tiles,
// with partial results of its own. How work is cut depends on shapes and lanes alone, never on threads: any
// schedule gives the same bits.
//
// The last group is folded where its kernels fill half of the lanes or less: the lanes are `fold` slots, a vector
// row r holds the rows r * fold + slot, and a pair of vector rows, one of them turned by some slots, is `fold` pairs.
template <class T>
struct Problem {
  int64_t n = 0;       // rows (samples)
  int64_t c = 0;       // kernel dimension
  int64_t groups = 0;  // ceil(B / lanes)
  int64_t parts = 0;
  int64_t fold = 1;
  int64_t total_rows = 0;  // vector rows of all groups
  const T* m = nullptr;    // M  [total_rows][c][lanes]
  const T* g = nullptr;    // upstream gradient G  [total_rows][lanes]; backward and double backward
  const T* v = nullptr;    // cotangent V of dM  [total_rows][c][lanes]; double backward
  T* out_n = nullptr;      // o or dG  [parts][total_rows][lanes]; forward and double backward
  T* out_c = nullptr;      // dM  [parts][total_rows][c][lanes]; backward and double backward
  T* lost_n = nullptr;     // what rounding took from out_n, of its size, or null where totals are plain
  T* lost_c = nullptr;
  T* local = nullptr;  // [parts][groups][local_size()]: a tile pair's sums and turned rows

  // Vector rows of a group, the first of which is row group * n.
  int64_t rows(int64_t group) const { return group + 1 < groups ? n : (n + fold - 1) / fold; }
};

template <class T>
struct Kernels {
  int lanes;
  void (*forward)(const Problem<T>&, int64_t item);
  void (*backward)(const Problem<T>&, int64_t item);
  void (*double_backward)(const Problem<T>&, int64_t item);
  // x[k] += from[k] for k < count, a multiple of the lanes.
  void (*add)(T* x, const T* from, int64_t count);
};

// Rows of a tile, of the `vector_rows` of the longest group: what one row of blocks touches again and again should
// stay in the L1 cache.
static inline int64_t tile_rows(int64_t vector_rows, int64_t c, int64_t vector_bytes) {
  const int64_t fitting = 32768 / (2 * (c < 1 ? 1 : c) * vector_bytes) / 4 * 4;
  const int64_t rows = fitting < 8 ? 8 : fitting > 64 ? 64 : fitting;
  return rows < vector_rows ? rows : vector_rows;
}

static inline int64_t tile_count(int64_t n, int64_t rows) { return (n + rows - 1) / rows; }

// Turns that a folded group's second tile takes: 0 pairs each slot with itself, the last one slots half way round.
static inline int64_t turn_count(int64_t fold) { return fold / 2 + 1; }

// Of slots paired with themselves or half way round, a triangle of the tile pairs holds each pair.
static inline bool triangular(int64_t turn, int64_t fold) { return turn == 0 || 2 * turn == fold; }

// Pairs of tiles in a group.
static inline int64_t tile_pairs(int64_t tiles, int64_t fold) {
  int64_t pairs = 0;
  for (int64_t turn = 0; turn < turn_count(fold); ++turn) {
    pairs += triangular(turn, fold) ? tiles * (tiles + 1) / 2 : tiles * tiles;
  }
  return pairs;
}

// Slots of a group of which `used` lanes are in use: as many as fit, while a few vector rows remain.
static inline int64_t fold_of(int64_t n, int64_t used, int64_t lanes) {
  int64_t fold = 1;
  while (2 * fold * used <= lanes && 8 * fold <= n) fold *= 2;
  return fold;
}

// Parts per group: enough items to balance many threads, few enough that zeroing and adding parts stays small and
// that all parts' results, `part_bytes` each, fit in 32 MiB (or in one part).
static inline int64_t part_count(int64_t n, int64_t groups, int64_t pairs, int64_t part_bytes) {
  const int64_t limits[] = {(16 + groups - 1) / groups, n / 32, pairs, (int64_t{32} << 20) / (part_bytes + 1)};
  int64_t parts = limits[0];
  for (int64_t limit : limits) parts = limit < parts ? limit : parts;
  return parts < 1 ? 1 : parts;
}

// Tiles from which on totals are compensated, so that errors do not grow with N; below, plain sums lose no more
// than the tiles' own.
static inline bool compensated(int64_t tiles) { return tiles > 16; }

// Elements that an item needs: the sums of two tiles, and where tiles are turned, one turned tile.
static inline int64_t local_size(int64_t c, int64_t rows, int64_t fold, int64_t lanes) {
  return rows * lanes * (2 * (1 + c) + (fold > 1 ? 1 + 2 * c : 0));
}

}  // namespace gankern::minibatch_l1

GANKERN_DECLARE_KERNELS(minibatch_l1)
