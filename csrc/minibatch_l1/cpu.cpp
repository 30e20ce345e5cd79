#include <algorithm>
#include <array>

#include "common/tensor.h"
#include "minibatch_l1/core.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// Checks, packing, the parallel regions and the registration; the arithmetic is in core.cpp.

namespace gankern::minibatch_l1 {
namespace {

// A strided (N, B, C) or (N, B) tensor beside its packed form, [vector rows][C][lanes]. Lanes that no row fills are
// zero: what they give is finite, and dropped or masked.
template <class S, class T>
struct Operand {
  S* data = nullptr;
  T* packed = nullptr;
  T* Problem<T>::* field = nullptr;        // outputs
  const T* Problem<T>::* input = nullptr;  // inputs
  T* Problem<T>::* lost = nullptr;
  T offset = 0;  // added to an output
  int64_t stride_n = 0, stride_b = 0, stride_c = 0, c = 1;
};

// One call: the operands, the scratch memory and the parallel regions. S is the tensors' element type.
template <class S>
class Call {
 public:
  using T = Accumulate<S>;
  const Kernels<T>& kernels = minibatch_l1::kernels<T>(isa());

  explicit Call(const Tensor& m) : m_(m), b_(m.size(1)), lanes_(kernels.lanes) {
    p_.n = m.size(0);
    p_.c = m.size(2);
    p_.groups = (b_ + lanes_ - 1) / lanes_;
    if (p_.n == 0 || p_.groups == 0) return;
    p_.fold = fold_of(p_.n, b_ - (p_.groups - 1) * lanes_, lanes_);
    p_.total_rows = (p_.groups - 1) * p_.n + p_.rows(p_.groups - 1);
    tile_rows_ = tile_rows(p_.rows(0), p_.c, lanes_ * sizeof(T));
    const int64_t tiles = tile_count(p_.rows(0), tile_rows_);
    compensated_ = compensated(tile_count(p_.n, tile_rows_));  // additions to each total, folded or not
    const int64_t part_bytes = p_.total_rows * (p_.c + 1) * lanes_ * static_cast<int64_t>(sizeof(T));
    p_.parts = part_count(p_.n, p_.groups, tile_pairs(tiles, p_.groups > 1 ? 1 : p_.fold),
                          compensated_ ? 2 * part_bytes : part_bytes);
  }

  void input(const Tensor& x, const T* Problem<T>::* field) {
    Operand<S, T>& operand = inputs_[input_count_++] = strided(x);
    operand.input = field;
  }

  // A new tensor of these sizes, filled by run().
  Tensor output(std::initializer_list<int64_t> sizes, T* Problem<T>::* field, T* Problem<T>::* lost, T offset = 0) {
    Tensor x = new_empty(m_, sizes, m_.scalar_type());
    Operand<S, T>& operand = outputs_[output_count_++] = strided(x);
    operand.field = field;
    operand.lost = lost;
    operand.offset = offset;
    return x;
  }

  void run(void (*kernel)(const Problem<T>&, int64_t)) {
    if (p_.n == 0 || b_ == 0) return;
    const Tensor scratch = allocate();
    for_each(p_.groups, [&](int64_t group) {
      for (int k = 0; k < input_count_; ++k) pack(inputs_[k], group);
    });
    for_each(p_.groups * p_.parts, [&](int64_t item) { kernel(p_, item); });
    for_each(p_.groups, [&](int64_t group) {
      for (int k = 0; k < output_count_; ++k) unpack(outputs_[k], group);
    });
  }

 private:
  Tensor m_;
  int64_t b_, lanes_, tile_rows_ = 0;
  bool compensated_ = false;
  Problem<T> p_;
  std::array<Operand<S, T>, 3> inputs_;
  std::array<Operand<S, T>, 2> outputs_;
  int input_count_ = 0, output_count_ = 0;

  Operand<S, T> strided(const Tensor& x) const {
    Operand<S, T> result;
    result.data = static_cast<S*>(x.data_ptr());
    result.stride_n = x.stride(0);
    result.stride_b = x.stride(1);
    if (x.dim() == 3) result.stride_c = x.stride(2), result.c = p_.c;
    return result;
  }

  int64_t packed_size(const Operand<S, T>& x) const { return p_.total_rows * x.c * lanes_; }

  // Between the pieces of one allocation AddressSanitizer would see no overrun: there, it gets gaps to watch.
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t gap = 256;
  static void poison(T* at, int64_t bytes) { __asan_poison_memory_region(at, bytes); }
#else
  static constexpr int64_t gap = 0;
  static void poison(T*, int64_t) {}
#endif

  // All packed and local memory, in one tensor.
  Tensor allocate() {
    const int64_t local = p_.parts * p_.groups * local_size(p_.c, tile_rows_, p_.fold, lanes_);
    int64_t size = local + gap * (1 + input_count_ + 2 * output_count_);
    for (int k = 0; k < input_count_; ++k) size += packed_size(inputs_[k]);
    for (int k = 0; k < output_count_; ++k) size += packed_size(outputs_[k]) * p_.parts * (compensated_ ? 2 : 1);
    Tensor scratch = new_empty(m_, {size}, scalar_type_of<T>);
    T* free = static_cast<T*>(scratch.data_ptr());
    const auto take = [&free](int64_t count) {
      T* taken = free;
      free += count;
      poison(free, gap * sizeof(T));
      free += gap;
      return taken;
    };
    p_.local = take(local);
    for (int k = 0; k < input_count_; ++k) p_.*inputs_[k].input = inputs_[k].packed = take(packed_size(inputs_[k]));
    for (int k = 0; k < output_count_; ++k) {
      Operand<S, T>& out = outputs_[k];
      p_.*out.field = out.packed = take(packed_size(out) * p_.parts);
      if (compensated_) p_.*out.lost = take(packed_size(out) * p_.parts);
    }
    return scratch;
  }

  template <class F>
  static void for_each(int64_t count, const F& f) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) f(k);
    });
  }

  T* group_rows(const Operand<S, T>& x, int64_t group) const { return x.packed + group * p_.n * x.c * lanes_; }

  // f(strided elements of the group's kernels, packed lanes, how many of them are used) for each (n, c).
  template <class F>
  void each(const Operand<S, T>& x, int64_t group, const F& f) const {
    const int64_t b0 = group * lanes_, used = b_ - b0 < lanes_ ? b_ - b0 : lanes_;
    const int64_t fold = group + 1 == p_.groups ? p_.fold : 1, width = lanes_ / fold;
    for (int64_t i = 0; i < p_.n; ++i) {
      S* row = x.data + i * x.stride_n + b0 * x.stride_b;
      T* packed = group_rows(x, group) + i / fold * x.c * lanes_ + i % fold * width;
      for (int64_t k = 0; k < x.c; ++k) f(row + k * x.stride_c, packed + k * lanes_, used);
    }
  }

  void pack(const Operand<S, T>& x, int64_t group) const {
    if ((group + 1) * lanes_ > b_) {
      T* packed = group_rows(x, group);
      std::fill(packed, packed + p_.rows(group) * x.c * lanes_, T(0));
    }
    each(x, group, [&](const S* from, T* to, int64_t used) {
      for (int64_t l = 0; l < used; ++l) to[l] = static_cast<T>(from[l * x.stride_b]);
    });
  }

  // Adds the parts of a group in order, and gives their sum.
  void unpack(const Operand<S, T>& x, int64_t group) const {
    T* sum = group_rows(x, group);
    for (int64_t part = 1; part < p_.parts; ++part) {
      kernels.add(sum, sum + part * packed_size(x), p_.rows(group) * x.c * lanes_);
    }
    each(x, group, [&](S* to, const T* from, int64_t used) {
      for (int64_t l = 0; l < used; ++l) to[l * x.stride_b] = static_cast<S>(from[l] + x.offset);
    });
  }
};

void check_m(const Tensor& m, const char* op) {
  STD_TORCH_CHECK(m.dim() == 3, op, ": expected m of shape (N, B, C), got ", m.dim(), " dimensions");
}

void check_grad(const Tensor& grad, const Tensor& m, const char* op) {
  check_m(m, op);
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == m.size(0) && grad.size(1) == m.size(1) &&
                      grad.scalar_type() == m.scalar_type(),
                  op, ": expected grad of shape (N, B) and of m's dtype");
}

Tensor forward(const Tensor& m, bool include_self) {
  check_m(m, "minibatch_l1");
  return dispatch_floating(m, "minibatch_l1", [&](auto element) {
    Call<decltype(element)> call(m);
    using Problem = Problem<typename decltype(call)::T>;
    call.input(m, &Problem::m);
    Tensor o = call.output({m.size(0), m.size(1)}, &Problem::out_n, &Problem::lost_n, include_self ? 1 : 0);
    call.run(call.kernels.forward);
    return o;
  });
}

Tensor backward(const Tensor& grad, const Tensor& m) {
  check_grad(grad, m, "minibatch_l1_backward");
  return dispatch_floating(m, "minibatch_l1_backward", [&](auto element) {
    Call<decltype(element)> call(m);
    using Problem = Problem<typename decltype(call)::T>;
    call.input(m, &Problem::m);
    call.input(grad, &Problem::g);
    Tensor dm = call.output({m.size(0), m.size(1), m.size(2)}, &Problem::out_c, &Problem::lost_c);
    call.run(call.kernels.backward);
    return dm;
  });
}

std::tuple<Tensor, Tensor> double_backward(const Tensor& v, const Tensor& grad, const Tensor& m) {
  check_grad(grad, m, "minibatch_l1_double_backward");
  STD_TORCH_CHECK(v.dim() == 3 && v.size(0) == m.size(0) && v.size(1) == m.size(1) && v.size(2) == m.size(2) &&
                      v.scalar_type() == m.scalar_type(),
                  "minibatch_l1_double_backward: expected v of m's shape and dtype");
  return dispatch_floating(m, "minibatch_l1_double_backward", [&](auto element) {
    Call<decltype(element)> call(m);
    using Problem = Problem<typename decltype(call)::T>;
    call.input(m, &Problem::m);
    call.input(grad, &Problem::g);
    call.input(v, &Problem::v);
    Tensor dgrad = call.output({m.size(0), m.size(1)}, &Problem::out_n, &Problem::lost_n);
    Tensor dm = call.output({m.size(0), m.size(1), m.size(2)}, &Problem::out_c, &Problem::lost_c);
    call.run(call.kernels.double_backward);
    return std::tuple(dgrad, dm);
  });
}

}  // namespace
}  // namespace gankern::minibatch_l1

STABLE_TORCH_LIBRARY_IMPL(gankern_native, CPU, m) {
  using namespace gankern::minibatch_l1;
  m.impl("minibatch_l1", TORCH_BOX(&forward));
  m.impl("minibatch_l1_backward", TORCH_BOX(&backward));
  m.impl("minibatch_l1_double_backward", TORCH_BOX(&double_backward));
}
