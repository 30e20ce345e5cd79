"""The `gankern` command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from gankern._info import info
from gankern._version import __version__
from gankern.bench import command as bench
from gankern.diagnostics import command as birthday
from gankern.training import command as train


def _print_info(arguments: argparse.Namespace) -> int:
    report = info()
    if arguments.json:
        print(json.dumps(report, indent=2))
        return 0
    _print_table(report)
    return 0


def _print_table(report: dict[str, Any]) -> None:
    for key in ("gankern", "python", "platform", "torch", "triton", "numpy", "cuda"):
        print(f"{key:10} {report[key] if report[key] is not None else '-'}")
    for device in report["devices"]:
        details = ", ".join(f"{k} {v}" for k, v in device.items() if k not in ("device", "isa_supported") and v)
        print(f"{device['device']:10} {details}")
    print()
    for name, entry in report["backends"].items():
        print(f"{name:10} {'available' if entry['available'] else 'absent: ' + entry['reason']}")
    print()
    for name, entry in report["ops"].items():
        print(f"{name:16} cpu: {entry['cpu'] or '-'}, cuda: {entry['cuda']}, kernels: {', '.join(entry['backends'])}")
    for warning in report["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)


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
    """Runs one command; returns the exit code (0 done, 1 failed, 2 wrong usage)."""
    arguments = _parser().parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
