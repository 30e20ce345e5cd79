"""`python -m benchmarks.plot RESULT.json [-o PNG]`: a picture of a result file, from nothing but the file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gankern.bench import load
from gankern.bench.picture import plot


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__, allow_abbrev=False)
    parser.add_argument("result", metavar="RESULT.json")
    parser.add_argument("-o", "--output", metavar="PNG", help="default: beside the result file")
    arguments = parser.parse_args(argv)
    try:
        content = load(arguments.result)
        plot(content, arguments.output or Path(arguments.result).with_suffix(".png"))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
