#include "ceilings/core.h"

#include "common/simd.h"

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

#if defined(__FMA__) || defined(__aarch64__)
constexpr int multiply_add_instructions = 1;
#else
constexpr int multiply_add_instructions = 2;
#endif

// Keeps a value in a register and hides it from the optimiser, once per round.
GANKERN_INLINE void pin(Vec<float>& x) {
#if defined(__x86_64__)
  __asm__ volatile("" : "+x"(x));
#else
  __asm__ volatile("" : "+w"(x));
#endif
}

// Chains do not depend on each other; a round advances each multiply-add chain once, each addition chain twice
// where both are there (an addition takes half as long where it has ports of its own). With the two constants they
// fit in 16 registers. No value is ever subnormal or infinite.
template <int MultiplyAdds, int Additions, int PerRound>
int64_t spin_mix(int64_t rounds) {
  Vec<float> x[MultiplyAdds + 1];
  Vec<float> y[Additions + 1];
  Vec<float> a = splat<float>(0.5f);
  Vec<float> b = splat<float>(0.5f);
  pin(a);
  pin(b);
#pragma GCC unroll 16
  for (int k = 0; k < MultiplyAdds; ++k) x[k] = b;
#pragma GCC unroll 16
  for (int k = 0; k < Additions; ++k) y[k] = b;
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int k = 0; k < MultiplyAdds; ++k) x[k] = x[k] * a + b;
#pragma GCC unroll 4
    for (int again = 0; again < PerRound; ++again) {
#pragma GCC unroll 16
      for (int k = 0; k < Additions; ++k) y[k] = y[k] + b;
    }
#pragma GCC unroll 16
    for (int k = 0; k < MultiplyAdds; ++k) pin(x[k]);
#pragma GCC unroll 16
    for (int k = 0; k < Additions; ++k) pin(y[k]);
  }
  return rounds * (MultiplyAdds * multiply_add_instructions + Additions * PerRound) * Simd<float>::lanes;
}

int64_t spin(int mix, int64_t rounds) {
  switch (mix) {
    case 0:
      return spin_mix<12, 0, 0>(rounds);
    case 1:
      return spin_mix<0, 12, 1>(rounds);
    default:
      return spin_mix<8, 5, 2>(rounds);
  }
}

}  // namespace

extern const ceilings::Kernels ceilings_table;
const ceilings::Kernels ceilings_table = {spin};

}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
