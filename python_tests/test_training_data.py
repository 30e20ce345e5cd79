"""Data sources: what they give, what they refuse, and batches."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch
from PIL import Image

from gankern.training.data import Batches, DataError, Source, open_source

CPU = torch.device("cpu")


def _idx(count: int, height: int = 28, width: int = 28, magic: int = 0x0803) -> bytes:
    pixels = np.arange(count * height * width, dtype=np.int64).astype(np.uint8)
    header = b"".join(n.to_bytes(4, "big") for n in (magic, count, height, width))
    return header + pixels.tobytes()


def test_digits_are_the_real_ones():
    from sklearn.datasets import load_digits

    source = open_source("digits")
    assert source.shape == (1, 8, 8)
    assert source.is_image
    assert np.array_equal(((source.rows[:, 0] + 1) * 8).numpy(), load_digits().images)


@pytest.mark.parametrize(
    ("name", "modes", "features", "std"), [("mixture1d", 3, 1, 0.5), ("ring8", 8, 2, 0.02), ("grid25", 25, 2, 0.05)]
)
def test_toy_distributions_have_their_moments(name, modes, features, std):
    source = open_source(name)
    assert source.shape == (features,)
    x = source.sample(20_000)
    distance, mode = torch.cdist(x, source.modes.centres).min(1)
    counts = mode.bincount(minlength=modes)
    assert len(counts) == modes
    assert (counts - 20_000 / modes).abs().max() < 5 * (20_000 / modes) ** 0.5
    assert (distance.square().mean() / features).sqrt().item() == pytest.approx(std, rel=0.02)


def test_the_mixture_is_the_documented_one():
    assert open_source("mixture1d").modes.centres.flatten().tolist() == [-4.0, 0.0, 4.0]


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_from_its_idx_file(tmp_path, packed):
    data = _idx(3)
    name = "train-images-idx3-ubyte" + (".gz" if packed else "")
    (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    source = open_source(f"mnist:{tmp_path}")
    assert source.rows.shape == (3, 1, 32, 32)
    assert source.rows.dtype == torch.uint8
    assert source.rows[1, 0, 2, 2].item() == 784 % 256
    assert not source.rows[:, :, :2].any()
    assert source.origin == f"mnist:{tmp_path}"
    x = source.sample(3)
    assert x.dtype == torch.float32
    assert x.min().item() == -1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_idx(3)[:-1], "truncated"),
        (_idx(3, magic=0x0801), "no idx file of images"),
        (b"", "no idx file of images"),
        (_idx(3, 14, 56), "14 x 56"),
    ],
)
def test_damaged_mnist_is_one_line(tmp_path, content, message):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_source(f"mnist:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_damaged_gz_is_one_line(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(2))[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        open_source(f"mnist:{tmp_path}")


def test_cifar10_from_its_binary_files(tmp_path):
    for number in (1, 2):
        record = np.full((4, 3073), number, np.uint8)
        record[:, 1:1025] = 10 * number
        (tmp_path / f"data_batch_{number}.bin").write_bytes(record.tobytes())
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073))
    source = open_source(f"cifar10:{tmp_path}")
    assert source.rows.shape == (8, 3, 32, 32)
    assert source.rows[:, :, 0, 0].unique(dim=0).tolist() == [[10, 1, 1], [20, 2, 2]]
    (tmp_path / "data_batch_3.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match=r"data_batch_3\.bin: 3072 bytes"):
        open_source(f"cifar10:{tmp_path}")


def test_pickled_cifar10_is_refused_with_a_reason(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(
        DataError, match="pickled files are refused, for loading one can run any code: put data_batch_1"
    ):
        open_source(f"cifar10:{tmp_path}")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_what_is_not_on_disk_says_which_file_to_put_where(tmp_path, monkeypatch, name):
    monkeypatch.setenv("GANKERN_DATA", str(tmp_path / "sets"))
    with pytest.raises(DataError, match="put ") as caught:
        open_source(name)
    assert str(tmp_path / "sets") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_crops_resizes_and_names_a_broken_image(tmp_path):
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (60, 40), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "deep" / "b.png")
    source = open_source(f"folder:{tmp_path}@16")
    assert source.rows.shape == (2, 3, 16, 16)
    assert source.rows[0, :, 8, 8].tolist() == [255, 0, 0]
    assert open_source(f"folder:{tmp_path}").shape == (3, 32, 32)
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"c\.png: cannot be read as an image"):
        open_source(f"folder:{tmp_path}")


def test_sixteen_bits_and_transparency_in_a_folder(tmp_path):
    levels = np.full((8, 8), 65535, np.uint16)
    levels[:, :4] = 12850
    upright = Image.Exif()
    upright[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(levels).save(tmp_path / "a.png")
    Image.fromarray(levels).save(tmp_path / "b.png", exif=upright)
    Image.fromarray(levels).save(tmp_path / "c.tif")
    Image.fromarray(levels.astype(np.int32)).save(tmp_path / "d.pgm")
    hidden = np.zeros((8, 8, 4), np.uint8)
    hidden[:, :, 0], hidden[:, 4:, 3] = 200, 255
    Image.fromarray(hidden).save(tmp_path / "e.png")
    rows = open_source(f"folder:{tmp_path}@8").rows
    for row in rows[[0, 2, 3]]:
        assert row[:, 0].tolist() == [[50] * 4 + [255] * 4] * 3
    assert rows[1, 0].unique(dim=1).flatten().tolist() == [50] * 4 + [255] * 4
    assert rows[4, :, 0].tolist() == [[255] * 4 + [200] * 4, *[[255] * 4 + [0] * 4] * 2]
    Image.fromarray(levels.astype(np.int32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match=r"f\.tif: .* 32 bits \(mode I\) have no known white"):
        open_source(f"folder:{tmp_path}@8")


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.zeros((5, 3), np.float64), (3,)),
        (np.zeros((5, 8, 8), np.uint8), (1, 8, 8)),
        (np.zeros((5, 8, 8, 3), np.uint8), (3, 8, 8)),
        (np.zeros((5, 3, 8, 8), np.float32), (3, 8, 8)),
    ],
)
def test_npz_arrays(tmp_path, array, shape):
    np.savez(tmp_path / "a.npz", array)
    source = open_source(f"npz:{tmp_path / 'a.npz'}")
    assert source.shape == shape
    assert source.sample(5).dtype == torch.float32


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((5, 8, 8), 3.0), r"must lie in \[-1, 1\]"),
        (np.full((5, 8, 8), np.nan), "NaN or infinite"),
        (np.zeros((5, 8, 8, 8, 8)), "expected vectors or images"),
        (np.array([[object()], [object()]]), "never loaded"),
        (np.zeros((5, 2), np.complex64), "expected float16"),
    ],
)
def test_npz_refusals(tmp_path, array, message):
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(DataError, match=message):
        open_source(f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagenet", "no data 'imagenet': expected digits"),
        ("digits:x", "digits takes no path"),
        ("npz", "npz needs a path"),
        ("npz:nowhere.npz", "nowhere.npz"),
        ("folder:nowhere", "no folder nowhere"),
        ("folder:.@0", "SIZE must be at least 1"),
    ],
)
def test_unfit_names(text, message):
    with pytest.raises(DataError, match=message):
        open_source(text)


def test_each_epoch_visits_every_row_once_in_a_new_order():
    source = Source("rows", (1,), rows=torch.arange(12.0)[:, None])
    batches = Batches(source, 4, seed=3, device=CPU)
    rng = torch.Generator().manual_seed(0)
    epochs = [torch.cat([batches.next(rng) for _ in range(3)]).flatten().tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_batches_go_on_where_they_were():
    source = Source("rows", (1,), rows=torch.arange(10.0)[:, None])
    rng = torch.Generator()
    one, other = (Batches(source, 3, seed=1, device=CPU) for _ in range(2))
    for _ in range(5):
        one.next(rng)
    other.restore(one.state())
    assert all(torch.equal(one.next(rng), other.next(rng)) for _ in range(7))


def test_a_batch_larger_than_the_data_is_all_of_it():
    source = Source("rows", (1,), rows=torch.arange(5.0)[:, None])
    batch = Batches(source, 64, seed=0, device=CPU).next(torch.Generator())
    assert sorted(batch.flatten().tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="at least 2"):
        Batches(Source("row", (1,), rows=torch.zeros(1, 1)), 4, 0, CPU)
