// Memory for large outputs of memory-bound ops. The first touch of fresh pages costs more than their arithmetic, so
// memory is kept when its tensor dies, and given to a later one; new memory is backed by huge pages where they help.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>

#include "common/tensor.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gankern {

class Buffers {
 public:
  // Smaller tensors come from torch's allocator; at most `kept_limit` bytes wait for use.
  static constexpr int64_t smallest = 64 << 10;
  static constexpr int64_t kept_limit = int64_t{1} << 30;

  static Buffers& shared() {
    static Buffers* buffers = new Buffers;  // never destroyed: tensors may outlive every static
    return *buffers;
  }

  // Uninitialised memory of a multiple of the page size.
  void* take(int64_t bytes) {
    const int64_t size = rounded(bytes);
    {
      const std::lock_guard lock(mutex_);
      const auto found = kept_.find(size);
      if (found != kept_.end()) {
        void* data = found->second;
        kept_.erase(found);
        kept_bytes_ -= size;
        return data;
      }
    }
    const bool huge = size >= 2 * huge_page;
    void* data = std::aligned_alloc(huge ? huge_page : page, size);
    STD_TORCH_CHECK(data != nullptr, "out of memory: ", size, " bytes");
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (huge) madvise(data, size, MADV_HUGEPAGE);
#endif
    return data;
  }

  void give(void* data, int64_t bytes) {
    const int64_t size = rounded(bytes);
    {
      const std::lock_guard lock(mutex_);
      if (kept_bytes_ + size <= kept_limit) {
        kept_.emplace(size, data);
        kept_bytes_ += size;
        return;
      }
    }
    std::free(data);
  }

 private:
  static constexpr int64_t page = 4096;
  static constexpr int64_t huge_page = 2 << 20;

  std::mutex mutex_;
  std::multimap<int64_t, void*> kept_;
  int64_t kept_bytes_ = 0;

  static int64_t rounded(int64_t bytes) {
    const int64_t unit = bytes >= 2 * huge_page ? huge_page : page;
    return (bytes + unit - 1) / unit * unit;
  }
};

// An uninitialised contiguous CPU tensor of `like`'s sizes and dtype, whose elements have `element_size` bytes.
inline Tensor new_output(const Tensor& like, int64_t element_size) {
  const int64_t bytes = like.numel() * element_size;
  if (bytes < Buffers::smallest) return torch::stable::new_empty(like, like.sizes(), like.scalar_type());
  std::vector<int64_t> strides(like.dim(), 1);
  for (int64_t axis = like.dim() - 2; axis >= 0; --axis) strides[axis] = strides[axis + 1] * like.size(axis + 1);
  void* data = Buffers::shared().take(bytes);
  return torch::stable::from_blob(
      data, like.sizes(), torch::headeronly::IntHeaderOnlyArrayRef(strides.data(), strides.size()), like.device(),
      like.scalar_type(), [bytes](void* memory) { Buffers::shared().give(memory, bytes); });
}

}  // namespace gankern
