#include <array>

#include "common/tensor.h"
#include "minibatch_l1/core.h"

// Checks, packing, the parallel regions and the registration; the arithmetic is in core.cpp.

namespace gankern::minibatch_l1 {
namespace {

// A strided (N, B, C) or (N, B) tensor beside its packed form, [groups][N][C][lanes]. Lanes past B are zero: what
// they give is finite and dropped.
template <class S, class T>
struct Operand {
  S* data = nullptr;
  T* packed = nullptr;
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
    const int64_t rows = tile_rows(p_.c, lanes_ * sizeof(T));
    const int64_t part_bytes = p_.groups * p_.n * (p_.c + 1) * lanes_ * static_cast<int64_t>(sizeof(T));
    p_.parts = p_.groups > 0 ? part_count(p_.n, p_.groups, tile_pairs(p_.n, rows), part_bytes) : 1;
  }

  void input(const Tensor& x, const T* Problem<T>::* field) {
    inputs_[input_count_] = operand(x, 1);
    p_.*field = inputs_[input_count_++].packed;
  }

  // A new tensor of these sizes, filled by run().
  Tensor output(std::initializer_list<int64_t> sizes, T* Problem<T>::* field, T offset = 0) {
    Tensor x = new_empty(m_, sizes, m_.scalar_type());
    Operand<S, T>& out = outputs_[output_count_++];
    out = operand(x, p_.parts);
    out.offset = offset;
    p_.*field = out.packed;
    return x;
  }

  void run(void (*kernel)(const Problem<T>&, int64_t)) {
    if (p_.n == 0 || b_ == 0) return;
    for_each(p_.groups, [&](int64_t group) {
      for (int k = 0; k < input_count_; ++k) pack(inputs_[k], group);
    });
    for_each(p_.groups * p_.parts, [&](int64_t item) { kernel(p_, item); });
    for_each(p_.groups, [&](int64_t group) {
      for (int k = 0; k < output_count_; ++k) {
        const Operand<S, T>& out = outputs_[k];
        kernels.add_parts(out.packed, p_.parts, p_.groups, p_.n * out.c * lanes_, group);
        unpack(out, group);
      }
    });
  }

 private:
  Tensor m_;
  int64_t b_, lanes_;
  Problem<T> p_;
  std::array<Operand<S, T>, 3> inputs_;
  std::array<Operand<S, T>, 2> outputs_;
  std::array<Tensor, 5> scratch_;
  int input_count_ = 0, output_count_ = 0, scratch_count_ = 0;

  Operand<S, T> operand(const Tensor& x, int64_t parts) {
    Operand<S, T> result;
    result.data = static_cast<S*>(x.data_ptr());
    result.stride_n = x.stride(0);
    result.stride_b = x.stride(1);
    if (x.dim() == 3) result.stride_c = x.stride(2), result.c = p_.c;
    Tensor& memory = scratch_[scratch_count_++];
    memory = new_empty(x, {parts, p_.groups, p_.n, result.c, lanes_}, scalar_type_of<T>);
    result.packed = static_cast<T*>(memory.data_ptr());
    return result;
  }

  template <class F>
  static void for_each(int64_t count, const F& f) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) f(k);
    });
  }

  // f(strided elements of the group's lanes, packed lanes, how many of them are used) for each (n, c).
  template <class F>
  void each(const Operand<S, T>& x, int64_t group, const F& f) const {
    const int64_t b0 = group * lanes_;
    const int64_t used = b_ - b0 < lanes_ ? b_ - b0 : lanes_;
    T* packed = x.packed + group * p_.n * x.c * lanes_;
    for (int64_t i = 0; i < p_.n; ++i) {
      S* row = x.data + i * x.stride_n + b0 * x.stride_b;
      for (int64_t k = 0; k < x.c; ++k, packed += lanes_) f(row + k * x.stride_c, packed, used);
    }
  }

  void pack(const Operand<S, T>& x, int64_t group) const {
    each(x, group, [&](const S* from, T* to, int64_t used) {
      for (int64_t l = 0; l < used; ++l) to[l] = static_cast<T>(from[l * x.stride_b]);
      for (int64_t l = used; l < lanes_; ++l) to[l] = T(0);
    });
  }

  void unpack(const Operand<S, T>& x, int64_t group) const {
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
    Tensor o = call.output({m.size(0), m.size(1)}, &Problem::out_n, include_self ? 1 : 0);
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
    Tensor dm = call.output({m.size(0), m.size(1), m.size(2)}, &Problem::out_c);
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
    Tensor dgrad = call.output({m.size(0), m.size(1)}, &Problem::out_n);
    Tensor dm = call.output({m.size(0), m.size(1), m.size(2)}, &Problem::out_c);
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
