"""Weights in files: what is read, what is refused, and what is left when writing fails."""

import pickle

import numpy as np
import pytest
import torch

from ocr_panoptic.convert.files import read_weights, write_checkpoint
from ocr_panoptic.errors import InputError

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def saved(content, folder):
    path = folder / "given.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state", None])
def test_weights_among_the_rest(key, tmp_path):
    content = WEIGHTS if key is None else {key: WEIGHTS, "epoch": 3, "meta": {"CLASSES": ("a",)}}
    found = read_weights(saved(content, tmp_path))
    assert list(found) == list(WEIGHTS)
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def test_names_of_data_parallel(tmp_path):
    path = saved({f"module.{name}": tensor for name, tensor in WEIGHTS.items()}, tmp_path)
    assert list(read_weights(path)) == list(WEIGHTS)


def test_arrays_of_a_model_zoo(tmp_path):
    path = tmp_path / "zoo.pkl"
    arrays = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}))
    found = read_weights(path)
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


class Exploit:
    def __reduce__(self):
        return print, ("never printed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "is no checkpoint (it holds a list)"),
        ({}, "is no checkpoint (it holds nothing)"),
        ({"model": {}}, "is no checkpoint (it holds nothing)"),
        ({"epoch": 3}, "is no checkpoint (it holds epoch, a int)"),
        ({"model": {3: torch.ones(1)}}, "weights under 3, which is no name"),
        ({"model": {"a": np.array(["x"])}}, "it holds a of <U1"),
    ],
)
def test_what_is_no_checkpoint(content, message, tmp_path):
    path = saved(content, tmp_path)
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_could_run_code_is_refused(tmp_path, capsys):
    path = saved({"model": WEIGHTS, "more": Exploit()}, tmp_path)
    with pytest.raises(InputError, match="is refused, as loading it could run any code"):
        read_weights(path)
    assert capsys.readouterr().out == ""
    assert list(read_weights(path, trust=True)) == list(WEIGHTS)
    assert capsys.readouterr().out == "never printed\n"


def test_what_was_there_stays_where_the_check_fails(tmp_path):
    path = tmp_path / "out.pth"
    path.write_text("before")
    seen = []

    def check(written):
        seen.append(read_weights(written))
        raise InputError("does not fit")

    with pytest.raises(InputError, match="does not fit"):
        write_checkpoint(path, {"model": WEIGHTS}, check)
    assert list(seen[0]) == list(WEIGHTS)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("full")])
def test_a_full_disk(error, tmp_path, monkeypatch):
    def fail(content, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    path = tmp_path / "out.pth"
    with pytest.raises(InputError, match=r"out\.pth cannot be written \(.*(No space left|full)"):
        write_checkpoint(path, {"model": WEIGHTS})
    assert not list(tmp_path.iterdir())
