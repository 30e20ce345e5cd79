#include <utility>

#include "minibatch_l1/rows.cuh"
#include "minibatch_l1/wide.cuh"

// Checks, the choice of a kernel and the registration; the arithmetic is in pair.cuh, rows.cuh and wide.cuh.

namespace gankern::minibatch_l1 {
namespace {

constexpr const char* names[] = {"minibatch_l1", "minibatch_l1_backward", "minibatch_l1_double_backward"};

template <Order order>
constexpr const char* name = names[static_cast<int>(order)];

// Fewer blocks than this do not fill a large GPU (132 processors, a few blocks each): rows are then spread thinner.
constexpr int64_t enough_blocks = 1024;

// C for which row kernels are compiled.
template <class T>
struct Widths {
  using Type = std::integer_sequence<int, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32>;
};

template <>
struct Widths<double> {
  using Type = std::integer_sequence<int, 4, 8>;  // wider ones spill
};

template <Order order, class T, int C, int R>
void launch_rows(const Launcher& launch, const Problem& p) {
  const int64_t blocks = (int64_t(p.n) + lanes * R - 1) / (lanes * R) * p.b;
  if constexpr (R < many_rows<order, T, C>) {
    constexpr int many = many_rows<order, T, C>;
    if (blocks * R / many >= enough_blocks) return launch_rows<order, T, C, many>(launch, p);
  }
  launch(name<order>, row_kernel<order, T, C, R>, blocks, row_threads, p);
}

// The narrowest row kernel for p.c; false if there is none.
template <Order order, class T, int... C>
bool launch_rows(const Launcher& launch, const Problem& p, std::integer_sequence<int, C...>) {
  return ((p.c <= C && (launch_rows<order, T, C, 1>(launch, p), true)) || ...);
}

template <class T>
Tensor packed_like(const Tensor& x, int64_t b, int64_t c) {
  return new_empty(x, {b, c, padded_rows(x.size(0))}, scalar_type_of<T>);
}

template <class T, bool back>
void transpose(const Launcher& launch, const Tensor& x, const Tensor& packed, T scale) {
  const int64_t n = x.size(0), b = x.size(1), c = x.dim() == 3 ? x.size(2) : 1;
  launch("minibatch_l1 transpose", transpose_kernel<T, back>, transpose_tiles(b * c, padded_rows(n)), transpose_threads,
         Strided(x), static_cast<T*>(packed.data_ptr()), n, b, c, scale);
}

template <Order order, class T>
void launch_wide(const Launcher& launch, const Problem& p, const Tensor& m, const Tensor* g, const Tensor* v,
                 const Tensor* out_c) {
  Wide<T> w;
  const Tensor packed_m = packed_like<T>(m, p.b, p.c);
  transpose<T, false>(launch, m, packed_m, T(1));
  w.m = static_cast<const T*>(packed_m.data_ptr());
  const Tensor packed_g = packed_like<T>(m, g ? p.b : 0, 1), packed_v = packed_like<T>(m, v ? p.b : 0, p.c);
  const Tensor sums = packed_like<T>(m, out_c ? p.b : 0, p.c);
  if (g) transpose<T, false>(launch, *g, packed_g, T(1)), w.g = static_cast<const T*>(packed_g.data_ptr());
  if (v) transpose<T, false>(launch, *v, packed_v, T(1)), w.v = static_cast<const T*>(packed_v.data_ptr());
  if (out_c) w.sum_c = static_cast<T*>(sums.data_ptr());
  const int64_t blocks = (int64_t(p.n) + wide_threads - 1) / wide_threads * p.b;
  launch(name<order>, wide_kernel<order, T>, blocks, wide_threads, p, w);
  if (out_c) transpose<T, true>(launch, *out_c, sums, order == Order::backward ? T(-1) : T(1));
}

// One order on m's device; g, v and the outputs that it has not are null.
template <Order order>
void run(const Tensor& m, const Tensor* g, const Tensor* v, const Tensor* out_n, const Tensor* out_c,
         bool include_self) {
  // Rows are counted in int; N^2 pairs would not end sooner.
  STD_TORCH_CHECK(m.size(0) <= INT32_MAX - 1024, name<order>, ": expected fewer than 2^31 - 1024 rows, got ",
                  m.size(0));
  Problem p;
  p.n = static_cast<int>(m.size(0)), p.b = m.size(1), p.c = m.size(2);
  if (p.n == 0 || p.b == 0) return;
  p.include_self = include_self;
  p.m = Strided(m);
  if (g) p.g = Strided(*g);
  if (v) p.v = Strided(*v);
  if (out_n) p.out_n = Strided(*out_n);
  if (out_c) p.out_c = Strided(*out_c);
  dispatch_floating(m, name<order>, [&](auto element) {
    using T = Accumulate<decltype(element)>;
    const Launcher launch(m);
    if (!launch_rows<order, T>(launch, p, typename Widths<T>::Type{})) launch_wide<order, T>(launch, p, m, g, v, out_c);
  });
}

void check(const Tensor& m, const char* op) {
  STD_TORCH_CHECK(m.dim() == 3, op, ": expected m of shape (N, B, C), got ", m.dim(), " dimensions");
}

void check_grad(const Tensor& m, const Tensor& grad, const char* op) {
  check(m, op);
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == m.size(0) && grad.size(1) == m.size(1) &&
                      grad.scalar_type() == m.scalar_type() && grad.get_device_index() == m.get_device_index(),
                  op, ": expected grad of shape (N, B), of m's dtype and on m's device");
}

Tensor forward(const Tensor& m, bool include_self) {
  check(m, name<Order::forward>);
  Tensor o = new_empty(m, {m.size(0), m.size(1)}, m.scalar_type());
  run<Order::forward>(m, nullptr, nullptr, &o, nullptr, include_self);
  return o;
}

Tensor backward(const Tensor& grad, const Tensor& m) {
  check_grad(m, grad, name<Order::backward>);
  Tensor dm = new_empty(m, {m.size(0), m.size(1), m.size(2)}, m.scalar_type());
  run<Order::backward>(m, &grad, nullptr, nullptr, &dm, false);
  return dm;
}

std::tuple<Tensor, Tensor> double_backward(const Tensor& v, const Tensor& grad, const Tensor& m) {
  check_grad(m, grad, name<Order::double_backward>);
  STD_TORCH_CHECK(v.dim() == 3 && v.size(0) == m.size(0) && v.size(1) == m.size(1) && v.size(2) == m.size(2) &&
                      v.scalar_type() == m.scalar_type() && v.get_device_index() == m.get_device_index(),
                  name<Order::double_backward>, ": expected v of m's shape and dtype and on m's device");
  Tensor dgrad = new_empty(m, {m.size(0), m.size(1)}, m.scalar_type());
  Tensor dm = new_empty(m, {m.size(0), m.size(1), m.size(2)}, m.scalar_type());
  run<Order::double_backward>(m, &grad, &v, &dgrad, &dm, false);
  return std::tuple(dgrad, dm);
}

}  // namespace
}  // namespace gankern::minibatch_l1

STABLE_TORCH_LIBRARY_IMPL(gankern_cuda, CUDA, m) {
  using namespace gankern::minibatch_l1;
  m.impl("minibatch_l1", TORCH_BOX(&forward));
  m.impl("minibatch_l1_backward", TORCH_BOX(&backward));
  m.impl("minibatch_l1_double_backward", TORCH_BOX(&double_backward));
}
