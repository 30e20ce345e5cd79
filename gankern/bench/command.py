"""The command line that `gankern bench` and `python -m benchmarks.run` share."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from typing import Any

import torch

from gankern._console import add_command, fail, say, show
from gankern.backend import discover
from gankern.bench import ceilings, environment, report
from gankern.bench.providers import Provider, all_providers
from gankern.bench.runner import Row, Settings, run
from gankern.bench.workload import ORDERS
from gankern.ops._samples import OpSpec, Sample

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: Without --all, samples whose backward takes more lane instructions than this are left out: a table in a minute.
_LARGE = 10**9

_DESCRIPTION = """\
Times each op on its samples, in turns with its peers, and compares it with the floor that memory and
arithmetic of this machine set. A result is checked before it is timed.
"""
_EPILOG = """\
--list shows the ops, their samples and the providers. These are: eager, the formula in plain torch;
compile-dynamic and compile-static, the same through torch.compile; gankern-*, the kernels here.

examples:
  gankern bench                                   every op, forward and backward: minutes
  gankern bench minibatch_l1 --quick              one op, one sample, few rounds
  gankern bench spectral_norm --sample sngan-32 --order fwd bwd --dtype bfloat16
  gankern bench minibatch_l1 --providers eager,gankern-native --json result.json --png result.png
  gankern bench --quick --json > result.json      the tables go to stderr

exit codes: 0 done; 1 a result of gankern's is wrong or failed, or a file could not be written; 2 wrong
arguments; 130 Ctrl-C; 141 the reader of the output left
"""


class UsageError(Exception):
    """A wrong argument; the message is one line that names what is known."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options; the ops themselves are the caller's."""
    parser.add_argument("--list", action="store_true", help="show ops, samples and providers, and end")
    parser.add_argument(
        "--order",
        nargs="+",
        choices=list(ORDERS),
        default=["bwd"],
        help="what one timed call is: fwd, a forward pass; bwd, forward and backward (default); double, these and the"
        " backward of the backward, as a gradient penalty needs it. Ops without gradients have only fwd",
    )
    parser.add_argument("--sample", nargs="+", metavar="NAME", help="named inputs of the op; default: its bench sizes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--dtype", choices=list(_DTYPES), default="float32", help="of the inputs; default: float32")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="turns of each provider (default 30)")
    parser.add_argument("--providers", metavar="NAMES", help="comma-separated names; default: all")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, help="measure peak memory too")
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write a result file; without FILE, or with -, print it (then as the last argument)",
    )
    parser.add_argument("--png", metavar="FILE", help="draw the results")


def _ops(names: Sequence[str]) -> list[OpSpec]:
    known = discover()
    for name in names:
        if name not in known:
            raise UsageError(f"unknown op {name!r}: expected {', '.join(sorted(known))}")
    return [known[name].SPEC for name in names or sorted(known)]


def _samples(spec: OpSpec, names: Sequence[str] | None, everything: bool, device: str) -> list[Sample]:
    if names:
        known = {sample.name: sample for sample in (*spec.edges, *spec.samples)}
        for name in names:
            if name not in known:
                raise UsageError(f"unknown sample {name!r} of {spec.name}: expected {', '.join(known)}")
        return [known[name] for name in names]
    return [s for s in spec.tagged("bench") if everything or not _large(spec, s, device)]


def _large(spec: OpSpec, sample: Sample, device: str) -> bool:
    arguments = sample.make(torch.Generator().manual_seed(0))
    return spec.cost(arguments, "backward" if spec.orders else "forward", device).instructions > _LARGE


def _providers(spec: OpSpec, device: str, package: str | None, names: str | None) -> list[Provider]:
    found = all_providers(spec, device, package)
    if names is None:
        return found
    wanted = [name for name in names.split(",") if name]
    known = [p.name for p in found]
    if not wanted:
        raise UsageError(f"--providers names none of {spec.name}: expected {', '.join(known)}")
    for name in wanted:
        if name not in known:
            raise UsageError(f"unknown provider {name!r} of {spec.name}: expected {', '.join(known)}")
    return [p for p in found if p.name in wanted]


def _list(peers: str | None) -> str:
    lines = []
    for name, module in sorted(discover().items()):
        spec = module.SPEC
        bench = [sample.name for sample in spec.tagged("bench")]
        others = [sample.name for sample in (*spec.samples, *spec.edges) if sample.name not in bench]
        lines += [
            name,
            f"  orders     {' '.join(list(ORDERS)[: spec.orders + 1])}",
            f"  samples    {' '.join(bench)}",
            *textwrap.wrap(f"others     {' '.join(others)}", 118, initial_indent="  ", subsequent_indent=" " * 13),
        ]
        for device in ("cpu", "cuda"):
            lines.append(f"  on {device:4}    {' '.join(p.name for p in all_providers(spec, device, peers))}")
    return "\n".join([*lines, "", f"dtypes       {' '.join(_DTYPES)}"])


def _draw(path: str, content: dict[str, Any]) -> None:
    from gankern.bench.picture import plot

    try:
        plot(content, path)
    except ValueError as error:
        raise OSError(str(error)) from None


def execute(
    arguments: argparse.Namespace,
    ops: Sequence[str],
    everything: bool,
    quick: bool = False,
    peers: str | None = None,
    program: str = "gankern bench",
) -> int:
    """Runs the benchmarks.

    Args:
        arguments: as `add_arguments` parsed them.
        ops: their names; empty for all.
        everything: whether large samples run without being named.
        quick: the first sample of each op, in few rounds.
        peers: the package with more providers.
        program: before the messages.

    Returns:
        0; 1 if one of gankern's own rows is wrong or failed, or a file could not be written; 2 for a wrong argument.
        Of the last two one line on stderr tells.
    """
    if arguments.list:
        show(_list(peers))
        return 0
    device, dtype = arguments.device, _DTYPES[arguments.dtype]
    try:
        if arguments.rounds < 1:
            raise UsageError(f"--rounds must be at least 1, got {arguments.rounds}")
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError("--device cuda: torch finds no CUDA device")
        plan = []
        for spec in _ops(ops):
            samples = _samples(spec, arguments.sample, everything, device)
            plan.append((spec, samples[:1] if quick else samples, _providers(spec, device, peers, arguments.providers)))
        for option in ("json", "png"):
            path = getattr(arguments, option)
            if path is not None and (option, path) != ("json", "-"):
                report.check_writable(path)
    except UsageError as error:
        return fail(program, str(error), 2)
    except OSError as error:
        return fail(program, f"--{option}: {error}", 2 if isinstance(error, IsADirectoryError) else 1)
    tell = say if arguments.json == "-" else show
    thorough = {"rounds": arguments.rounds, "budget": 8.0 if everything else 2.0}
    if quick:
        thorough = {"rounds": min(arguments.rounds, 5), "budget": 0.5}
    settings = Settings(**thorough, memory=bool(arguments.memory), peers=peers)
    around = environment.describe(device)
    limits = ceilings.measure(device)
    tell(report.heading(around, limits))
    rows: list[Row] = []
    for spec, samples, providers in plan:
        skipped = [] if arguments.sample or everything else [s for s in spec.tagged("bench") if s not in samples]
        if skipped:
            why = "--quick runs one sample" if quick else "they take long, --all runs them"
            tell(f"\n{spec.name}: left out {', '.join(s.name for s in skipped)}: {why}")
        for found in run(spec, samples, arguments.order, providers, limits, settings, dtype, device):
            rows += found
            tell("\n" + report.table(found))
            if arguments.json not in (None, "-"):
                try:
                    report.save(arguments.json, report.document(rows, limits, around))
                except OSError as error:
                    return fail(program, f"--json: {error}", 1)
    if arguments.json == "-":
        show(json.dumps(report.document(rows, limits, around), indent=1, allow_nan=False))
    if arguments.png is not None:
        try:
            _draw(arguments.png, report.document(rows, limits, around))
        except OSError as error:  # the numbers stand above
            return fail(program, f"--png: {error}", 1)
        tell(f"\npicture {arguments.png}")
    return int(any(row.ours and row.status in ("wrong", "failed") for row in rows))


def add_subcommand(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`gankern bench`."""
    parser = add_command(
        commands,
        "bench",
        "time the kernels against plain torch and torch.compile",
        _DESCRIPTION,
        _EPILOG,
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help="see --list; default: all")
    add_arguments(parser)
    parser.add_argument("--all", action="store_true", help="large samples too")
    parser.add_argument("--quick", action="store_true", help="the first sample of each op, in few rounds")
    parser.set_defaults(run=lambda arguments: execute(arguments, arguments.ops, arguments.all, arguments.quick))
