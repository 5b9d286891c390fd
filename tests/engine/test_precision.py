"""Mixed precision, and what a GPU that is too small says."""

import pytest
import torch

from ocr_panoptic.engine.memory import enough_memory
from ocr_panoptic.engine.precision import AMP_DTYPES, amp_options
from ocr_panoptic.engine.trainer import Trainer
from ocr_panoptic.engine.values import check_values
from ocr_panoptic.errors import BAD_INPUT, InputError

from ..conftest import load_tool
from ..models import small_config
from .runs import UNTESTED, arguments


def test_without_mixed_precision_nothing_is_given():
    assert amp_options(small_config()) == {}


@pytest.mark.parametrize("name", AMP_DTYPES)
def test_only_float16_is_scaled(name, monkeypatch, caplog):
    caplog.set_level("INFO", "ocr_panoptic")
    made = torch.amp.GradScaler
    # The one of CUDA is off where there is none.
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, **how: made("cpu", **how))
    options = amp_options(
        small_config("ocr", ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", name])
    )
    assert options["precision"] == getattr(torch, name)
    assert options["grad_scaler"].is_enabled() == (name == "float16")
    assert f"SOLVER.AMP: training in {name}" in caplog.text
    assert ("gradients scaled" in caplog.text) == (name == "float16")


@pytest.mark.parametrize("name", ["float32", "fp16"])
def test_another_precision_is_refused(name):
    cfg = small_config("ocr", ["SOLVER.AMP.DTYPE", name])
    with pytest.raises(InputError, match=r"SOLVER\.AMP\.DTYPE: '.+', expected one of float16 bflo"):
        check_values(cfg, train=True, processes=1)


@pytest.mark.parametrize(
    ("name", "overrides", "cures"),
    [
        (
            "ocr",
            [],
            "MODEL.SEM_SEG_HEAD.OCR.CHECKPOINT_ACTIVATIONS True or SOLVER.AMP.ENABLED True",
        ),
        (
            "ocr",
            ["MODEL.SEM_SEG_HEAD.OCR.CHECKPOINT_ACTIVATIONS", True],
            "a smaller INPUT.MAX_SIZE_TRAIN or SOLVER.AMP.ENABLED True",
        ),
        (
            "baseline",
            ["SOLVER.AMP.ENABLED", True],
            "expected fewer images or a smaller INPUT.MAX_SIZE_TRAIN",
        ),
        ("mask_rcnn", [], "a smaller INPUT.MAX_SIZE_TRAIN or SOLVER.AMP.ENABLED True"),
    ],
)
def test_too_little_memory_is_one_line_with_cures(name, overrides, cures):
    with (
        pytest.raises(InputError, match=r"SOLVER\.IMS_PER_BATCH: 2, 2 a process") as caught,
        enough_memory(small_config(name, overrides)),
    ):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert str(caught.value).endswith(cures)


def test_a_training_without_memory_is_one_line(datasets_root, tmp_path, monkeypatch, capsys):
    def forward(self, batched_inputs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    build = Trainer.build_model

    def build_model(cfg):
        model = build(cfg)
        model.__class__ = type("TooLarge", (type(model),), {"forward": forward})
        return model

    monkeypatch.setattr(Trainer, "build_model", staticmethod(build_model))
    main = load_tool("tools/train_net.py").main
    assert main(arguments(tmp_path, overrides=UNTESTED)) == BAD_INPUT
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: SOLVER.IMS_PER_BATCH: 2, 2 a process, need more memory")
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
