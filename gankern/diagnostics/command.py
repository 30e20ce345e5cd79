"""`gankern birthday`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


def add_subcommand(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`gankern birthday`."""
    parser = commands.add_parser("birthday", help="how many different images a generator makes, from near-duplicates")
    parser.add_argument("samples", type=Path, metavar="SAMPLES", help=".npz with arr_0, .npy, or a folder of images")
    parser.add_argument("--reference", type=Path, metavar="REAL", help="real data in the same form: sets the threshold")
    parser.add_argument("--k", type=_positive, default=20, help="closest pairs to show (default 20)")
    parser.add_argument("--threshold", type=_threshold, default="auto", metavar="auto|X", help="distance of duplicates")
    parser.add_argument("--out", type=Path, default=Path("birthday"), metavar="DIR", help="default: birthday")
    parser.add_argument("--json", action="store_true", help="print report.json instead of a summary")
    parser.set_defaults(run=execute)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
    return value


def _threshold(text: str) -> float | str:
    if text == "auto":
        return text
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected auto or a distance of 0 or more, got {text}")
    return value


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal, which starts anew for each search."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=1, unit="pair", unit_scale=True, leave=False, desc="closest pairs", file=sys.stderr) as bar:

        def report(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield report


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from gankern.diagnostics.birthday import birthday_test
    from gankern.diagnostics.inputs import InputError, load_samples
    from gankern.diagnostics.report import as_json, summary, write_report

    try:
        samples = load_samples(arguments.samples)
        reference = None if arguments.reference is None else load_samples(arguments.reference)
        with _bar() as report:
            result = birthday_test(samples, reference, threshold=arguments.threshold, k=arguments.k, progress=report)
        written = write_report(arguments.out, samples, result, arguments.samples.name)
    except InputError as error:
        return _fail(str(error))
    except (ValueError, TypeError) as error:
        about_reference = "reference" in str(error) and arguments.reference is not None
        return _fail(f"{arguments.reference if about_reference else arguments.samples}: {error}")
    except OSError as error:
        return _fail(f"{error.filename or arguments.out}: {error.strerror or error}")
    except MemoryError:
        return _fail(f"{arguments.samples}: does not fit in memory (an .npy file is read in place)")
    if arguments.json:
        print(json.dumps(as_json(result, arguments.samples.name), indent=2, allow_nan=False))
        return 0
    print("\n".join(summary(result)))
    print(f"report        {next(path for path in written if path.suffix == '.html')}")
    return 0


def _fail(message: str) -> int:
    print(f"gankern birthday: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
