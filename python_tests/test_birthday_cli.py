"""`gankern birthday`: what it writes, what it prints, and how it refuses bad input."""

from __future__ import annotations

import base64
import errno
import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gankern import cli
from gankern.diagnostics import inputs, report

FILES = {"report.html", "report.json", "pairs.png", "curve.png"}


def images(n=60, size=12, seed=0, channels=3):
    x = np.random.default_rng(seed).integers(0, 256, (n, size, size, channels)).astype(np.uint8)
    x[-1] = x[0]
    return x


def run(capsys, *arguments):
    code = cli.main(["birthday", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def save_folder(folder, x):
    folder.mkdir()
    for number, image in enumerate(x):
        Image.fromarray(image).save(folder / f"{number:04}.png")
    return folder


def save(kind, tmp_path, x):
    if kind == "npz":
        np.savez(tmp_path / "x.npz", x)
        return tmp_path / "x.npz"
    if kind == "npy":
        np.save(tmp_path / "x.npy", x)
        return tmp_path / "x.npy"
    return save_folder(tmp_path / "images", x)


@pytest.mark.parametrize("kind", ["npz", "npy", "folder"])
def test_writes_a_report(tmp_path, capsys, kind):
    out = tmp_path / "deep" / "out"
    code, text, error = run(capsys, save(kind, tmp_path, images()), "--out", out, "--threshold", 100, "--k", 7)
    assert (code, error) == (0, "")
    assert {path.name for path in out.iterdir()} == FILES
    assert "closest pair  0, rows 0 and 59" in text
    assert str(out / "report.html") in text
    found = json.loads((out / "report.json").read_text())
    assert found["samples"] == 60
    assert found["support"]["collisions"] == 1
    assert len(found["closest"]["i"]) == 7
    for name in ("pairs.png", "curve.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 400
            assert len(set(picture.convert("L").resize((64, 64)).get_flattened_data())) > 5


def test_page_is_self_contained(tmp_path, capsys):
    run(capsys, save("npz", tmp_path, images()), "--out", tmp_path / "out", "--threshold", "100")
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "http" not in page
    embedded = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", page)]
    assert embedded == [(tmp_path / "out" / name).read_bytes() for name in ("curve.png", "pairs.png")]


def test_names_are_escaped(tmp_path, capsys):
    np.savez(tmp_path / "<script>.npz", images())
    run(capsys, tmp_path / "<script>.npz", "--out", tmp_path / "out")
    assert "<script>" not in (tmp_path / "out" / "report.html").read_text()


def test_json_and_reference(tmp_path, capsys):
    np.save(tmp_path / "real.npy", images(seed=1)[:-1])
    code, text, _ = run(
        *(capsys, save("npz", tmp_path, images()), "--reference", tmp_path / "real.npy"),
        *("--out", tmp_path / "out", "--json"),
    )
    assert code == 0
    assert json.loads(text) == json.loads((tmp_path / "out" / "report.json").read_text())
    assert json.loads(text)["threshold"]["source"] == "reference"


def test_heavy_outputs_are_in_the_report(tmp_path, capsys):
    x = images(300)
    x[::20] = x[0]
    _, text, _ = run(capsys, save("npz", tmp_path, x), "--out", tmp_path / "out", "--threshold", 1)
    assert "far too frequent" in text
    assert "far more likely than the rest" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("shape", [(40, 9), (40, 3, 8, 8), (40, 8, 8), (40, 8, 8, 1), (40, 5, 6, 7, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8])
def test_layouts(tmp_path, capsys, shape, dtype):
    x = (
        (np.random.default_rng(0).random(shape) * 2 - 1)
        if dtype != np.uint8
        else np.arange(np.prod(shape)).reshape(shape) % 251
    )
    np.save(tmp_path / "x.npy", x.astype(dtype))
    assert run(capsys, tmp_path / "x.npy", "--out", tmp_path / "out")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def bad_inputs(tmp_path):
    x = images()
    np.savez(tmp_path / "key.npz", samples=x)
    np.savez(tmp_path / "objects.npz", np.array([{}], dtype=object))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(x))
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object))
    np.savez_compressed(tmp_path / "whole.npz", x)
    np.save(tmp_path / "whole.npy", x)
    for name in ("whole.npz", "whole.npy"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut-{name}").write_bytes(data[: len(data) // 2])
    (tmp_path / "nothing.npz").write_bytes(b"")
    (tmp_path / "nothing.npy").write_bytes(b"")
    corrupt = bytearray((tmp_path / "whole.npz").read_bytes())
    corrupt[len(corrupt) // 2] ^= 0xFF
    (tmp_path / "corrupt.npz").write_bytes(corrupt)
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    ragged = save_folder(tmp_path / "ragged", x[:4])
    Image.fromarray(images(2, size=9)[0]).save(ragged / "0002.png")
    broken = save_folder(tmp_path / "broken", x[:4])
    (broken / "0001.png").write_bytes((broken / "0001.png").read_bytes()[:100])
    save_folder(tmp_path / "single", x[:1])
    np.save(tmp_path / "one.npy", x[:1])
    np.save(tmp_path / "flat.npy", np.zeros(9, np.float32))
    np.save(tmp_path / "none.npy", np.zeros((9, 0), np.float32))
    np.save(tmp_path / "integers.npy", np.zeros((9, 4), np.int64))
    np.save(tmp_path / "strings.npy", np.array([["a", "b"]] * 3))
    nan = np.zeros((9, 4), np.float32)
    nan[3, 2] = np.nan
    np.save(tmp_path / "nan.npy", nan)
    return {
        "missing.npz": "no such file or folder",
        "key.npz": "no array arr_0 in it; it holds samples",
        "objects.npz": "pickled objects, which are never loaded",
        "pickle.npz": "pickled objects, which are never loaded",
        "objects.npy": "pickled objects, which are never loaded",
        "cut-whole.npz": "cannot be read",
        "cut-whole.npy": "cannot be read",
        "nothing.npz": "cannot be read",
        "nothing.npy": "cannot be read",
        "corrupt.npz": "cannot be read",
        "text.txt": "expected an .npz, an .npy or a folder",
        "empty": "no images in this folder",
        "ragged": "0002.png: 9 x 9, but 0000.png is 12 x 12",
        "broken": "0001.png: cannot be read as an image",
        "single": "N at least 2",
        "one.npy": "N at least 2",
        "flat.npy": "expected an array (N, ...)",
        "none.npy": "expected an array (N, ...)",
        "integers.npy": "got an array of int64",
        "strings.npy": "got an array of <U1",
        "nan.npy": "NaN or Inf in row 3",
    }


def test_bad_input(tmp_path, capsys):
    for name, message in bad_inputs(tmp_path).items():
        out = tmp_path / "new" / "out"
        code, text, error = run(capsys, tmp_path / name, "--out", out)
        assert (code, text) == (2, ""), name
        assert error.count("\n") == 1, error
        assert message in error, error
        assert name in error
        assert not (tmp_path / "new").exists(), name
        good = tmp_path / "whole.npy"
        code, _, error = run(capsys, good, "--reference", tmp_path / name, "--out", out)
        assert (code, error.count("\n")) == (2, 1), name
        assert name in error
        assert not (tmp_path / "new").exists(), name


@pytest.mark.parametrize("exists", [False, True])
def test_full_disk(tmp_path, capsys, monkeypatch, exists):
    source, out = save("npz", tmp_path, images()), tmp_path / "out"
    if exists:
        assert run(capsys, source, "--out", out)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*")} if exists else None
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    code, _, error = run(capsys, source, "--out", out, "--k", 3)
    assert code == 1
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert ({path: path.read_bytes() for path in out.rglob("*")} if exists else None) == before
    assert out.exists() == exists


def test_out_is_a_file(tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    code, _, error = run(capsys, save("npz", tmp_path, images()), "--out", tmp_path / "out")
    assert (code, error.count("\n")) == (1, 1)
    assert (tmp_path / "out").read_text() == "mine"


def test_out_cannot_be_written(tmp_path, capsys):
    code, _, error = run(capsys, save("npz", tmp_path, images()), "--out", "/proc/x")
    assert (code, error.count("\n")) == (1, 1)
    assert "/proc/x: " in error


@pytest.mark.parametrize("command", ["birthday", "bench", "train"])
def test_help_explains(capsys, command):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for words in (
        "examples:",
        f"  gankern {command} ",
        "exit codes: 0 done; 1 ",
        "--list" if command != "birthday" else "--threshold auto: with --reference",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 105


def test_wrong_usage(tmp_path, capsys):
    for extra in (["--k", "0"], ["--k", "x"], ["--threshold", "-1"], ["--threshold", "nan"], ["--threshold", "wide"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["birthday", str(tmp_path), *extra])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert f"argument {extra[0]}: expected " in error


def test_sixteen_bits_and_transparency(tmp_path, capsys):
    """Grey levels above 255 stay apart; what is hidden under transparency does not count."""
    grey = tmp_path / "grey"
    grey.mkdir()
    for number in range(2):
        Image.fromarray(np.full((8, 8), 20000 * (number + 1), np.uint16)).save(grey / f"{number}.png")
    assert [row.flatten().tolist() for row in inputs.load_samples(grey)] == [[78] * 192, [156] * 192]
    clear = np.zeros((2, 8, 8, 4), np.uint8)
    clear[1, ..., :3] = 255
    assert (inputs.load_samples(save_folder(tmp_path / "clear", clear)) == 255).all()
    Image.fromarray(np.ones((8, 8), np.float32)).save(grey / "2.tif")
    code, _, error = run(capsys, grey, "--out", tmp_path / "out")
    assert (code, error.count("\n")) == (2, 1)
    assert "2.tif: cannot be read as an image: grey levels of 32 bits (mode F)" in error


def test_npy_is_mapped(tmp_path):
    np.save(tmp_path / "x.npy", images())
    assert isinstance(inputs.load_samples(tmp_path / "x.npy"), np.memmap)


def test_number():
    assert [report.number(x) for x in (264618.2, 12345678.0, 99.4, 1.0, float("inf"), None)] == [
        *("265,000", "12,300,000", "99.4", "1", "no limit", "no limit"),
    ]


def test_from_a_shell(tmp_path):
    """A process of its own, without a terminal: no progress bar, nothing on stderr."""
    command = [sys.executable, "-m", "gankern.cli", "birthday", str(save("npy", tmp_path, images()))]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
