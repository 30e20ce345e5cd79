// Runs a CUDA source on the CPU, so that its indexing, its barriers and its host code are tested where there is no GPU.
//
// Compiled with -DGANKERN_EMULATED="<op>/cuda.cu". Each thread of a block is a coroutine with a stack of its own;
// __syncthreads passes to the next. Blocks run one after another. What a GPU would hide is made loud:
//   - the order of threads between barriers is turned round with GANKERN_EMULATE_REVERSE=1: a missing barrier gives
//     another result in one of the two orders;
//   - shared memory is filled with NaN before each block and ends at an unmapped page, so a read before a write poisons
//     the result and an overrun crashes;
//   - GANKERN_EMULATE_BLOCKS caps the grid, as CUDA's own limit would: work must go on by striding.
// Rounding is the host's: no fused multiply-add unless the compiler makes one, and another exp.
#include <cuda_runtime.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "common/launch.cuh"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t stack_bytes = 256 << 10;
constexpr int most_threads = 1024;

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool ended = false;
};

std::mutex one_launch;
ucontext_t scheduler;
Thread threads_[most_threads];
Thread* current = nullptr;
const std::function<void()>* body = nullptr;
char* shared_end = nullptr;

int64_t setting(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoll(value) : otherwise;
}

void enter() {
  (*body)();
  current->ended = true;
}

// The end of the shared memory; an unmapped page follows.
char* map_shared() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* p = mmap(nullptr, gankern::most_shared + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(static_cast<char*>(p) + gankern::most_shared, page, PROT_NONE)) std::abort();
  return static_cast<char*>(p) + gankern::most_shared;
}

void start(Thread& thread) {
  if (!thread.stack) thread.stack.reset(new char[stack_bytes]);
  thread.ended = false;
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack.get();
  thread.context.uc_stack.ss_size = stack_bytes;
  thread.context.uc_link = &scheduler;
  makecontext(&thread.context, enter, 0);
}

void run_block(int count, bool reverse) {
  for (int t = 0; t < count; ++t) start(threads_[t]);
  for (bool any = true; any;) {
    any = false;
    for (int k = 0; k < count; ++k) {
      const int t = reverse ? count - 1 - k : k;
      if (threads_[t].ended) continue;
      any = true;
      current = &threads_[t];
      threadIdx.x = static_cast<unsigned>(t);
      swapcontext(&scheduler, &current->context);
    }
  }
}

}  // namespace

void __syncthreads() { swapcontext(&current->context, &scheduler); }

namespace gankern {

void* end_of_shared_memory() { return shared_end; }

void emulate(const char* name, int64_t blocks, int threads, const std::function<void()>& kernel) {
  STD_TORCH_CHECK(threads > 0 && threads <= most_threads, name, ": a GPU would refuse ", threads, " threads");
  const std::lock_guard<std::mutex> lock(one_launch);
  const int64_t cap = setting("GANKERN_EMULATE_BLOCKS", INT32_MAX);
  gridDim.x = static_cast<unsigned>(blocks < cap ? blocks : cap);
  blockDim.x = static_cast<unsigned>(threads);
  body = &kernel;
  if (!shared_end) shared_end = map_shared();
  for (unsigned b = 0; b < gridDim.x; ++b) {
    blockIdx.x = b;
    std::memset(shared_end - most_shared, 0xff, most_shared);
    run_block(threads, setting("GANKERN_EMULATE_REVERSE", 0) == 1);
  }
}

}  // namespace gankern

// The operators of the CUDA source, for CPU tensors.
#define CUDA CPU
#include GANKERN_EMULATED
