"""The command line that `gankern bench` and `python -m benchmarks.run` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from gankern.backend import discover
from gankern.bench import ceilings, environment, report
from gankern.bench.providers import Provider, all_providers
from gankern.bench.runner import Row, Settings, run
from gankern.bench.workload import ORDERS
from gankern.ops._samples import OpSpec, Sample

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: Without --all, samples whose backward takes more lane instructions than this are left out: a table in a minute.
_LARGE = 10**9


class UsageError(Exception):
    """A wrong argument; the message is one line that names what is known."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options; the ops themselves are the caller's."""
    parser.add_argument(
        "--order", nargs="+", choices=list(ORDERS), default=["bwd"], help="fwd, bwd (with it: the default), double"
    )
    parser.add_argument("--sample", nargs="+", metavar="NAME", help="named inputs of the op; default: its bench sizes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=list(_DTYPES), default="float32")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each provider (default 30)")
    parser.add_argument("--providers", help="comma-separated names; default: all")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, help="measure peak memory too")
    parser.add_argument("--json", metavar="FILE", help="write a result file")
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


def _check_writable(option: str, path: str) -> None:
    try:
        report.check_writable(path)
    except OSError as error:
        raise UsageError(f"--{option}: {error}") from None


def _draw(path: str, content: dict[str, Any]) -> None:
    from gankern.bench.picture import plot

    try:
        plot(content, path)
        print(f"\npicture {path}")
    except (OSError, ValueError) as error:  # the numbers stand above
        print(f"error: --png: {error}", file=sys.stderr)


def execute(
    arguments: argparse.Namespace, ops: Sequence[str], everything: bool, quick: bool = False, peers: str | None = None
) -> int:
    """Runs the benchmarks.

    Args:
        arguments: as `add_arguments` parsed them.
        ops: their names; empty for all.
        everything: whether large samples run without being named.
        quick: the first sample of each op, in few rounds.
        peers: the package with more providers.

    Returns:
        0; 1 if one of gankern's own rows is wrong or failed; 2 for a wrong argument, with one line on stderr.
    """
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
            if getattr(arguments, option) is not None:
                _check_writable(option, getattr(arguments, option))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    thorough = {"rounds": arguments.rounds, "budget": 8.0 if everything else 2.0}
    if quick:
        thorough = {"rounds": min(arguments.rounds, 5), "budget": 0.5}
    settings = Settings(**thorough, memory=bool(arguments.memory), peers=peers)
    around = environment.describe(device)
    limits = ceilings.measure(device)
    print(report.heading(around, limits), flush=True)
    rows: list[Row] = []
    for spec, samples, providers in plan:
        skipped = [] if arguments.sample or everything else [s for s in spec.tagged("bench") if s not in samples]
        if skipped:
            why = "--quick runs one sample" if quick else "they take long, --all runs them"
            print(f"\n{spec.name}: left out {', '.join(s.name for s in skipped)}: {why}")
        for found in run(spec, samples, arguments.order, providers, limits, settings, dtype, device):
            rows += found
            print("\n" + report.table(found), flush=True)
            if arguments.json is not None:
                report.save(arguments.json, report.document(rows, limits, around))
    if arguments.png is not None:
        _draw(arguments.png, report.document(rows, limits, around))
    return int(any(row.ours and row.status in ("wrong", "failed") for row in rows))


def add_subcommand(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`gankern bench`."""
    about = "time the kernels against plain torch and torch.compile"
    parser = commands.add_parser("bench", help=about, allow_abbrev=False)
    parser.add_argument("ops", nargs="*", metavar="OP", help="default: all")
    add_arguments(parser)
    parser.add_argument("--all", action="store_true", help="large samples too")
    parser.add_argument("--quick", action="store_true", help="the first sample of each op, in few rounds")
    parser.set_defaults(run=lambda arguments: execute(arguments, arguments.ops, arguments.all, arguments.quick))
