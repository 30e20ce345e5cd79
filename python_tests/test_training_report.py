"""The report: only what a run used, under names that are true, in pictures that show it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import gankern as gk
from gankern.diagnostics import birthday_test
from gankern.diagnostics import report as birthday_report
from gankern.training import Recipe, Trainer, recipes
from gankern.training.data import open_source
from gankern.training.report import figures, kernels, page, write, write_report
from gankern.training.report.kernels import KernelTime


@pytest.fixture
def quick(monkeypatch):
    """Times that are worth little, soon."""
    monkeypatch.setattr(kernels, "_ROUNDS", 1)
    monkeypatch.setattr(kernels, "_BUDGET", 0.001)


@pytest.fixture
def drawn(monkeypatch):
    """The figures behind the pictures."""
    found = []
    for module in (figures, birthday_report):
        png = module._png
        monkeypatch.setattr(module, "_png", lambda figure, png=png: found.append(figure) or png(figure))
    return found


def _trainer(folder, name: str | Recipe, data: str = "ring8", **changes) -> Trainer:
    source = open_source(data)
    recipe = recipes.find(name).suited(source.shape) if isinstance(name, str) else name
    for key, value in {"steps": 3, "batch": 8, **changes}.items():
        setattr(recipe, key, value)
    folder.mkdir(exist_ok=True)
    return Trainer(recipe, source, folder, log_every=1, sheet_every=1)


@dataclass
class Penalised(Recipe):
    """Calls the penalty as its user may."""

    kind: str = "r1"

    def networks(self, shape):
        return gk.models.MLPGenerator(shape, self.latent), gk.models.MLPCritic(shape)

    def critic_terms(self, critic, real, fake, step):
        terms = {"score": critic(fake).mean() - critic(real).mean()}
        if self.kind:
            rng = step.rng
            terms["penalty"] = gk.gradient_penalty(
                critic, real, fake, kind=self.kind, weight=3, target=0.5, generator=rng, every=4, step=step.number
            )
        return terms

    def generator_terms(self, critic, fake, step):
        return {"score": -critic(fake).mean()}


def _table(folder, recipe, data="ring8") -> dict[str, str]:
    trainer = _trainer(folder, recipe, data)
    samples = trainer.source.sample(64)
    training = samples if trainer.source.rows is not None else None
    return {entry.kernel: entry.work for entry in kernels.measure(trainer, samples, training)}


@pytest.mark.parametrize(
    ("name", "data", "used"),
    [
        ("wgan", "ring8", {"closest_pairs"}),
        ("wgan", "digits", {"closest_pairs", "nearest"}),
        ("mlp-1d", "mixture1d", {"closest_pairs", "spectral_norm"}),
        ("dragan", "ring8", {"closest_pairs", "gradient_penalty"}),
        ("sngan-gp", "ring8", {"closest_pairs", "gradient_penalty", "spectral_norm", "minibatch_l1"}),
    ],
)
def test_the_table_holds_what_was_used(tmp_path, quick, name, data, used):
    found = _table(tmp_path, name, data)
    assert found.keys() == used
    if name == "dragan":
        assert found["gradient_penalty"].startswith("dragan, weight 10, critic on 8 x 2")
    if name == "sngan-gp":
        assert found["gradient_penalty"].startswith("wgan-gp, weight 1, ")


def test_a_recipe_without_the_penalty_of_its_neighbour(tmp_path, quick):
    assert "gradient_penalty" not in _table(tmp_path, Penalised(kind=""))
    assert _table(tmp_path, Penalised())["gradient_penalty"].startswith("r1, weight 3, ")


@pytest.mark.parametrize("kind", ["wgan-gp", "wgan-lp", "dragan", "zero-centered", "r1", "r2"])
def test_the_twin_of_a_penalty_is_the_same_penalty(tmp_path, kind):
    trainer = _trainer(tmp_path, Penalised(kind=kind))
    recipe, critic, _ = kernels._copy(trainer)
    real = trainer.source.sample(8)
    (call,) = kernels._penalties(recipe, critic, real, real.flip(0) + 1)
    _, _, (ours, theirs) = kernels._penalty(critic, call)
    values = []
    for function in (ours, theirs):
        call["generator"].manual_seed(3)
        values.append(function())
    torch.testing.assert_close(*values)


def test_ratios_are_true_on_both_sides_of_one(drawn):
    times = [KernelTime("a", "", 1.0, 140.2), KernelTime("b", "", 1e-3, 1.1e-3), KernelTime("c", "", 2e-3, 1.84e-3)]
    assert [entry.words() for entry in times] == ["140x", "1.1x", "0.92x"]
    lines = kernels.table(times)
    assert lines[0].endswith("torch / gankern")
    assert "faster" not in "".join(lines)
    figures.kernels_png(times)
    axes = drawn[0].axes[0]
    drawn[0].canvas.draw()
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert "10 ms" in ticks
    assert not any("^" in text for text in ticks)
    assert not axes.patches  # no bars: their lengths would mean nothing on this axis


@pytest.mark.parametrize("data", ["ring8", "mixture1d"])
def test_vectors_show_their_progress(tmp_path, quick, drawn, data):
    trainer = _trainer(tmp_path, "mlp-1d", data)
    trainer.run()
    found = sorted((tmp_path / "samples").glob("*.npy"))
    assert [np.load(path).shape for path in found] == [(2000, trainer.source.shape[0])] * 4
    write_report(trainer, samples=1000)
    (figure,) = [f for f in drawn if f.axes and f.axes[0].get_title() == "step 0"]
    assert [axes.get_title() for axes in figure.axes] == [f"step {k}" for k in range(4)]
    for axes in figure.axes:
        assert axes.axison
        assert len(axes.collections) == 2 if data == "ring8" else len(axes.lines) == 1


def test_the_birthday_picture_names_what_it_shows(drawn):
    apart = torch.arange(60.0)[:, None].square()
    together = torch.cat([apart, apart[:3]])
    for rows, expected in ((apart, {"do not collide", "threshold"}), (together, None)):
        birthday_report.curve_png(birthday_test(rows, threshold=0.5))
        left, right = drawn[-1].axes
        names = {text.get_text() for text in right.get_legend().get_texts()}
        assert names == (expected or {"collide", "do not collide", "threshold"})
        assert "even odds" in {text.get_text() for text in left.get_legend().get_texts()}
        highest = max(points.get_offsets()[:, 1].max() for points in right.collections)
        assert right.get_ylim()[1] > 1.05 * highest


def test_the_page_says_on_what_and_when(tmp_path, quick, monkeypatch):
    trainer = _trainer(tmp_path, "dragan", "digits")
    trainer.run()
    identity = trainer.identity()
    monkeypatch.setattr(trainer, "identity", lambda: {**identity, "samples": 1797})
    monkeypatch.setattr(write.torch, "get_num_threads", lambda: 1)
    report = write_report(trainer, samples=200)
    text = report.page.read_text()
    environment = report.content["environment"]
    for words in (environment["cpu"], environment["date"], "1,797 samples of 1 x 8 x 8", "1 thread,", "memorization"):
        assert page.html.escape(words) in text
    assert "1 threads" not in text
    assert "it says nothing about their quality" in text
