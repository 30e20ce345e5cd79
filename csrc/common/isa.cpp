#include "common/isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace gankern {
namespace {

constexpr const char* names[isa_count] = {"baseline", "avx2", "avx512"};

Isa initial() {
  Isa best = Isa::baseline;
  for (Isa level : {Isa::avx2, Isa::avx512}) {
    if (isa_supported(level)) best = level;
  }
  const char* wanted = std::getenv("GANKERN_ISA");
  if (wanted == nullptr || *wanted == '\0') return best;
  Isa level;  // Python says what is wrong with another value (gankern._environment)
  return isa_parse(wanted, &level) && isa_supported(level) ? level : best;
}

std::atomic<int>& choice() {
  static std::atomic<int> level{static_cast<int>(initial())};
  return level;
}

}  // namespace

bool isa_supported(Isa level) {
#if defined(__x86_64__)
  switch (level) {
    case Isa::baseline:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  }
  return false;
#else
  return level == Isa::baseline;
#endif
}

Isa isa() { return static_cast<Isa>(choice().load(std::memory_order_relaxed)); }

bool isa_override(Isa level) {
  if (!isa_supported(level)) return false;
  choice().store(static_cast<int>(level), std::memory_order_relaxed);
  return true;
}

const char* isa_name(Isa level) { return names[static_cast<int>(level)]; }

bool isa_parse(const char* name, Isa* level) {
  for (int i = 0; i < isa_count; ++i) {
    if (std::strcmp(name, names[i]) == 0) {
      *level = static_cast<Isa>(i);
      return true;
    }
  }
  return false;
}

}  // namespace gankern
