"""`python -m benchmarks.run`: all providers of an op, peers from other packages included, and a result file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gankern._console import guard
from gankern.bench import ORDERS, command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__, allow_abbrev=False)
    parser.add_argument("--op", action="append", default=[], metavar="OP", help="default: all; may be repeated")
    command.add_arguments(parser)
    parser.set_defaults(memory=True, order=list(ORDERS))
    arguments = parser.parse_args(argv)
    peers, program = "benchmarks.providers", "benchmarks.run"
    return guard(program, lambda: command.execute(arguments, arguments.op, True, peers=peers, program=program))


if __name__ == "__main__":
    sys.exit(main())
