"""`gankern train`."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_RUNS = Path("runs")
_EPILOG = """\
examples:
  gankern train                                   the default recipe on digits: minutes on a laptop
  gankern train wgan-gp --data cifar10 --steps 20000 --device cuda --amp bf16
  gankern train sngan-gp --set penalty=5 --set critic_lr=1e-4
  gankern train my_recipe.py --data folder:photos@64
  gankern train --resume --out runs/wgan-gp-digits

exit codes: 0 done; 1 training or a file failed; 2 wrong usage; 130 stopped by Ctrl-C (a checkpoint is saved)
"""


def add_subcommand(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`gankern train`."""
    parser = commands.add_parser(
        "train",
        help="train a GAN from a recipe, and report on it",
        description="Trains a GAN from a recipe and writes samples, metrics, checkpoints and a report into a folder.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a name from --list, or a Python file")
    parser.add_argument("--list", action="store_true", help="show recipes, their papers, and data")
    parser.add_argument("--data", metavar="NAME", help="what to learn from (see --list); default: the recipe's")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; default: runs/RECIPE-DATA")
    parser.add_argument("--steps", type=int, metavar="N", help="generator updates; default: the recipe's")
    parser.add_argument("--batch", type=int, metavar="N", help="samples per update; default: the recipe's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...; auto: cuda if there is one")
    parser.add_argument("--amp", choices=("bf16", "fp16", "off"), help="autocast dtype; default: off")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the folder")
    parser.add_argument("--seed", type=int, metavar="N", help="of everything random; default: 0")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help="change a recipe's setting"
    )
    parser.add_argument(
        "--save-every", type=_positive, default=500, metavar="N", help="steps between checkpoints (500)"
    )
    parser.add_argument("--no-report", action="store_true", help="train only")
    parser.add_argument("--json", action="store_true", help="print report.json (or the --list) as JSON")
    parser.set_defaults(run=execute)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
    return value


class _UsageError(Exception):
    pass


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if arguments.list:
        return _list(arguments.json)
    from gankern.models import ShapeError
    from gankern.training import CheckpointError, NonFiniteError, RecipeError
    from gankern.training.data import DataError

    folder: list[Path] = []
    try:
        return _train(arguments, folder)
    except (RecipeError, DataError, ShapeError, _UsageError) as error:
        return _fail(str(error), 2)
    except (CheckpointError, NonFiniteError) as error:
        return _fail(str(error), 1)
    except OSError as error:
        where = error.filename or (folder[0] if folder else arguments.out)
        return _fail(f"{where}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted; what was saved stays", 130)


def _fail(message: str, code: int) -> int:
    print(f"gankern train: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _list(as_json: bool) -> int:
    from gankern.training import recipes
    from gankern.training.data import NAMES

    entries = {}
    for name in recipes.names():
        recipe = recipes.find(name)
        about = (sys.modules[recipe.__module__].__doc__ or "").strip().splitlines()[0]
        entries[name] = {"about": about, "paper": recipe.paper, "data": recipe.data, "settings": recipe().settings()}
    if as_json:
        print(json.dumps({"recipes": entries, "data": NAMES, "default": recipes.DEFAULT}, indent=2))
        return 0
    print("recipes")
    for name, entry in entries.items():
        mark = " (the default)" if name == recipes.DEFAULT else ""
        print(f"  {name:10} {entry['about']}{mark}\n  {'':10} {entry['paper']}")
    print("\ndata")
    for name, about in NAMES.items():
        print(f"  {name:20} {about}")
    return 0


def _train(arguments: argparse.Namespace, place: list[Path]) -> int:
    from gankern.bench import keep_freed_memory
    from gankern.training import Trainer, files
    from gankern.training.checkpoint import committed
    from gankern.training.report import write_report

    device = _device(arguments.device)
    run = _resumed(arguments) if arguments.resume else _fresh(arguments)
    folder = run["folder"]
    place.append(folder)
    recipe, source = run["recipe"], run["source"]
    recipe.check()
    files.check_writable(folder)
    if not arguments.resume and committed(folder / "checkpoints"):
        raise _UsageError(f"{folder} holds a run already: --resume goes on with it, another --out starts anew")
    sheet_every = max(1, recipe.steps // 8)
    keep_freed_memory()
    trainer = Trainer(
        recipe,
        source,
        folder,
        device,
        run["amp"],
        run["seed"],
        _log_every(recipe.steps),
        arguments.save_every,
        sheet_every,
    )
    if run["checkpoint"] is not None:
        trainer.restore(run["checkpoint"])
        _say(f"goes on from step {trainer.state.step:,} of {recipe.steps:,} in {folder}")
    else:
        _say(f"trains {recipe.name} on {source.name} for {recipe.steps:,} steps on {device}, into {folder}")
    with _stopping() as stop, _progress(recipe.steps, trainer.state.step) as progress:
        finished = trainer.run(progress, stop)
    if not finished:
        return _fail(f"stopped; step {trainer.state.step:,} is saved: gankern train --resume --out {folder}", 130)
    _say(f"trained in {trainer.seconds:.1f} s")
    if arguments.no_report:
        return 0
    report = write_report(trainer)
    print(json.dumps(report.content, indent=1, allow_nan=False) if arguments.json else "\n".join(report.lines()))
    return 0


def _log_every(steps: int) -> int:
    return max(1, min(20, steps // 100))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise _UsageError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def _fresh(arguments: argparse.Namespace) -> dict[str, Any]:
    """A new run, as the options say."""
    from gankern.training import recipes
    from gankern.training.data import open_source

    kind = recipes.find(arguments.recipe or recipes.DEFAULT)
    source = open_source(arguments.data or kind.data)
    recipe = kind.suited(source.shape)
    for change in arguments.changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise _UsageError(f"--set {change}: expected KEY=VALUE")
        recipe.change(key, value)
    for key in ("steps", "batch"):
        if getattr(arguments, key) is not None:
            setattr(recipe, key, getattr(arguments, key))
    return {
        "recipe": recipe,
        "source": source,
        "folder": arguments.out or _free(recipe.name, source.name),
        "amp": arguments.amp or "off",
        "seed": arguments.seed or 0,
        "checkpoint": None,
    }


def _folders(recipe: str, source: str) -> Iterator[Path]:
    """runs/RECIPE-DATA, runs/RECIPE-DATA-2, ..."""
    name = f"{recipe}-{''.join(c if c.isalnum() or c in '-_.' else '-' for c in source)}"
    yield _RUNS / name
    number = 2
    while True:
        yield _RUNS / f"{name}-{number}"
        number += 1


def _free(recipe: str, source: str) -> Path:
    return next(folder for folder in _folders(recipe, source) if not folder.exists())


def _resumed(arguments: argparse.Namespace) -> dict[str, Any]:
    """The run in a folder, as its newest good checkpoint says."""
    from gankern.training import CheckpointError, checkpoint, recipes
    from gankern.training.data import open_source

    folder = arguments.out or _latest(arguments)
    found, faults = checkpoint.newest(folder / "checkpoints")
    for fault in faults:
        _say(f"warning: {fault}; an older checkpoint is used")
    run = found.record.get("identity")
    if not isinstance(run, dict) or not {"recipe", "settings", "data", "amp", "seed"} <= run.keys():
        raise CheckpointError(f"{folder}: its checkpoint does not say which run it is of")
    own = recipes.find(arguments.recipe)() if arguments.recipe else None
    if own is not None and own.name != run["recipe"]:
        raise _UsageError(f"{folder} holds a run of recipe {run['recipe']}, not of {own.name}")
    for option, given in (("data", arguments.data), ("amp", arguments.amp), ("seed", arguments.seed)):
        if given is not None and given != run[option]:
            raise _UsageError(f"{folder} holds a run with --{option} {run[option]}, not {given}")
    if arguments.changes or arguments.batch not in (None, run["settings"].get("batch")):
        raise _UsageError("a resumed run keeps its settings: only --steps can change")
    recipe = own or recipes.find(run["recipe"])()
    unknown = run["settings"].keys() ^ recipe.settings().keys()
    if unknown:
        raise CheckpointError(f"{folder}: recipe {recipe.name} has changed since: {', '.join(sorted(unknown))}")
    for key, value in run["settings"].items():
        setattr(recipe, key, value)
    if arguments.steps is not None:
        recipe.steps = arguments.steps
    return {
        "recipe": recipe,
        "source": open_source(run["data"]),
        "folder": folder,
        "amp": run["amp"],
        "seed": run["seed"],
        "checkpoint": found,
    }


def _latest(arguments: argparse.Namespace) -> Path:
    """The last of the folders that runs without --out go to."""
    from gankern.training import recipes
    from gankern.training.data import open_source

    recipe = recipes.find(arguments.recipe or recipes.DEFAULT)()
    source = open_source(arguments.data or recipe.data)
    latest: Path | None = None
    for folder in _folders(recipe.name, source.name):
        if not folder.exists():
            break
        latest = folder
    if latest is None:
        raise _UsageError(f"no run of {recipe.name} on {source.name} in {_RUNS}: name its folder with --out")
    return latest


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for an orderly stop; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress(steps: int, start: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on a terminal, else ten lines."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=steps, initial=start, unit="step", file=sys.stderr, dynamic_ncols=True) as bar:

            def advance(row: dict[str, Any]) -> None:
                if row["step"] % 10 == 0 or row["step"] == steps:
                    bar.set_postfix_str(_losses(row), refresh=False)
                bar.update()

            yield advance
        return
    began = time.perf_counter()

    def line(row: dict[str, Any]) -> None:
        done = row["step"] - start
        if row["step"] % max(1, steps // 10) == 0 or row["step"] == steps:
            rate = done / (time.perf_counter() - began)
            _say(f"step {row['step']:>7,} of {steps:,}   {_losses(row)}   {rate:.1f} steps/s")

    yield line


def _losses(row: dict[str, Any]) -> str:
    losses = {player: row[f"{player}.loss"] for player in ("critic", "generator")}
    return "  ".join(f"{player} {'overflow' if x is None else f'{x:+.3f}'}" for player, x in losses.items())
