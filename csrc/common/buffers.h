// Memory for large outputs and scratch of memory-bound ops. The first touch of fresh pages costs more than their
// arithmetic, so memory is kept when its storage dies (no tensor or view is left), and given to a later one, the latest
// first: it may still be in the caches. New memory is backed by huge pages where they help. GANKERN_KEEP_MEMORY bounds
// what is kept; with 0 all memory comes from torch's allocator.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "common/tensor.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gankern {

class Buffers {
 public:
  // Smaller tensors come from torch's allocator.
  static constexpr int64_t smallest = 64 << 10;

  bool enabled() const { return kept_limit_ > 0; }

  static Buffers& shared() {
    static Buffers* buffers = new Buffers;  // never destroyed: tensors may outlive every static
    return *buffers;
  }

  // Uninitialised memory of a multiple of the page size.
  void* take(int64_t bytes) {
    const int64_t size = rounded(bytes);
    {
      const std::unique_lock lock(mutex_, std::try_to_lock);
      const auto found = lock ? kept_.find(size) : kept_.end();
      if (found != kept_.end() && !found->second.empty()) {
        void* data = found->second.back();
        found->second.pop_back();
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

  // Runs in destructors, so it never throws.
  void give(void* data, int64_t bytes) noexcept {
    const int64_t size = rounded(bytes);
    try {
      const std::unique_lock lock(mutex_, std::try_to_lock);
      if (lock && kept_bytes_ + size <= kept_limit_) {
        kept_[size].push_back(data);
        kept_bytes_ += size;
        return;
      }
    } catch (const std::bad_alloc&) {
    }
    std::free(data);
  }

 private:
  static constexpr int64_t page = 4096;
  static constexpr int64_t huge_page = 2 << 20;

  // Only ever tried: a child forked while another thread held it would wait for ever, and goes without.
  std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> kept_;  // by size
  int64_t kept_bytes_ = 0;
  const int64_t kept_limit_ = limit();

  static int64_t limit() {
    const char* text = std::getenv("GANKERN_KEEP_MEMORY");
    const int64_t most = int64_t{1} << 20;
    const int64_t mebibytes = text == nullptr || *text == '\0' ? 1024 : std::strtoll(text, nullptr, 10);
    return (mebibytes < 0 ? 0 : mebibytes > most ? most : mebibytes) << 20;
  }

  static int64_t rounded(int64_t bytes) {
    const int64_t unit = bytes >= 2 * huge_page ? huge_page : page;
    return (bytes + unit - 1) / unit * unit;
  }
};

// Whether torch fills fresh memory (torch.utils.deterministic.fill_uninitialized_memory), which the stable ABI does not
// say: a fresh number is then NaN. Garbage that happens to be NaN only costs the use of a kept buffer.
inline bool filled(const Tensor& like) {
  const Tensor probe = new_empty(like, {1}, ScalarType::Float);
  return std::isnan(*static_cast<const float*>(probe.data_ptr()));
}

// An uninitialised CPU tensor, without the dispatcher, which takes longer than a small layer's arithmetic.
inline Tensor new_cpu(torch::headeronly::IntHeaderOnlyArrayRef sizes, const int64_t* strides, int32_t dtype) {
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides,
                                                         dtype, aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

// An uninitialised contiguous CPU tensor of `like`'s sizes and dtype, whose elements have `element_size` bytes.
// `fresh`: from torch, as if nothing were kept (see `filled`).
inline Tensor new_output(const Tensor& like, int64_t element_size, bool fresh) {
  if (fresh) return torch::stable::new_empty(like, like.sizes(), like.scalar_type());
  const auto sizes = like.sizes();
  std::vector<int64_t> strides(sizes.size(), 1);
  int64_t bytes = element_size;
  for (auto axis = static_cast<int64_t>(sizes.size()) - 1; axis >= 0; --axis) {
    strides[axis] = axis + 1 < static_cast<int64_t>(sizes.size()) ? strides[axis + 1] * sizes[axis + 1] : 1;
    bytes *= sizes[axis];
  }
  if (!Buffers::shared().enabled() || bytes < Buffers::smallest) {
    int32_t dtype;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
    return new_cpu(sizes, strides.data(), dtype);
  }
  void* data = Buffers::shared().take(bytes);  // lost if from_blob throws: it may have run the deleter or not
  return torch::stable::from_blob(data, sizes, torch::headeronly::IntHeaderOnlyArrayRef(strides.data(), strides.size()),
                                  like.device(), like.scalar_type(),
                                  [bytes](void* memory) { Buffers::shared().give(memory, bytes); });
}

// Uninitialised memory for the length of a call.
template <class T>
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t count) : bytes_(count * static_cast<int64_t>(sizeof(T))) {
    if (bytes_ > 0) data_ = static_cast<T*>(Buffers::shared().take(bytes_));
  }
  Scratch(Scratch&& other) noexcept : bytes_(other.bytes_), data_(std::exchange(other.data_, nullptr)) {}
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(bytes_, other.bytes_), std::swap(data_, other.data_);
    return *this;
  }
  ~Scratch() {
    if (data_ != nullptr) Buffers::shared().give(data_, bytes_);
  }
  T* get() const { return data_; }

 private:
  int64_t bytes_ = 0;
  T* data_ = nullptr;
};

}  // namespace gankern
