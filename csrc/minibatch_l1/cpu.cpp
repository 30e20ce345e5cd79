#include "common/tensor.h"
#include "minibatch_l1/core.h"

// Checks, packing, the parallel region and the registration; the arithmetic is in core.cpp.

namespace gankern::minibatch_l1 {
namespace {

constexpr int grain = 1;

struct Sizes {
  int64_t n, b, c, lanes, groups, parts;
};

template <class T>
Sizes sizes_of(const Tensor& m, const Kernels<T>& kernels) {
  Sizes s = {m.size(0), m.size(1), m.size(2), kernels.lanes, 0, 0};
  s.groups = (s.b + s.lanes - 1) / s.lanes;
  const int64_t rows = tile_rows(s.c, s.lanes * sizeof(T));
  s.parts = s.groups > 0 ? part_count(s.n, s.groups, tile_pairs(s.n, rows)) : 1;
  return s;
}

// A strided (n, b, c) or (n, b) tensor into or out of [groups][n][c][lanes], one group at a time. Lanes past b are
// zero: their results are finite and dropped.
template <class S, class T>
struct Strided {
  S* data;
  int64_t stride_n, stride_b, stride_c;
  Sizes s;
  int64_t c;

  Strided(const Tensor& x, const Sizes& sizes)
      : data(static_cast<S*>(x.data_ptr())),
        stride_n(x.stride(0)),
        stride_b(x.stride(1)),
        stride_c(x.dim() == 3 ? x.stride(2) : 0),
        s(sizes),
        c(x.dim() == 3 ? sizes.c : 1) {}

  template <class F>
  void each(int64_t group, F&& f) const {
    const int64_t b0 = group * s.lanes;
    const int64_t used = s.b - b0 < s.lanes ? s.b - b0 : s.lanes;
    for (int64_t i = 0; i < s.n; ++i) {
      for (int64_t k = 0; k < c; ++k) {
        const int64_t packed = ((group * s.n + i) * c + k) * s.lanes;
        f(data + i * stride_n + b0 * stride_b + k * stride_c, packed, used);
      }
    }
  }

  void pack(T* to, int64_t group) const {
    each(group, [&](const S* from, int64_t packed, int64_t used) {
      for (int64_t l = 0; l < used; ++l) to[packed + l] = static_cast<T>(from[l * stride_b]);
      for (int64_t l = used; l < s.lanes; ++l) to[packed + l] = T(0);
    });
  }

  void unpack(const T* from, int64_t group, T offset) const {
    each(group, [&](S* to, int64_t packed, int64_t used) {
      for (int64_t l = 0; l < used; ++l) to[l * stride_b] = static_cast<S>(from[packed + l] + offset);
    });
  }
};

template <class T>
T* pointer(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

template <class F>
void for_each(int64_t count, const F& f) {
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) f(k);
  });
}

void check(const Tensor& m, const char* op) {
  STD_TORCH_CHECK(m.dim() == 3, op, ": expected m of shape (N, B, C), got ", m.dim(), " dimensions");
}

void check_grad(const Tensor& m, const Tensor& grad, const char* op) {
  check(m, op);
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == m.size(0) && grad.size(1) == m.size(1) &&
                      grad.scalar_type() == m.scalar_type(),
                  op, ": expected grad of shape (N, B) and m's dtype");
}

Tensor forward(const Tensor& m, bool include_self) {
  check(m, "minibatch_l1");
  return dispatch_floating(m, "minibatch_l1", [&](auto element) {
    using S = decltype(element);
    using T = Accumulate<S>;
    const Kernels<T>& kernels = minibatch_l1::kernels<T>(isa());
    const Sizes s = sizes_of(m, kernels);
    Tensor o = new_empty(m, {s.n, s.b}, m.scalar_type());
    if (s.n == 0 || s.b == 0) return o;
    Tensor packed = new_empty(m, {s.groups, s.n, s.c, s.lanes}, scalar_type_of<T>);
    Tensor sums = new_empty(m, {s.parts, s.groups, s.n, s.lanes}, scalar_type_of<T>);
    Problem<T> p{s.n, s.c, s.groups, s.parts, pointer<T>(packed), nullptr, nullptr, pointer<T>(sums), nullptr};
    const Strided<S, T> in(m, s), out(o, s);
    T* to = pointer<T>(packed);
    for_each(s.groups, [&](int64_t group) { in.pack(to, group); });
    for_each(s.groups * s.parts, [&](int64_t k) { kernels.forward(p, k); });
    for_each(s.groups, [&](int64_t group) {
      kernels.add_parts(p.out_n, s.parts, s.groups, s.n * s.lanes, group);
      out.unpack(p.out_n, group, include_self ? T(1) : T(0));
    });
    return o;
  });
}

Tensor backward(const Tensor& grad, const Tensor& m) {
  check_grad(m, grad, "minibatch_l1_backward");
  return dispatch_floating(m, "minibatch_l1_backward", [&](auto element) {
    using S = decltype(element);
    using T = Accumulate<S>;
    const Kernels<T>& kernels = minibatch_l1::kernels<T>(isa());
    const Sizes s = sizes_of(m, kernels);
    Tensor dm = new_empty(m, {s.n, s.b, s.c}, m.scalar_type());
    if (s.n == 0 || s.b == 0 || s.c == 0) return dm;
    Tensor packed_m = new_empty(m, {s.groups, s.n, s.c, s.lanes}, scalar_type_of<T>);
    Tensor packed_g = new_empty(m, {s.groups, s.n, s.lanes}, scalar_type_of<T>);
    Tensor sums = new_empty(m, {s.parts, s.groups, s.n, s.c, s.lanes}, scalar_type_of<T>);
    Problem<T> p{s.n,     s.c,     s.groups,        s.parts, pointer<T>(packed_m), pointer<T>(packed_g),
                 nullptr, nullptr, pointer<T>(sums)};
    const Strided<S, T> in_m(m, s), in_g(grad, s), out(dm, s);
    T *to_m = pointer<T>(packed_m), *to_g = pointer<T>(packed_g);
    for_each(s.groups, [&](int64_t group) {
      in_m.pack(to_m, group);
      in_g.pack(to_g, group);
    });
    for_each(s.groups * s.parts, [&](int64_t k) { kernels.backward(p, k); });
    for_each(s.groups, [&](int64_t group) {
      kernels.add_parts(p.out_c, s.parts, s.groups, s.n * s.c * s.lanes, group);
      out.unpack(p.out_c, group, T(0));
    });
    return dm;
  });
}

std::tuple<Tensor, Tensor> double_backward(const Tensor& v, const Tensor& grad, const Tensor& m) {
  check_grad(m, grad, "minibatch_l1_double_backward");
  STD_TORCH_CHECK(v.dim() == 3 && v.size(0) == m.size(0) && v.size(1) == m.size(1) && v.size(2) == m.size(2) &&
                      v.scalar_type() == m.scalar_type(),
                  "minibatch_l1_double_backward: expected v of m's shape and dtype");
  return dispatch_floating(m, "minibatch_l1_double_backward", [&](auto element) {
    using S = decltype(element);
    using T = Accumulate<S>;
    const Kernels<T>& kernels = minibatch_l1::kernels<T>(isa());
    const Sizes s = sizes_of(m, kernels);
    Tensor dgrad = new_empty(m, {s.n, s.b}, m.scalar_type());
    Tensor dm = new_empty(m, {s.n, s.b, s.c}, m.scalar_type());
    if (s.n == 0 || s.b == 0) return std::tuple(dgrad, dm);
    Tensor packed_m = new_empty(m, {s.groups, s.n, s.c, s.lanes}, scalar_type_of<T>);
    Tensor packed_v = new_empty(m, {s.groups, s.n, s.c, s.lanes}, scalar_type_of<T>);
    Tensor packed_g = new_empty(m, {s.groups, s.n, s.lanes}, scalar_type_of<T>);
    Tensor sums_n = new_empty(m, {s.parts, s.groups, s.n, s.lanes}, scalar_type_of<T>);
    Tensor sums_c = new_empty(m, {s.parts, s.groups, s.n, s.c, s.lanes}, scalar_type_of<T>);
    Problem<T> p{s.n,
                 s.c,
                 s.groups,
                 s.parts,
                 pointer<T>(packed_m),
                 pointer<T>(packed_g),
                 pointer<T>(packed_v),
                 pointer<T>(sums_n),
                 pointer<T>(sums_c)};
    const Strided<S, T> in_m(m, s), in_v(v, s), in_g(grad, s), out_g(dgrad, s), out_m(dm, s);
    T *to_m = pointer<T>(packed_m), *to_v = pointer<T>(packed_v), *to_g = pointer<T>(packed_g);
    for_each(s.groups, [&](int64_t group) {
      in_m.pack(to_m, group);
      in_v.pack(to_v, group);
      in_g.pack(to_g, group);
    });
    for_each(s.groups * s.parts, [&](int64_t k) { kernels.double_backward(p, k); });
    for_each(s.groups, [&](int64_t group) {
      kernels.add_parts(p.out_n, s.parts, s.groups, s.n * s.lanes, group);
      kernels.add_parts(p.out_c, s.parts, s.groups, s.n * s.c * s.lanes, group);
      out_g.unpack(p.out_n, group, T(0));
      out_m.unpack(p.out_c, group, T(0));
    });
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
