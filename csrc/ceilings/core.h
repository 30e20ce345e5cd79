// What one thread can do at best: chains of vector arithmetic in registers, for the benchmarks' floors. No torch here.
#pragma once

#include <cstdint>

#include "common/isa_table.h"

namespace gankern::ceilings {

// Runs `rounds` rounds of one mix of float instructions; returns how many lane instructions that was (vector
// instructions times lanes). Mix 0: multiply-adds alone; 1: additions alone; 2: half and half, for processors
// that have ports of their own for additions. Without a multiply-add instruction, a product and a sum stand for it.
inline constexpr int mixes = 3;

struct Kernels {
  int64_t (*spin)(int mix, int64_t rounds);
};

}  // namespace gankern::ceilings

GANKERN_DECLARE_PER_ISA(ceilings::Kernels, ceilings_table)

namespace gankern::ceilings {

inline const Kernels& kernels(Isa isa) { return GANKERN_PER_ISA(ceilings_table, isa); }

}  // namespace gankern::ceilings
