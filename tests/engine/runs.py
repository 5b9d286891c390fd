"""Runs of the smallest model, to be stopped, resumed and compared."""

import shutil

import torch

from ..models import SMALL, SMALLEST, TINY

TRAIN, VAL = "test_shapes_train_separated", "test_shapes_val_separated"
SETTINGS = {
    **dict(zip(SMALL[::2], SMALL[1::2], strict=True)),
    **SMALLEST,
    **{"DATASETS.TRAIN": (TRAIN,), "DATASETS.TEST": (VAL,)},
    **{"SOLVER.MAX_ITER": 6, "SOLVER.STEPS": (4,), "SOLVER.CHECKPOINT_PERIOD": 2},
    # Whatever draws random numbers: dropout, augmentation; RPN and heads do anyway.
    **{"MODEL.SEM_SEG_HEAD.OCR.DROPOUT": 0.3, "INPUT.MIN_SIZE_TRAIN": (64, 80, 96)},
    # An evaluation while it trains, and one at the end.
    "TEST.EVAL_PERIOD": 4,
}
UNTESTED = {"DATASETS.TEST": ()}


def arguments(output, *options, overrides=()):
    settings = {**SETTINGS, "OUTPUT_DIR": output, **dict(overrides)}
    words = [str(word) for pair in settings.items() for word in pair]
    return ["--config-file", str(TINY["ocr"]), *options, *words]


def read(output, name="model_final"):
    return torch.load(output / f"{name}.pth", map_location="cpu")


def stopped_at(output, run, iteration):
    """Make ``output`` what ``run`` was when it had saved an iteration."""
    output.mkdir()
    shutil.copy(run / f"model_{iteration:07d}.pth", output)
    (output / "last_checkpoint").write_text(f"model_{iteration:07d}.pth")
    return output


def assert_equal(one, other, where="checkpoint"):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}[{number}]")
    else:
        assert one == other, where


def differ(one, other):
    return any(not torch.equal(one["model"][key], other["model"][key]) for key in one["model"])
