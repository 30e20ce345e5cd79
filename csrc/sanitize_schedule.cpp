// spectral_norm's schedule under ThreadSanitizer: every item runs once, in its order, on many threads (sanitize.sh).

#include <cstdio>
#include <cstdlib>
#include <random>

#include "spectral_norm/schedule.h"

using gankern::spectral_norm::Items;
using gankern::spectral_norm::Schedule;

namespace {

void expect(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "sanitize_schedule: %s\n", what);
  std::exit(1);
}

void round(std::mt19937& random) {
  const auto draw = [&](int below) { return static_cast<int64_t>(random() % below); };
  const int64_t layers = 1 + draw(8);
  const bool both = draw(4) != 0;
  Items first, second;
  std::vector<char> small;
  std::vector<int64_t> sizes;
  for (int64_t k = 0; k < layers; ++k) {
    sizes.push_back(draw(5) == 0 ? 0 : draw(40));
    first.cut(sizes[k], 1 + draw(7), 100000, 1);  // sizes that pay for all threads
    second.cut(sizes[k], 1 + draw(7), 100000, 1);
    small.push_back(static_cast<char>(draw(2)));
  }
  // Not atomic: whatever orders the schedule promises must be what makes these accesses safe.
  std::vector<int> seen(first.list.size()), again(second.list.size());
  std::vector<int64_t> sums(layers, -1), left(layers, -1);
  torch::stable::threads = 1 + draw(6);
  Schedule(first, both ? &second : nullptr, small)
      .run(
          [&](const Items::Item& item, int64_t index) {
            seen[index] += static_cast<int>(item.end - item.begin);
            std::this_thread::yield();
          },
          [&](int64_t k) {
            sums[k] = 0;
            for (int64_t i = first.start[k]; i < first.start[k + 1]; ++i) sums[k] += seen[i];
          },
          [&](const Items::Item& item, int64_t index) {
            expect(sums[item.layer] == sizes[item.layer], "a second item ran before its layer's first items");
            again[index] += static_cast<int>(item.end - item.begin);
            std::this_thread::yield();
          });
  for (int64_t k = 0; k < layers; ++k) {
    left[k] = 0;
    for (int64_t i = second.start[k]; i < second.start[k + 1]; ++i) left[k] += again[i];
    expect(sums[k] == sizes[k], "a first item ran twice or never");
    expect(left[k] == (both ? sizes[k] : 0), "a second item ran twice or never");
  }
}

}  // namespace

int main() {
  std::mt19937 random(0);
  for (int k = 0; k < 1000; ++k) round(random);
  std::puts("1000 schedules");
}
