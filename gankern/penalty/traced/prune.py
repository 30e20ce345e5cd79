"""Exact zeros and dead code removed from a graph of ATen operators."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from gankern.nn import _contraction

_aten = torch.ops.aten

#: Operators that are zero if one of these positional arguments is: linear in each of them alone.
_LINEAR: dict[Any, tuple[int, ...]] = {}


def _linear(names: str, *positions: int) -> None:
    for name in names.split():
        for overload in getattr(_aten, name).overloads():
            _LINEAR[getattr(getattr(_aten, name), overload)] = positions


_linear("mul mm bmm mv dot convolution", 0, 1)
_linear("div neg view _unsafe_view reshape permute t transpose expand squeeze unsqueeze clone alias detach sum mean", 0)
_linear(
    "_to_copy select slice diagonal as_strided flip roll gather index_select index select_backward slice_backward", 0
)
_linear("hardshrink_backward softshrink_backward", 0)
_linear("threshold_backward leaky_relu_backward hardtanh_backward abs sgn relu leaky_relu tril triu cumsum", 0)
_linear("avg_pool2d avg_pool3d avg_pool2d_backward avg_pool3d_backward max_pool2d_with_indices_backward", 0)
_linear("_adaptive_avg_pool2d _adaptive_avg_pool2d_backward reflection_pad1d reflection_pad2d reflection_pad3d", 0)
_linear("reflection_pad1d_backward reflection_pad2d_backward replication_pad2d replication_pad2d_backward", 0)
_linear("upsample_nearest2d upsample_nearest2d_backward upsample_bilinear2d upsample_bilinear2d_backward", 0)
_linear("tanh_backward sigmoid_backward silu_backward gelu_backward elu_backward softplus_backward", 0)
_linear("native_dropout_backward embedding_dense_backward _softmax_backward_data _log_softmax_backward_data", 0)

_ZEROS = (_aten.zeros.default, _aten.zeros_like.default, _aten.new_zeros.default)
_FILLS = {_aten.full.default: 1, _aten.full_like.default: 1, _aten.scalar_tensor.default: 0}


def _value(node: Any) -> Any:
    return node.meta.get("val") if isinstance(node, fx.Node) else None


def _storage(value: Any) -> Any:
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


def _written(graph: fx.Graph) -> set[Any]:
    """The storages that some operator writes to: what lies there is no function of its node alone."""
    found = set()
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            continue
        for argument, value in zip(schema.arguments, node.args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                found.add(_storage(_value(value)))
    return found


class _Pruner:
    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.written = _written(graph)
        self.zeros: set[fx.Node] = set()

    def zero(self, node: Any) -> bool:
        return node in self.zeros

    def fixed(self, node: Any) -> bool:
        """Whether nothing overwrites what this node gives."""
        return _storage(_value(node)) not in self.written

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op != "call_function":
                continue
            if node.target is _aten.convolution_backward.default:
                self.convolution_backward(node)
            elif node.target is operator.getitem:
                self.item(node)
            elif isinstance(_value(node), Tensor) and self.fixed(node):
                if self.is_zero(node):
                    self.zeros.add(node)
                elif (same := self.simpler(node)) is not None:
                    node.replace_all_uses_with(same)
        for node in self.zeros:
            self.materialise(node)

    def is_zero(self, node: fx.Node) -> bool:
        target, args = node.target, list(node.args)
        if target in _ZEROS:
            return True
        if target in _FILLS:
            return bool(args[_FILLS[target]] == 0)
        if target in (_aten.add.Tensor, _aten.sub.Tensor):
            return self.zero(args[0]) and self.zero(args[1])
        if target is _aten.where.self:
            return self.zero(args[1]) and self.zero(args[2])
        if target is _aten.masked_fill.Scalar:
            return self.zero(args[0]) and bool(args[2] == 0)
        if target is _aten.constant_pad_nd.default:
            return self.zero(args[0]) and (len(args) < 3 or bool(args[2] == 0))
        if target is _aten.cat.default:
            return all(self.zero(x) for x in args[0])  # type: ignore[union-attr]
        if target is _aten.addmm.default:
            return self.zero(args[0]) and (self.zero(args[1]) or self.zero(args[2]))
        if target is _aten.convolution.default and args[2] is not None:
            return False
        return any(self.zero(args[k]) for k in _LINEAR.get(target, ()) if k < len(args))

    def simpler(self, node: fx.Node) -> fx.Node | None:
        """An earlier node with this node's value, or one that costs less."""
        target, args = node.target, node.args
        if target in (_aten.detach.default, _aten.alias.default):
            return self.keep(node, args[0])
        if target is _aten.add.Tensor and not node.kwargs:
            for own, other in ((0, 1), (1, 0)):
                if self.zero(args[other]):
                    return self.keep(node, args[own])
        if target is _aten.sub.Tensor and not node.kwargs and self.zero(args[1]):
            return self.keep(node, args[0])
        if target is _aten.t.default and getattr(args[0], "target", None) is target:
            return self.keep(node, args[0].args[0])  # type: ignore[union-attr]
        return None

    def keep(self, node: fx.Node, other: Any) -> fx.Node | None:
        ours, theirs = _value(node), _value(other)
        same = isinstance(theirs, Tensor) and ours.shape == theirs.shape and ours.dtype == theirs.dtype
        return other if same and self.fixed(other) else None

    def convolution_backward(self, node: fx.Node) -> None:
        """Asks for no gradient that is zero or unused."""
        grad, x, weight, *_, mask = node.args
        used = {user.args[1] for user in node.users if user.target is operator.getitem and user.users}
        zero = (self.zero(grad) or self.zero(weight), self.zero(grad) or self.zero(x), self.zero(grad))
        for user in list(node.users):
            if user.target is operator.getitem and zero[user.args[1]] and mask[user.args[1]]:  # type: ignore
                self.zeros.add(user)
        wanted = [bool(m) and k in used and not zero[k] for k, m in enumerate(mask)]  # type: ignore[arg-type]
        if wanted != list(mask):  # type: ignore[arg-type]
            node.args = (*node.args[:-1], wanted)

    def item(self, node: fx.Node) -> None:
        source, index = node.args
        dropped = getattr(source, "target", None) is _aten.native_dropout.default and index == 0
        if dropped and self.zero(source.args[0]):  # type: ignore[union-attr]
            self.zeros.add(node)

    def materialise(self, node: fx.Node) -> None:
        """One cheap operator in the place of all that computed a zero; dead if nothing needs it."""
        if not node.users:
            return
        like: Tensor = _value(node)
        with self.graph.inserting_before(node):
            zeros = self.graph.call_function(
                _aten.zeros.default, (list(like.shape),), {"dtype": like.dtype, "device": like.device}
            )
        zeros.meta["val"] = like
        node.replace_all_uses_with(zeros)


def prune(graph: fx.Graph) -> None:
    """Removes, in place, everything that is zero by construction, and everything that nothing uses.

    0 * inf, which is NaN in torch, counts as zero, as it does in the engine "pruned".
    """
    for _ in range(2):  # what the first pass leaves unused need not be asked for
        _Pruner(graph).run()
        graph.eliminate_dead_code()


#: ATen operators that a torch function with the same positional arguments computes at less cost per call.
_FAST: dict[Any, Callable[..., Any]] = {
    _aten.t.default: torch.t,
    _aten.mul.Tensor: torch.mul,
    _aten.add.Tensor: torch.add,
    _aten.sub.Tensor: torch.sub,
    _aten.div.Tensor: torch.div,
    _aten.neg.default: torch.neg,
    _aten.relu.default: torch.relu,
    _aten.view.default: Tensor.view,
    _aten.permute.default: torch.permute,
    _aten.mean.default: torch.mean,
    _aten.sum.dim_IntList: torch.sum,
    _aten.sum.default: torch.sum,
    _aten.convolution.default: torch.convolution,
    _aten.where.self: torch.where,
    _aten.sigmoid.default: torch.sigmoid,
    _aten.tanh.default: torch.tanh,
}


#: Operators whose result is a constant if their tensors are, or their shapes alone.
_CONSTANT = (_aten.expand.default, _aten.div.Scalar, _aten.mul.Scalar, _aten.t.default, _aten.view.default)
_SHAPES = (_aten.ones_like.default, _aten.full_like.default, _aten.full.default, _aten.zeros.default)
_LARGEST_CONSTANT = 1 << 14


def _fold(module: fx.GraphModule) -> None:
    """Computes what depends on no input once, where it is small: a graph of a small critic is as long as its calls."""
    graph = module.graph
    written = _written(graph)
    results = {x for node in graph.nodes if node.op == "output" for x in node.all_input_nodes}
    known: dict[Any, Tensor] = {}
    node: Any
    for node in graph.nodes:
        value = _value(node)
        if not isinstance(value, Tensor) or node in results or _storage(value) in written:
            continue
        if node.target in _SHAPES and value.numel() <= _LARGEST_CONSTANT and value.is_contiguous():
            fill = node.args[1] if node.target in _FILLS else int(node.target is _SHAPES[0])
            known[node] = torch.full(value.shape, fill, dtype=value.dtype, device=value.device)
        elif node.target in _CONSTANT and value.numel() <= _LARGEST_CONSTANT and node.args[0] in known:
            known[node] = node.target(known[node.args[0]], *node.args[1:], **node.kwargs)
    for k, (node, constant) in enumerate(known.items()):
        if all(user in known for user in node.users):
            continue
        name = f"_constant{k}"
        module.register_buffer(name, constant)
        with graph.inserting_before(node):
            held = graph.get_attr(name)
        held.meta["val"] = _value(node)
        node.replace_all_uses_with(held)
    graph.eliminate_dead_code()


def plain_products(graph: fx.Graph) -> None:
    """Matrix products of oneDNN as ATen's: Inductor takes those of oneDNN with constant weights alone."""
    node: Any
    for node in list(graph.nodes):
        if node.target is not getattr(_contraction.ONEDNN, "default", None):
            continue
        a, b, bias = node.args[:3]
        with graph.inserting_before(node):
            b = graph.call_function(_aten.t.default, (b,))
            b.meta["val"] = _value(b.args[0]).t()
            both = (_aten.mm.default, (a, b)) if bias is None else (_aten.addmm.default, (bias, a, b))
            product = graph.call_function(*both)
        product.meta["val"] = _value(node)
        node.replace_all_uses_with(product)
        graph.erase_node(node)


def _as_linear(node: Any) -> None:
    """A product with a transposed matrix, with a bias or without, in one call."""
    *bias, a, b = node.args
    if getattr(b, "target", None) in (_aten.t.default, torch.t) and (not bias or _value(bias[0]).dim() == 1):
        node.target, node.args = F.linear, (a, b.args[0], *bias)
    else:
        node.target = torch.addmm if bias else torch.mm


def quicken(module: fx.GraphModule) -> None:
    """Fewer and quicker calls: constants are computed once, and torch's own bindings called where they do the same.

    An operator called by its overload costs more.
    """
    _fold(module)
    node: Any
    for node in module.graph.nodes:
        if node.target in _FAST:
            node.target = _FAST[node.target]
        elif node.target is _aten.leaky_relu_backward.default and node.args[0] is node.args[1] and not node.args[3]:
            node.target, node.args = F.leaky_relu, (node.args[0], node.args[2])
        elif node.target in (_aten.mm.default, _aten.addmm.default) and not node.kwargs:
            _as_linear(node)
        elif node.target is _aten.convolution_backward.default and node.args[-1][0]:
            image = _value(node.args[1])
            if image.shape[1] <= _contraction.FEW_CHANNELS:
                node.target = _contraction.convolution_backward
    module.graph.eliminate_dead_code()
