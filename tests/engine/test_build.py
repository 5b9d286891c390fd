"""What Detectron2 refuses to build is one line; what this package does wrong is a traceback."""

import logging

import pytest
from detectron2.modeling import build_model

from ocr_panoptic.engine import build, prediction
from ocr_panoptic.engine.build import built_from_config
from ocr_panoptic.engine.trainer import Trainer
from ocr_panoptic.errors import InputError

from ..models import small_config

# Nothing that is checked by its key: Detectron2 asserts that there is a layer.
UNTHOUGHT = ["MODEL.ROI_BOX_HEAD.NUM_FC", 0, "MODEL.ROI_BOX_HEAD.NUM_CONV", 0]


@pytest.mark.parametrize("make", [Trainer.build_model, prediction.load_model])
def test_what_detectron2_refuses(make, caplog):
    caplog.set_level(logging.DEBUG)
    cfg = small_config("ocr", UNTHOUGHT)
    with pytest.raises(InputError) as caught:
        make(cfg)
    line = str(caught.value)
    assert line.startswith("the config: its model cannot be built (AssertionError in __init__ of ")
    assert "box_head.py: assert len(conv_dims) + len(fc_dims) > 0" in line
    assert line.endswith("expected values of MODEL that go together")
    assert "Traceback" in caplog.text


def test_a_bug_of_this_package_keeps_its_traceback(monkeypatch):
    cfg = small_config("ocr", UNTHOUGHT)
    # As if the file that asserts it were one of this package's.
    with pytest.raises(AssertionError) as caught:
        build_model(cfg)
    asserting = caught.traceback[-1].path.parent
    monkeypatch.setattr(build, "_PACKAGE", asserting)
    with pytest.raises(AssertionError), built_from_config():
        build_model(cfg)


def test_what_is_no_refusal_passes():
    with pytest.raises(RuntimeError, match="memory"), built_from_config():
        raise RuntimeError("out of memory")
    with pytest.raises(InputError, match=r"^A\.B: 1, expected 2$"), built_from_config():
        raise InputError("A.B: 1, expected 2")
