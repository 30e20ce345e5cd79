"""`gankern train`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankern._console import add_command, fail, positive, say, show

if TYPE_CHECKING:
    from gankern.training.plan import Plan
    from gankern.training.trainer import Trainer

_EPILOG = """\
examples:
  gankern train                                   the default recipe on digits: minutes on a laptop
  gankern train wgan-gp --data cifar10 --steps 20000 --device cuda --amp bf16
  gankern train sngan-gp --set penalty=5 --set critic_lr=1e-4
  gankern train my_recipe.py --data folder:photos@64
  gankern train --resume --out runs/wgan-gp-digits

--list shows every recipe with its settings and their defaults. With --data folder:PATH, images become
8-bit RGB: 16-bit grey levels are divided by 257, transparent pixels are laid on white.

A resumed run needs the recipe and the data that it began with: name a recipe's file to go on with it as
it is now, and data that have moved with --data. A reader of the output who leaves early (`| head`) does
not stop training. With --json --no-report, the JSON holds the run's steps, folder, seconds and last
metrics.

exit codes: 0 done; 1 training failed, or a file could not be written; 2 arguments, a recipe or data
that cannot be used; 130 stopped by Ctrl-C (once training has begun, a checkpoint is saved); 141 the
reader of the output left
"""


def add_subcommand(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`gankern train`."""
    parser = add_command(
        commands,
        "train",
        "train a GAN from a recipe, and report on it",
        "Trains a GAN from a recipe and writes samples, metrics, checkpoints and a report into a folder.",
        _EPILOG,
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a name from --list, or a Python file")
    parser.add_argument("--list", action="store_true", help="show recipes, their papers and settings, and data")
    parser.add_argument("--data", metavar="NAME", help="what to learn from (see --list); default: the recipe's")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; default: runs/RECIPE-DATA")
    parser.add_argument("--steps", type=int, metavar="N", help="generator updates; default: the recipe's")
    parser.add_argument("--batch", type=int, metavar="N", help="samples per update; default: the recipe's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...; auto: cuda if there is one")
    parser.add_argument("--amp", choices=("bf16", "fp16", "off"), help="autocast dtype; default: off")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the folder")
    parser.add_argument("--seed", type=_seed, metavar="N", help="of everything random; default: 0")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="change a recipe's setting; --list shows them with their defaults",
    )
    parser.add_argument("--save-every", type=positive, default=500, metavar="N", help="steps between checkpoints (500)")
    parser.add_argument("--no-report", action="store_true", help="train only")
    parser.add_argument("--json", action="store_true", help="print report.json, or the --list, as JSON")
    parser.set_defaults(run=execute)


def _seed(text: str) -> int:
    if not text.isdecimal() or not int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2^63 - 1, got {text}")
    return int(text)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if arguments.list:
        return _list(arguments.json)
    from gankern.models import ShapeError
    from gankern.training import CheckpointError, NonFiniteError, RecipeError, plan
    from gankern.training.data import DataError

    try:
        device = plan.device(arguments.device)
        run = plan.resumed(arguments) if arguments.resume else plan.fresh(arguments)
        return _train(arguments, run, device)
    except (RecipeError, DataError, ShapeError, plan.UsageError) as error:
        return fail("gankern train", str(error), 2)
    except (CheckpointError, NonFiniteError) as error:
        return fail("gankern train", str(error), 1)
    except OSError as error:
        return fail("gankern train", f"{error.filename or arguments.out}: {error.strerror or error}", 1)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return fail("gankern train", "not enough memory: a smaller --batch or a smaller network needs less", 1)


def _out_of_memory(error: BaseException) -> bool:
    import torch

    words = ("allocate memory", "not enough memory", "calculation overflowed", "multiplication overflow")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error) for word in words)


def _list(as_json: bool) -> int:
    from gankern.training import recipes
    from gankern.training.data import NAMES

    entries: dict[str, dict[str, Any]] = {}
    for name in recipes.names():
        recipe = recipes.find(name)
        about = (sys.modules[recipe.__module__].__doc__ or "").strip().splitlines()[0]
        entries[name] = {
            "about": about,
            "paper": recipe.paper,
            "data": recipe.data,
            "settings": recipe().settings(),
            "for_vectors": recipe.for_vectors,
        }
    if as_json:
        show(json.dumps({"recipes": entries, "data": NAMES, "default": recipes.DEFAULT}, indent=2))
        return 0
    lines = ["recipes, and what --set can change"]
    for name, entry in entries.items():
        mark = " (the default)" if name == recipes.DEFAULT else ""
        lines += [f"  {name:10} {entry['about']}{mark}", f"  {'':10} {entry['paper']}"]
        for about, settings in (("", entry["settings"]), ("for vectors: ", entry["for_vectors"])):
            text = about + " ".join(f"{key}={_text(value)}" for key, value in settings.items())
            lines += textwrap.wrap(text, 118, initial_indent=" " * 13, subsequent_indent=" " * 13) if settings else []
    lines += ["", "data", *(f"  {name:20} {about}" for name, about in NAMES.items())]
    show("\n".join(lines))
    return 0


def _text(value: Any) -> str:
    """A setting as `--set` takes it."""
    return str(value).lower() if isinstance(value, (bool, type(None))) else str(value)


def _train(arguments: argparse.Namespace, run: Plan, device: Any) -> int:
    from gankern.training import Trainer, files

    folder = run.folder
    made = files.check_writable(folder)
    trainer: Trainer | None = None
    again = f"gankern train --resume --out {shlex.quote(str(folder))}"
    try:
        trainer = Trainer(
            run.recipe,
            run.source,
            folder,
            device,
            run.amp,
            run.seed,
            max(1, min(20, run.recipe.steps // 100)),
            arguments.save_every,
            max(1, run.recipe.steps // 8),
        )
        if not _run(trainer, run):
            say(f"gankern train: stopped; step {trainer.state.step:,} is saved: {again}")
            return 130
        return _finish(arguments, trainer)
    except OSError as error:
        return fail("gankern train", f"{error.filename or folder}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        whole = trainer is not None and trainer.state.step >= run.recipe.steps
        what = "its report is made by" if whole else "it goes on from the last checkpoint with"
        say(f"gankern train: interrupted; {what}: {again}" if _saved(folder) else "gankern train: interrupted")
        return 130
    finally:
        if made is not None and (trainer is None or trainer.state.step == 0):  # it never began
            files.remove(folder, made)


def _saved(folder: Path) -> bool:
    from gankern.training.checkpoint import committed

    return bool(committed(folder / "checkpoints"))


def _run(trainer: Trainer, run: Plan) -> bool:
    """Trains; returns whether it got to the end."""
    from gankern.bench import keep_freed_memory
    from gankern.training.progress import progress, stopping

    keep_freed_memory()
    steps, count = run.recipe.steps, run.source.count
    data = run.source.name if count is None else f"{run.source.name} ({count:,} samples)"
    if run.checkpoint is not None:
        trainer.restore(run.checkpoint)
        say(f"goes on from step {trainer.state.step:,} of {steps:,} in {run.folder}, on {data}")
    else:
        say(f"trains {run.recipe.name} on {data} for {steps:,} steps on {trainer.device}, into {run.folder}")
    with stopping() as stop, progress(steps, trainer.state.step) as advance:
        finished = trainer.run(advance, stop)
    if finished:
        say(f"trained in {trainer.seconds:.1f} s")
    return finished


def _finish(arguments: argparse.Namespace, trainer: Trainer) -> int:
    """The report, and what is printed of it."""
    from gankern.training import metrics

    if not arguments.no_report:
        from gankern.training.report import write_report

        report = write_report(trainer)
        show(json.dumps(report.content, indent=1, allow_nan=False) if arguments.json else "\n".join(report.lines()))
    elif arguments.json:
        rows = metrics.read(trainer.folder / "metrics.jsonl")
        content = {
            "recipe": trainer.recipe.name,
            "data": trainer.source.name,
            "samples": trainer.source.count,
            "folder": str(trainer.folder),
            "steps": trainer.state.step,
            "seconds": trainer.seconds,
            "metrics": rows[-1] if rows else None,
        }
        show(json.dumps(content, indent=1))
    return 0
