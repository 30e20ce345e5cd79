"""`python -m benchmarks.run`: all providers of an op, peers from other packages included, and a result file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gankern.bench import ORDERS, command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__, allow_abbrev=False)
    parser.add_argument("--op", action="append", default=[], metavar="OP", help="default: all; may be repeated")
    command.add_arguments(parser)
    parser.set_defaults(memory=True, order=list(ORDERS))
    arguments = parser.parse_args(argv)
    return command.execute(arguments, arguments.op, everything=True, peers="benchmarks.providers")


if __name__ == "__main__":
    sys.exit(main())
