"""The trainer: every recipe learns, resumes exactly, and stops where numbers stop making sense."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from gankern import models
from gankern.training import CheckpointError, NonFiniteError, Recipe, RecipeError, Trainer, checkpoint, metrics, recipes
from gankern.training.data import Source, open_source

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TINY = Source("tiny", (1, 8, 8), rows=torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)


def _recipe(name: str, **changes) -> Recipe:
    recipe = recipes.find(name)()
    settings = {"steps": 4, "batch": 6, "latent": 3, **changes}
    if name == "sngan-gp":
        settings = {"width": 4, "kernels": 3, **settings}
    for key, value in settings.items():
        assert key in recipe.settings()
        setattr(recipe, key, value)
    return recipe


def _trainer(folder, name="sngan-gp", source=TINY, **options) -> Trainer:
    settings = {key: options.pop(key) for key in ("steps", "batch", "anneal", "n_critic") if key in options}
    folder.mkdir(exist_ok=True)
    return Trainer(_recipe(name, **settings), source, folder, **{"save_every": 2, "log_every": 1, "seed": 5, **options})


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors, _ = trainer.state.save()
    return {key: value.clone() for key, value in tensors.items()}


def _same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@dataclass
class Breaking(Recipe):
    """Goes wrong on purpose."""

    latent: int = 2
    bad_step: int = 3
    bad_player: str = "critic"
    bad_gradient: bool = False

    def networks(self, shape):
        return models.MLPGenerator(shape, self.latent), models.MLPCritic(shape)

    def _terms(self, player, value, step):
        bad = player == self.bad_player and step.number + 1 == self.bad_step
        broken = (value - value.detach()).sqrt() if self.bad_gradient else value * float("nan")
        return {"good": value.square(), "odd": broken if bad else value}

    def critic_terms(self, critic, real, fake, step):
        return self._terms("critic", critic(fake).mean() - critic(real).mean(), step)

    def generator_terms(self, critic, fake, step):
        return self._terms("generator", -critic(fake).mean(), step)


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize("kind", ["images", "vectors"])
def test_every_recipe_trains_with_finite_losses(tmp_path, name, kind):
    if (name, kind) == ("mlp-1d", "images"):
        with pytest.raises(models.ShapeError, match="takes vectors"):
            _trainer(tmp_path, name)
        return
    torch.manual_seed(0)
    source = TINY if kind == "images" else open_source("ring8")
    trainer = _trainer(tmp_path, name, source, steps=2)
    before = _weights(trainer)
    assert trainer.run()
    rows = metrics.read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert len(numbers) >= 12
    assert torch.tensor(numbers).isfinite().all()
    after = _weights(trainer)
    for network in ("generator.", "critic.", "average."):
        moved = [k for k in after if k.startswith(network) and not torch.equal(before[k], after[k])]
        assert len(moved) > 3
    samples = trainer.generate(torch.randn(7, 3))
    assert samples.shape == (7, *source.shape)
    assert samples.isfinite().all()


def test_every_recipe_names_its_paper_and_is_one_file():
    files = Path(recipes.__file__).parent.glob("[!_]*.py")
    assert recipes.names() == sorted(path.stem.replace("_", "-") for path in files)
    assert {"dcgan", "dragan", "mlp-1d", "sngan", "sngan-gp", "wgan", "wgan-gp"} <= set(recipes.names())
    for name in recipes.names():
        recipe = recipes.find(name)
        assert recipe().name == name
        assert recipe.paper
        for shape in ((1, 8, 8), (2,)):
            recipe.suited(shape).check()


def test_vectors_have_defaults_of_their_own():
    recipe = recipes.find("sngan-gp")
    assert recipe.suited((1, 8, 8)) == recipe()
    assert (recipe().steps, recipe().batch) == (1500, 128)
    assert recipe.suited((2,)).settings() == {**recipe().settings(), **recipe.for_vectors}
    assert recipe.suited((2,)).batch == 256


@pytest.mark.parametrize("name", ["sngan-gp", "dcgan", "wgan"])
@pytest.mark.parametrize("anneal", [False, True])
def test_a_resumed_run_ends_bit_identical(tmp_path, name, anneal):
    whole = _trainer(tmp_path / "whole", name, steps=5, anneal=anneal)
    whole.run()
    first = _trainer(tmp_path / "cut", name, steps=5, anneal=anneal)
    assert not first.run(stop=lambda: first.state.step == 3)
    torch.randn(100)  # what happens outside must not matter
    second = _trainer(tmp_path / "cut", name, steps=5, anneal=anneal)
    second.restore(checkpoint.newest(second.checkpoint_folder)[0])
    assert second.state.step == 3
    assert second.run()
    assert _same(_weights(whole), _weights(second))
    rows = [metrics.read(tmp_path / f / "metrics.jsonl") for f in ("whole", "cut")]
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in rows[0]] == [
        {k: v for k, v in r.items() if k != "seconds"} for r in rows[1]
    ]


def test_seeds_differ_and_repeat(tmp_path):
    runs = []
    for number, seed in enumerate((1, 1, 2)):
        trainer = _trainer(tmp_path / str(number), seed=seed, steps=2)
        trainer.run()
        runs.append(_weights(trainer))
    assert _same(runs[0], runs[1])
    assert not _same(runs[0], runs[2])


def test_training_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    _trainer(tmp_path, "dcgan", steps=1).run()
    assert torch.equal(before, torch.get_rng_state())


@dataclass
class Dropping(recipes.find("wgan")):
    """Draws from torch's global generators in every step."""

    def networks(self, shape):
        generator, critic = models.MLPGenerator(shape, self.latent), models.MLPCritic(shape)
        return generator, nn.Sequential(nn.Dropout(0.5), critic)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_the_global_generators_go_on_where_a_run_stopped(tmp_path, device):
    """Whether the same trainer goes on, or another one from a checkpoint; the device's own generator too."""
    source = open_source("ring8")

    def trainer(name):
        return Trainer(Dropping(steps=6, batch=8, latent=4), source, tmp_path / name, device, seed=3, save_every=1)

    whole, again, resumed = trainer("whole"), trainer("cut"), trainer("cut")
    assert whole.run()
    assert not again.run(stop=lambda: again.state.step == 2)
    torch.manual_seed(99)
    resumed.restore(checkpoint.newest(resumed.checkpoint_folder)[0])
    for one in (again, resumed):
        assert one.run()
        assert _same(_weights(whole), {**_weights(one), "random.cpu": _weights(whole)["random.cpu"]})
        assert all(torch.equal(a, b) for a, b in zip(whole._global_rng, one._global_rng, strict=True))
    assert len(whole._global_rng) == 1 + (device == "cuda")
    torch.manual_seed(99)
    after = torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()
    trainer("other").run()
    assert torch.equal(after, torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state())


@pytest.mark.parametrize("player", ["critic", "generator"])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_non_finite_number_stops_and_names_step_and_term(tmp_path, player, gradient):
    recipe = Breaking(steps=9, batch=4, bad_player=player, bad_gradient=gradient)
    trainer = Trainer(recipe, open_source("ring8"), tmp_path, save_every=1)
    named = f"norm of the {player}'s gradient is nan" if gradient else f"the {player}'s odd is nan"
    with pytest.raises(NonFiniteError, match=f"step 3: the {named}" if gradient else f"step 3: {named}"):
        trainer.run()
    good, faults = checkpoint.newest(trainer.checkpoint_folder)
    assert good.step == 2
    assert not faults
    assert all(t.isfinite().all() for t in good.tensors.values() if t.is_floating_point())


def test_ema_is_the_running_average(tmp_path):
    trainer = _trainer(tmp_path, "wgan", steps=3)
    average = {k: v.double().clone() for k, v in trainer.state.generator.named_parameters()}
    for step in range(1, 4):
        trainer._step(False)
        decay = min(0.999, (1 + step) / (10 + step))
        for key, value in trainer.state.generator.named_parameters():
            average[key] = decay * average[key] + (1 - decay) * value.double()
    for key, value in trainer.state.average.named_parameters():
        torch.testing.assert_close(value.double(), average[key].detach(), rtol=1e-5, atol=1e-8)


def test_n_critic_and_clipping(tmp_path):
    trainer = _trainer(tmp_path, "wgan", steps=2, n_critic=3)
    trainer.run()
    assert trainer.state.critic_updates == 6
    assert max(p.abs().max() for p in trainer.state.critic.parameters()) <= 0.01


def test_annealing_reaches_zero(tmp_path):
    trainer = _trainer(tmp_path, steps=4, anneal=True)
    trainer.run()
    rates = [g["lr"] for g in trainer.state.critic_optimizer.param_groups]
    assert rates == pytest.approx([trainer.recipe.critic_lr / 4])


def test_a_lazy_penalty_is_charged_on_its_steps_alone(tmp_path):
    recipe = _recipe("wgan-gp", steps=2, n_critic=2)
    recipe.penalty_every = 4
    trainer = Trainer(recipe, TINY, tmp_path, log_every=1)
    seen = []
    terms = recipe.critic_terms

    def watched(critic, real, fake, step):
        found = terms(critic, real, fake, step)
        seen.append(found["penalty"].item())
        return found

    recipe.critic_terms = watched
    trainer.run()
    assert seen[0] > 0
    assert seen[1:] == [0, 0, 0]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_autocast_trains_and_resumes(tmp_path, amp):
    trainer = _trainer(tmp_path, steps=24, amp=amp)
    before = _weights(trainer)
    assert trainer.run()
    rows = metrics.read(tmp_path / "metrics.jsonl")
    assert all(row["critic.loss"] is not None for row in (rows if amp == "bf16" else rows[-3:]))
    after = _weights(trainer)
    assert all(t.isfinite().all() for t in after.values() if t.is_floating_point())
    assert not torch.equal(before["critic.layers.0.bias"], after["critic.layers.0.bias"])
    again = _trainer(tmp_path, steps=24, amp=amp)
    again.restore(checkpoint.newest(again.checkpoint_folder)[0])
    assert _same(after, _weights(again))


def test_a_float16_run_that_no_scale_can_save_stops(tmp_path):
    trainer = Trainer(Breaking(steps=90, batch=4), open_source("ring8"), tmp_path, amp="fp16")
    trainer.recipe._terms = lambda player, value, step: {"odd": value * float("nan")}
    with pytest.raises(NonFiniteError, match="the critic's odd is nan"):
        trainer.run()
    assert trainer.state.step < 40


def test_the_last_two_checkpoints_stay(tmp_path):
    trainer = _trainer(tmp_path, "wgan", steps=7)
    trainer.run()
    names = sorted(path.name for path in trainer.checkpoint_folder.iterdir())
    assert names == [f"step-0000000{k}.{end}" for k in (6, 7) for end in ("json", "safetensors")]


def _damage_tensors(folder):
    path = folder / "step-00000004.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut_tensors(folder):
    path = folder / "step-00000004.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def _cut_record(folder):
    path = folder / "step-00000004.json"
    path.write_bytes(path.read_bytes()[:-9])


def _lose_tensors(folder):
    (folder / "step-00000004.safetensors").unlink()


@pytest.mark.parametrize("damage", [_damage_tensors, _cut_tensors, _cut_record, _lose_tensors])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    trainer = _trainer(tmp_path, "wgan", steps=4)
    trainer.run()
    damage(trainer.checkpoint_folder)
    found, faults = checkpoint.newest(trainer.checkpoint_folder)
    assert found.step == 2
    assert len(faults) == 1
    assert "step-00000004" in faults[0]
    assert "\n" not in faults[0]
    again = _trainer(tmp_path, "wgan", steps=4)
    again.restore(found)
    again.run()
    assert _same(_weights(trainer), _weights(again))


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    trainer = _trainer(tmp_path, "wgan", steps=1)
    trainer.run()
    other = _trainer(tmp_path, "sngan-gp", steps=1)
    with pytest.raises(CheckpointError, match="does not fit this run") as caught:
        other.restore(checkpoint.newest(trainer.checkpoint_folder)[0])
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_checkpoints_before(tmp_path, monkeypatch):
    trainer = _trainer(tmp_path, "wgan", steps=4)
    replace = checkpoint.files.os.replace

    def full(source, target):
        if "step-00000004.safetensors" in str(target):
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(checkpoint.files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.run()
    found, faults = checkpoint.newest(trainer.checkpoint_folder)
    assert found.step == 2
    assert not faults
    assert not list(trainer.checkpoint_folder.glob(".*"))


def test_what_a_killed_write_left_is_swept_away(tmp_path):
    trainer = _trainer(tmp_path, "wgan", steps=1)
    trainer.run()
    (trainer.checkpoint_folder / ".step-00000002.safetensors.x1y2").write_bytes(b"half")
    _trainer(tmp_path, "wgan", steps=1)
    assert sorted(p.suffix for p in trainer.checkpoint_folder.iterdir()) == [".json", ".safetensors"]


def test_metrics_drop_what_comes_after_a_checkpoint_and_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": k, "x": 1.0}) + "\n" for k in range(1, 6)) + '{"step": 6, "x"')
    log = metrics.Metrics(tmp_path, 3)
    log.log({"step": 4, "x": 2.0})
    log.close()
    assert [(row["step"], row["x"]) for row in metrics.read(path)] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("nothing", "1", "no setting 'nothing'; there are steps"),
        ("batch", "3.5", "batch must be an integer"),
        ("critic_lr", "fast", "critic_lr must be a number"),
        ("critic_lr", "inf", "critic_lr must be finite"),
        ("anneal", "maybe", "anneal must be true or false"),
    ],
)
def test_unfit_settings(key, text, message):
    with pytest.raises(RecipeError, match=message):
        recipes.find("wgan")().change(key, text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("batch", 0),
            ("steps", -1),
            ("critic_lr", 0.0),
            ("ema", 1.0),
            ("batch", "x"),
            ("batch", True),
            ("n_critic", 1.5),
        ),
        *(("clip", float("nan")), ("clip", None), ("latent", 2**31), ("anneal", 1)),
    ],
)
def test_settings_that_make_no_sense(tmp_path, key, value):
    recipe = _recipe("wgan", **{key: value})
    with pytest.raises(RecipeError, match=key):
        Trainer(recipe, TINY, tmp_path)


def test_settings_take_the_type_of_the_field():
    recipe = recipes.find("wgan-gp")()
    for key, text in (("batch", "12"), ("penalty", "2"), ("anneal", "true")):
        recipe.change(key, text)
    assert (recipe.batch, recipe.penalty, recipe.anneal) == (12, 2.0, True)


@dataclass
class Fields(Recipe):
    """Fields of all kinds."""

    least = {"layers": 0, "offset": -2}

    maybe: float | None = None
    often: int | None = 3
    rate: float = 1
    layers: int = 2
    offset: float = 0.5
    shift: float = -1.0
    word: str = "a"
    either: Literal["x", "y"] = "x"
    flag: bool | None = None


@dataclass
class MoreFields(Fields):
    """Takes over its base's bounds."""

    least = {"often": 2}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        *(
            ("maybe", "0.5", 0.5),
            ("maybe", "none", None),
            ("often", "None", None),
            ("often", "7", 7),
            ("rate", "0.5", 0.5),
        ),
        *(
            ("layers", "0", 0),
            ("offset", "-2", -2.0),
            ("shift", "-7", -7.0),
            ("word", "none", "none"),
            ("flag", "1", True),
        ),
        *(("either", "y", "y"), ("kernels", "0", None)),
    ],
)
def test_optional_fields_and_bounds(key, text, value):
    recipe = Fields()
    if key == "kernels":
        recipe = recipes.find("sngan-gp")()
        value = 0
    recipe.change(key, text)
    recipe.check()
    assert getattr(recipe, key) == value
    assert type(getattr(recipe, key)) is type(value)


@pytest.mark.parametrize(
    ("kind", "key", "text", "message"),
    [
        (Fields, "maybe", "much", "maybe must be a number or none, got 'much'"),
        (Fields, "maybe", "-1", "maybe must be at least 0, got -1"),
        (Fields, "often", "0", "often must be at least 1, got 0"),
        (Fields, "offset", "-3", "offset must be at least -2, got -3"),
        (MoreFields, "often", "1", "often must be at least 2, got 1"),
        (MoreFields, "offset", "-3", "offset must be at least -2, got -3"),
        (Fields, "layers", "none", "layers must be an integer, got 'none'"),
    ],
)
def test_fields_out_of_bounds(kind, key, text, message):
    recipe = kind()
    with pytest.raises(RecipeError, match=message):
        _set(recipe, key, text)


def _set(recipe: Recipe, key: str, text: str) -> None:
    recipe.change(key, text)
    recipe.check()


def test_a_recipe_from_a_file(tmp_path):
    text = Path(inspect.getfile(recipes.find("wgan"))).read_text()
    (tmp_path / "my_wgan.py").write_text(text.replace("clip: float = 0.01", "clip: float = 0.5"))
    recipe = recipes.find(str(tmp_path / "my_wgan.py"))()
    assert (recipe.name, recipe.clip) == ("my-wgan", 0.5)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    with pytest.raises(RecipeError, match=r"broken\.py: ModuleNotFoundError"):
        recipes.find(str(tmp_path / "broken.py"))
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "my_wgan.py").write_text(text.replace("clip: float = 0.01", "clip: float = 0.6"))
    assert recipes.find(str(tmp_path / "my_wgan.py"))().clip == 0.6  # no bytecode of the text before
    with pytest.raises(RecipeError, match="one subclass of Recipe, found 0"):
        recipes.find(str(tmp_path / "empty.py"))


def test_small_gradients_are_counted_by_layer(tmp_path):
    from gankern.training import gradients

    layer = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    layer[0].weight.grad = torch.tensor([[0.0, 0.02], [-0.009, 5.0]])
    layer[1].weight.grad = torch.tensor([[1.0, -1.0]])
    assert gradients.small(layer) == {"0": 2, "1": 0}
    assert gradients.sizes(layer) == {"0": 4, "1": 2}
    assert gradients.norm(layer).item() == pytest.approx((0.02**2 + 0.009**2 + 27) ** 0.5)
