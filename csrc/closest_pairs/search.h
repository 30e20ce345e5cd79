// What keeps the best pairs, and hands candidates to the exact distance.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <mutex>
#include <vector>

#include "closest_pairs/core.h"

namespace gankern::closest_pairs {

// The sample as it came: rows of d elements.
struct Data {
  Element element = Element::f32;
  const char* bytes = nullptr;
  int64_t row_bytes = 0;
  int64_t d = 0;

  const void* row(int64_t i) const { return bytes + i * row_bytes; }
};

// theta = (1 + margin) / 2 (scale sqrt(D))^2 in float32, never less; D is first raised by all that underflow can hide.
inline float threshold(double squared, double scale, double margin, int64_t d) {
  const double t = scale * std::sqrt(squared + static_cast<double>(d + 1) * 0x1p-1070);
  const auto theta = static_cast<float>(0.5 * (1 + margin) * (1 + 0x1p-20) * t * t);
  return std::nextafter(theta, std::numeric_limits<float>::infinity());
}

struct Entry {
  double squared;
  int64_t i, j;

  bool operator<(const Entry& o) const {
    return squared != o.squared ? squared < o.squared : i != o.i ? i < o.i : j < o.j;
  }
};

// The k least pairs of all that were offered, by (squared distance, i, j): the same whatever the order. A pair above
// `bound` needs no offer: k pairs at or below it are known.
class Best {
 public:
  Best(int64_t k, double seed, double scale, double margin, int64_t d)
      : k_(k), bound_(seed), scale_(scale), margin_(margin), d_(d), theta_(threshold(seed, scale, margin, d)) {}

  double bound() const { return bound_.load(std::memory_order_relaxed); }
  const float* theta() const { return &theta_; }
  const std::vector<Entry>& entries() const { return heap_; }

  // Whether no distance could bring this pair in; decides only where the bound is zero, as among many equal rows.
  bool hopeless(int64_t i, int64_t j) {
    if (bound() != 0) return false;
    const std::lock_guard<std::mutex> lock(mutex_);
    return full() && heap_.front() < Entry{0, i, j};
  }

  void add(const Entry& entry) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (full()) {
      if (!(entry < heap_.front())) return;
      std::pop_heap(heap_.begin(), heap_.end());
      heap_.back() = entry;
    } else {
      heap_.push_back(entry);
    }
    std::push_heap(heap_.begin(), heap_.end());
    if (!full() || !(heap_.front().squared < bound())) return;
    bound_.store(heap_.front().squared, std::memory_order_relaxed);
    const float theta = threshold(heap_.front().squared, scale_, margin_, d_);
    __atomic_store(&theta_, &theta, __ATOMIC_RELAXED);
  }

 private:
  int64_t k_;
  std::atomic<double> bound_;
  double scale_, margin_;
  int64_t d_;
  float theta_;
  std::mutex mutex_;
  std::vector<Entry> heap_;

  bool full() const { return static_cast<int64_t>(heap_.size()) == k_; }
};

}  // namespace gankern::closest_pairs
