#include "common/host.h"

#include <chrono>

#include "ceilings/core.h"
#include "common/isa.h"

namespace {

// Lane instructions per second of the calling thread: the best mix in its best slice of some milliseconds.
double peak_instructions(double seconds) {
  using clock = std::chrono::steady_clock;
  using namespace gankern;
  const auto spin = ceilings::kernels(isa()).spin;
  double best = 0;
  for (int mix = 0; mix < ceilings::mixes; ++mix) {
    const auto start = clock::now();
    int64_t rounds = 1 << 12;
    std::chrono::duration<double> slice{};
    do {
      const auto before = clock::now();
      const auto done = static_cast<double>(spin(mix, rounds));
      slice = clock::now() - before;
      if (slice.count() < 2e-3) {
        rounds *= 2;
        continue;
      }
      const double rate = done / slice.count();
      best = rate > best ? rate : best;
    } while (std::chrono::duration<double>(clock::now() - start).count() < seconds / ceilings::mixes || best == 0);
  }
  return best;
}

}  // namespace

extern "C" {

const char* gankern_isa() { return gankern::isa_name(gankern::isa()); }

const char* gankern_isa_level(int level) {
  return level >= 0 && level < gankern::isa_count ? gankern::isa_name(static_cast<gankern::Isa>(level)) : nullptr;
}

int gankern_isa_supported(const char* name) {
  gankern::Isa level;
  if (!gankern::isa_parse(name, &level)) return -1;
  return gankern::isa_supported(level) ? 1 : 0;
}

int gankern_set_isa(const char* name) {
  gankern::Isa level;
  if (!gankern::isa_parse(name, &level)) return -1;
  return gankern::isa_override(level) ? 1 : 0;
}

double gankern_peak_instructions(double seconds) { return peak_instructions(seconds); }
}
