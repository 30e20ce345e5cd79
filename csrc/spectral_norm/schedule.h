// Work on all layers of a call, in one parallel region and without a barrier.
//
// A layer has items of a first kind, a finish once all of them are done, and then items of a second kind, which read
// again what the first kind read. A thread that finds nothing to take is only ever waiting for items that a running
// thread has taken, so any number of threads comes to an end, one included. Which thread does an item never changes a
// result: items and their order in a sum follow from shapes alone.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "common/tensor.h"

namespace gankern::spectral_norm {

// Elements below which another thread does not pay.
constexpr int64_t least_work = 32768;

struct Items {
  struct Item {
    int64_t layer, begin, end;
  };
  std::vector<Item> list;            // in the layers' order
  std::vector<int64_t> start = {0};  // index of each layer's first item, and the end
  int64_t work = 0;                  // elements

  // Cuts the next layer's `count` rows (or runs, or elements) of `size` elements each into items of about `step`.
  void cut(int64_t count, int64_t step, int64_t size, int64_t multiple) {
    const auto layer = static_cast<int64_t>(start.size()) - 1;
    step = std::max<int64_t>((step + multiple - 1) / multiple * multiple, 1);
    for (int64_t k = 0; k < count; k += step) list.push_back({layer, k, std::min(count, k + step)});
    start.push_back(static_cast<int64_t>(list.size()));
    work += count * size;
  }
};

class Schedule {
 public:
  // `small` says of each layer whether it is left to the thread that began it while other layers remain, so that its
  // second items find it in that core's cache. All threads share the others' items: one such layer fills their caches.
  Schedule(const Items& first, const Items* second, const std::vector<char>& small)
      : first_(first), second_(second), small_(small), states_(new State[small.size()]) {}

  // Calls f(item, index) for the first items, finish(layer), then g(item, index) for the second ones, backwards: they
  // begin with what the first ones left in the caches.
  template <class F, class Finish, class G>
  void run(const F& f, const Finish& finish, const G& g) {
    for (int64_t k = 0; k < layers(); ++k) {
      if (count(first_, k) == 0) finish(k), states_[k].ready = true;
    }
    const int64_t work = first_.work + (second_ == nullptr ? 0 : second_->work);
    const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), work / least_work + 1);
    torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      try {
        take_all(f, finish, g);
      } catch (...) {
        failed_ = true;
        throw;
      }
    });
  }

 private:
  struct alignas(64) State {
    std::atomic<int64_t> first{0}, done{0}, second{0};  // items taken, items done, items taken
    std::atomic<bool> begun{false}, ready{false};
  };

  const Items& first_;
  const Items* second_;
  const std::vector<char>& small_;
  const std::unique_ptr<State[]> states_;
  std::atomic<bool> failed_{false};

  int64_t layers() const { return static_cast<int64_t>(small_.size()); }
  static int64_t count(const Items& items, int64_t k) { return items.start[k + 1] - items.start[k]; }
  int64_t seconds(int64_t k) const { return second_ == nullptr ? 0 : count(*second_, k); }

  // The number of an item that nobody else has; `count` or more if there is none left.
  static int64_t take(std::atomic<int64_t>* taken, int64_t count) {
    const int64_t seen = taken->load(std::memory_order_relaxed);
    return seen < count ? taken->fetch_add(1, std::memory_order_relaxed) : seen;
  }

  bool over(int64_t k) const {
    return states_[k].ready.load(std::memory_order_acquire) && states_[k].second.load() >= seconds(k);
  }

  // Does one item of a layer, if there is one to take.
  template <class F, class Finish, class G>
  bool advance(int64_t k, const F& f, const Finish& finish, const G& g) {
    State& state = states_[k];
    if (state.ready.load(std::memory_order_acquire)) {
      const int64_t taken = take(&state.second, seconds(k));
      if (taken >= seconds(k)) return false;
      const int64_t index = second_->start[k + 1] - 1 - taken;
      g(second_->list[index], index);
      return true;
    }
    const int64_t all = count(first_, k), taken = take(&state.first, all);
    if (taken >= all) return false;
    f(first_.list[first_.start[k] + taken], first_.start[k] + taken);
    if (state.done.fetch_add(1, std::memory_order_acq_rel) + 1 == all) {
      finish(k);
      state.ready.store(true, std::memory_order_release);
    }
    return true;
  }

  // Longer than any item of a running thread lasts, unless it waits for this core: whoever yields may wait for another
  // process's whole turn.
  static void wait(int64_t idle) {
#if defined(__x86_64__)
    if (idle < 8192) return __builtin_ia32_pause();
#endif
    std::this_thread::yield();
  }

  template <class F, class Finish, class G>
  void take_all(const F& f, const Finish& finish, const G& g) {
    for (int64_t lowest = 0, idle = 0;;) {
      while (lowest < layers() && over(lowest)) ++lowest;
      if (lowest == layers() || failed_.load(std::memory_order_relaxed)) return;
      bool found = false;
      for (const bool help : {false, true}) {
        for (int64_t k = lowest; k < layers() && !found; ++k) {
          if (small_[k] && !help && (states_[k].begun.load() || states_[k].begun.exchange(true))) continue;
          found = advance(k, f, finish, g);
          while (found && small_[k] && !help && advance(k, f, finish, g)) {
          }
        }
        if (found) break;
      }
      if (found) {
        idle = 0;
      } else {
        wait(++idle);
      }
    }
  }
};

}  // namespace gankern::spectral_norm
