// torch's thread pool as plain threads, which ThreadSanitizer can follow: for sanitize_schedule.cpp alone.
#pragma once

#include <barrier>
#include <cstdint>
#include <thread>
#include <vector>

namespace torch::stable {

inline int64_t threads = 1;

inline int64_t get_num_threads() { return threads; }

template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t, const F& f) {
  std::vector<std::thread> running;
  std::barrier together(end - begin);  // else the first thread has done all before the last one begins
  for (int64_t k = begin; k < end; ++k) {
    running.emplace_back([&f, &together, k] {
      together.arrive_and_wait();
      f(k, k + 1);
    });
  }
  for (std::thread& x : running) x.join();
}

}  // namespace torch::stable
