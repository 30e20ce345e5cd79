"""`gankern train --resume`: the same recipe, the same data, the same settings, or one line that says what differs."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from gankern import cli
from gankern.training import checkpoint, recipes
from gankern.training.data import open_source

OPTIONS = ["--no-report", "--save-every", "2"]


def _train(*arguments) -> int:
    return cli.main(["train", *map(str, arguments)])


def _tensors(folder) -> dict:
    return checkpoint.newest(folder / "checkpoints")[0].tensors


def _same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


def _identity(folder) -> dict:
    return checkpoint.newest(folder / "checkpoints")[0].record["identity"]


def _error(capsys) -> str:
    error = capsys.readouterr().err
    assert error.startswith("gankern train: error: "), error
    assert error.count("\n") == 1, error
    return error


def _own_wgan(path: Path, clip: str = "0.5") -> Path:
    """The built-in recipe under a name of its own, or the same."""
    text = Path(inspect.getfile(recipes.find("wgan"))).read_text()
    path.write_text(text.replace("clip: float = 0.01", f"clip: float = {clip}"))
    return path


def _edit(folder, change) -> None:
    """Changes the newest checkpoint's JSON, in the format before it had a checksum of its own."""
    path = checkpoint.committed(folder / "checkpoints")[0]
    record = json.loads(path.read_text())
    del record["content_sha256"]
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("name", ["wgan.py", "my-recipe.py"])
def test_a_recipe_from_a_file_is_resumed_bit_identically(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    _own_wgan(tmp_path / name)
    options = [*OPTIONS, "--data", "ring8"]
    assert _train(name, *options, "--steps", 6, "--out", "whole") == 0
    assert _train(name, *options, "--steps", 3, "--out", "cut") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert _train("--resume", *OPTIONS, "--steps", 6, "--out", tmp_path / "cut") == 0
    assert _same(_tensors(tmp_path / "whole"), _tensors(tmp_path / "cut"))
    critic = [t for k, t in _tensors(tmp_path / "cut").items() if k.startswith("critic.")]
    assert max(t.abs().max() for t in critic) > 0.01  # the built-in recipe's clip
    assert _identity(tmp_path / "cut")["recipe_file"]["file"] == str(tmp_path / name)


def test_a_changed_recipe_file_is_refused_until_it_is_named(tmp_path, capsys):
    file = _own_wgan(tmp_path / "mine.py")
    assert _train(file, *OPTIONS, "--data", "ring8", "--steps", 1, "--out", tmp_path / "run") == 0
    file.write_text(file.read_text() + "# another line\n")
    resume = ["--resume", *OPTIONS, "--steps", 2, "--out", tmp_path / "run"]
    capsys.readouterr()
    assert _train(*resume) == 2
    hint = f"gankern train {file} --resume --out {tmp_path / 'run'}"
    assert _error(capsys).rstrip().endswith(hint)
    assert _train(file, *resume) == 0
    assert "is not the text that the run began with" in capsys.readouterr().err
    assert _train(*resume[:-3], 3, *resume[-2:]) == 0  # the checkpoint now knows the new text
    capsys.readouterr()
    file.unlink()
    assert _train(*resume) == 2
    assert f"is not at {file} any more" in _error(capsys)


def test_a_file_and_a_built_in_recipe_of_one_name_are_told_apart(tmp_path, capsys):
    file = _own_wgan(tmp_path / "wgan.py")
    for recipe, out, other, message in [
        (file, "a", "wgan", f"holds a run of {file}, not of the built-in recipe wgan"),
        ("wgan", "b", file, f"holds a run of the built-in recipe wgan, not of {file}"),
    ]:
        out = tmp_path / out
        assert _train(recipe, *OPTIONS, "--data", "ring8", "--steps", 1, "--out", out) == 0
        capsys.readouterr()
        assert _train(other, "--resume", *OPTIONS, "--steps", 2, "--out", out) == 2
        assert message in _error(capsys)


def test_checkpoints_from_before_these_fields_still_load(tmp_path, capsys):
    options = [*OPTIONS, "--out", tmp_path]
    assert _train("wgan", *options, "--data", "ring8", "--steps", 2) == 0

    def older(record):
        for key in ("recipe_file", "fingerprint", "samples"):
            del record["identity"][key]

    _edit(tmp_path, older)
    assert _train("--resume", *options, "--steps", 3) == 0
    assert _train("wgan", "--resume", *options, "--steps", 4) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["identity"].update(settings="x"),
        lambda record: record["identity"].update(data=5),
        lambda record: record["identity"].update(seed="0"),
        lambda record: record["identity"].update(amp="fp64"),
        lambda record: record["identity"].update(recipe_file="x.py"),
        lambda record: record["identity"]["settings"].update(batch="many"),
        lambda record: record["identity"]["settings"].update(clip=-1),
        lambda record: record.update(data=5),
        lambda record: record.update(critic_optimizer=[]),
        lambda record: record.update(identity=[]),
    ],
)
def test_a_checkpoint_with_wrong_content_is_one_line(tmp_path, capsys, change):
    assert _train("wgan", *OPTIONS, "--data", "ring8", "--steps", 1, "--out", tmp_path) == 0
    _edit(tmp_path, change)
    capsys.readouterr()
    assert _train("--resume", *OPTIONS, "--steps", 2, "--out", tmp_path) in (1, 2)
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("gankern train: error: ")
    assert len(error) == 1 or error[0].startswith("goes on")


def test_a_changed_byte_in_a_checkpoints_json_is_damage(tmp_path, capsys):
    assert _train("wgan", *OPTIONS, "--data", "ring8", "--steps", 4, "--out", tmp_path) == 0
    path = checkpoint.committed(tmp_path / "checkpoints")[0]
    path.write_text(path.read_text().replace('"clip": 0.01', '"clip": 0.02'))
    found, faults = checkpoint.newest(tmp_path / "checkpoints")
    assert found.step == 2
    assert "damaged" in faults[0]


def test_a_broken_byte_in_the_metrics_is_survived(tmp_path):
    assert _train("wgan", *OPTIONS, "--data", "ring8", "--steps", 3, "--out", tmp_path) == 0
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\xff\xfe{" + lines[1] + lines[2])
    assert _train("--resume", *OPTIONS, "--steps", 4, "--out", tmp_path) == 0
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3, 4]


def _archive(path, seed: int) -> Path:
    np.savez(path, np.random.default_rng(seed).random((20, 3)).astype(np.float32))
    return path


def test_changed_data_are_refused(tmp_path, capsys):
    _archive(tmp_path / "x.npz", 0)
    options = [*OPTIONS, "--out", tmp_path / "run"]
    assert _train("wgan", "--data", f"npz:{tmp_path / 'x.npz'}", *options, "--steps", 2) == 0
    _archive(tmp_path / "x.npz", 1)
    before = _tensors(tmp_path / "run")
    capsys.readouterr()
    assert _train("--resume", *options, "--steps", 4) == 1
    assert f"npz:{tmp_path / 'x.npz'} has changed since step 2" in _error(capsys)
    assert _same(before, _tensors(tmp_path / "run"))


def test_data_are_found_from_another_folder_and_after_a_move(tmp_path, monkeypatch, capsys):
    _archive(tmp_path / "x.npz", 0)
    monkeypatch.chdir(tmp_path)
    assert _train("wgan", "--data", "npz:x.npz", *OPTIONS, "--out", "run", "--steps", 2) == 0
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert _train("--resume", *OPTIONS, "--out", "../run", "--steps", 3) == 0
    shutil.move(tmp_path / "x.npz", tmp_path / "below" / "y.npz")
    assert _train("--resume", "--data", "npz:y.npz", *OPTIONS, "--out", "../run", "--steps", 4) == 0
    assert _identity(tmp_path / "run")["data"] == f"npz:{tmp_path / 'below' / 'y.npz'}"


def test_origins_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _archive(tmp_path / "x.npz", 0)
    assert open_source("npz:x.npz").origin == f"npz:{tmp_path / 'x.npz'}"
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    (folder / "data_batch_1.bin").write_bytes(bytes(3 * 3073))
    source = open_source("cifar10")
    assert source.origin == f"cifar10:{folder}"
    assert source.count == 3
    assert open_source(source.origin).fingerprint() == source.fingerprint()
    assert open_source("ring8").origin == "ring8"


def test_fingerprints_tell_rows_and_types_apart(monkeypatch):
    import torch

    from gankern.training.data import Source, source

    rows = torch.arange(600, dtype=torch.float32).reshape(300, 2)

    def fingerprint(rows):
        return Source("x", (2,), rows=rows).fingerprint()

    other = rows.clone()
    other[-1, -1] += 1
    found = {fingerprint(r) for r in (rows, other, rows[:-1], rows.byte(), rows.reshape(150, 4))}
    assert len(found) == 5
    assert fingerprint(rows.t().contiguous().t()) == fingerprint(rows)
    monkeypatch.setattr(source, "_HASHED", 100)  # large data: a part of the rows
    assert fingerprint(rows) != fingerprint(rows + 1)
    assert open_source("ring8").fingerprint() != open_source("grid25").fingerprint()


def test_the_number_of_samples_is_said_and_kept(tmp_path, capsys):
    _archive(tmp_path / "x.npz", 0)
    options = [*OPTIONS, "--json", "--out", tmp_path / "run"]
    assert _train("wgan", "--data", f"npz:{tmp_path / 'x.npz'}", *options, "--steps", 1) == 0
    printed = capsys.readouterr()
    assert "trains wgan on npz:x.npz (20 samples) for 1 steps" in printed.err
    content = json.loads(printed.out)
    assert (content["samples"], content["steps"], content["folder"]) == (20, 1, os.fspath(tmp_path / "run"))
    assert content["metrics"]["step"] == 1
    assert content["seconds"] > 0
    assert _identity(tmp_path / "run")["samples"] == 20
