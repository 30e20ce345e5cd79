// The tables that the per-ISA objects export, and the choice among them.
#pragma once

#include "common/isa.h"

#if defined(__x86_64__)
#define GANKERN_DECLARE_PER_ISA(type, name) \
  namespace gankern::baseline {             \
  extern const gankern::type name;          \
  }                                         \
  namespace gankern::avx2 {                 \
  extern const gankern::type name;          \
  }                                         \
  namespace gankern::avx512 {               \
  extern const gankern::type name;          \
  }
#define GANKERN_PER_ISA(name, isa)                       \
  ((isa) == gankern::Isa::avx512 ? gankern::avx512::name \
   : (isa) == gankern::Isa::avx2 ? gankern::avx2::name   \
                                 : gankern::baseline::name)
#else
#define GANKERN_DECLARE_PER_ISA(type, name) \
  namespace gankern::baseline {             \
  extern const gankern::type name;          \
  }
#define GANKERN_PER_ISA(name, isa) (gankern::baseline::name)
#endif

// The float and double tables of an op, gankern::op::Kernels<T>, and gankern::op::kernels<T>(isa): those compiled for
// an ISA that the processor supports.
#define GANKERN_DECLARE_KERNELS(op)                         \
  GANKERN_DECLARE_PER_ISA(op::Kernels<float>, op##_float)   \
  GANKERN_DECLARE_PER_ISA(op::Kernels<double>, op##_double) \
  namespace gankern::op {                                   \
  template <class T>                                        \
  const Kernels<T>& kernels(Isa isa);                       \
  template <>                                               \
  inline const Kernels<float>& kernels<float>(Isa isa) {    \
    return GANKERN_PER_ISA(op##_float, isa);                \
  }                                                         \
  template <>                                               \
  inline const Kernels<double>& kernels<double>(Isa isa) {  \
    return GANKERN_PER_ISA(op##_double, isa);               \
  }                                                         \
  }
