"""The `gankern` command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from gankern import _interrupt
from gankern._console import guard, say, show
from gankern._info import info
from gankern._version import __version__
from gankern.bench import command as bench
from gankern.diagnostics import command as birthday
from gankern.training import command as train


def _print_info(arguments: argparse.Namespace) -> int:
    report = info()
    if arguments.json:
        show(json.dumps(report, indent=2))
        return 0
    show("\n".join(_table(report)))
    for warning in report["warnings"]:
        say(f"warning: {warning}")
    return 0


def _table(report: dict[str, Any]) -> list[str]:
    keys = ("gankern", "python", "platform", "torch", "triton", "numpy", "cuda")
    lines = [f"{key:10} {report[key] if report[key] is not None else '-'}" for key in keys]
    for device in report["devices"]:
        details = ", ".join(f"{k} {v}" for k, v in device.items() if k not in ("device", "isa_supported") and v)
        lines.append(f"{device['device']:10} {details}")
    lines.append("")
    for name, entry in report["backends"].items():
        lines.append(f"{name:10} {'available' if entry['available'] else 'absent: ' + entry['reason']}")
    lines.append("")
    for name, entry in report["ops"].items():
        lines.append(
            f"{name:16} cpu: {entry['cpu'] or '-'}, cuda: {entry['cuda']}, kernels: {', '.join(entry['backends'])}"
        )
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gankern", description="A low-level, kernel-optimised GAN toolkit for PyTorch.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"gankern {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    show = commands.add_parser("info", help="versions, devices, backends, and why one is absent", allow_abbrev=False)
    show.add_argument("--json", action="store_true", help="print one JSON object")
    show.set_defaults(run=_print_info)

    train.add_subcommand(commands)
    birthday.add_subcommand(commands)
    bench.add_subcommand(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 141 the reader left."""
    _interrupt.imported()

    def body() -> int:
        arguments = _parser().parse_args(argv)
        return int(arguments.run(arguments))

    return guard("gankern", body)


if __name__ == "__main__":
    sys.exit(main())
