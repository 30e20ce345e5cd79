"""`gankern birthday`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from gankern._console import add_command, fail, positive, show

_DESCRIPTION = """\
Counts near-duplicates among a generator's samples: by the birthday paradox, s samples hold one with
even odds where about s^2 different outputs exist (Arora and Zhang 2017). The search is exact. Writes
report.html, report.json and two pictures.
"""
_EPILOG = """\
--threshold auto: with --reference, two samples are duplicates if they are closer than any two of an
equal number of real ones; without it, if they are closer than a tenth of the median distance, a rule
of thumb that the report names as such. Distances are Euclidean, over all values of two samples as
they are stored (0 to 255 for images in a folder).

Images in a folder become 8-bit RGB: 16-bit grey levels are divided by 257, transparent pixels are
laid on white.

examples:
  gankern birthday samples.npz
  gankern birthday generated/ --reference photos/ --out report
  gankern birthday samples.npy --threshold 12.5 --k 50 --json

exit codes: 0 done; 1 the report could not be written, or memory ran out; 2 arguments or samples that
cannot be used; 130 Ctrl-C; 141 the reader of the output left
"""


def add_subcommand(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`gankern birthday`."""
    parser = add_command(
        commands,
        "birthday",
        "how many different images a generator makes, from near-duplicates",
        _DESCRIPTION,
        _EPILOG,
    )
    parser.add_argument(
        "samples", type=Path, metavar="SAMPLES", help=".npz with arr_0, .npy, or a folder of images of one size"
    )
    parser.add_argument("--reference", type=Path, metavar="REAL", help="real data in the same form: sets the threshold")
    parser.add_argument("--k", type=positive, default=20, help="closest pairs to show (default 20)")
    parser.add_argument(
        "--threshold",
        type=_threshold,
        default="auto",
        metavar="auto|X",
        help="the largest distance of two duplicates; default: auto, see below",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("birthday"), metavar="DIR", help="for the report; default: birthday"
    )
    parser.add_argument("--json", action="store_true", help="print report.json instead of a summary")
    parser.set_defaults(run=execute)


def _threshold(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
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
        return _fail(f"{error.filename or arguments.out}: {error.strerror or error}", 1)
    except MemoryError:
        return _fail(f"{arguments.samples}: does not fit in memory (an .npy file is read in place)", 1)
    if arguments.json:
        show(json.dumps(as_json(result, arguments.samples.name), indent=2, allow_nan=False))
        return 0
    page = next(path for path in written if path.suffix == ".html")
    show("\n".join([*summary(result), f"report        {page}"]))
    return 0


def _fail(message: str, code: int = 2) -> int:
    return fail("gankern birthday", message, code)
