"""What a run sends to TensorBoard."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from gankern.training import Trainer, recipes
from gankern.training.data import open_source


class _Writer:
    """Remembers what `torch.utils.tensorboard.SummaryWriter` would write."""

    made: list[_Writer]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: dict[str, dict[int, float]] = {}
        self.images: dict[str, dict[int, np.ndarray]] = {}
        type(self).made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.setdefault(name, {})[step] = value

    def add_image(self, name, picture, step, dataformats):
        assert dataformats == "HWC"
        self.images.setdefault(name, {})[step] = picture

    def close(self):
        self.closed = True


NAMES = {
    *("critic/hinge", "critic/penalty", "critic/loss", "critic/gradient"),
    *("generator/hinge", "generator/loss", "generator/gradient", "seconds"),
}


def _train(folder, steps: int, data: str = "digits", restored: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    recipe = recipes.find("sngan-gp")()
    for key, value in {"steps": steps, "batch": 8, "latent": 4, "width": 4, "kernels": 3}.items():
        setattr(recipe, key, value)
    trainer = Trainer(recipe, open_source(data), folder, log_every=2, sheet_every=4)
    if restored:
        trainer.state.step = 4
    assert trainer.run()


@pytest.mark.parametrize(("data", "shape"), [("digits", (405, 405, 3)), ("ring8", (512, 512, 3))])
def test_scalars_and_sheets_with_their_steps(tmp_path, monkeypatch, data, shape):
    _Writer.made = []
    fake = types.SimpleNamespace(SummaryWriter=_Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    _train(tmp_path, 6, data)
    (board,) = _Writer.made
    assert board.folder == str(tmp_path / "tensorboard")
    assert board.purge_step == 1
    assert board.closed
    assert board.scalars.keys() == NAMES
    assert all(list(values) == [2, 4, 6] for values in board.scalars.values())
    assert all(isinstance(value, float) for values in board.scalars.values() for value in values.values())
    assert list(board.images) == ["samples"]
    assert list(board.images["samples"]) == [0, 4, 6]
    for picture in board.images["samples"].values():
        assert picture.dtype == np.uint8
        assert picture.shape == shape


def test_a_resumed_run_replaces_what_came_after_its_step(tmp_path, monkeypatch):
    _Writer.made = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=_Writer))
    _train(tmp_path, 6, restored=True)
    assert _Writer.made[0].purge_step == 5


def test_a_run_without_tensorboard_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    _train(tmp_path, 2)
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_reads_it(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _train(tmp_path, 6)
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == NAMES
    assert [event.step for event in found.Scalars("critic/loss")] == [2, 4, 6]
    assert [event.step for event in found.Images("samples")] == [0, 4, 6]
