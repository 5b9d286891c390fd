"""The training of two iterations, in this process."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from ocr_panoptic.doctor import self_test
from ocr_panoptic.engine.trainer import Trainer


@pytest.fixture
def quick(monkeypatch):
    """No worker processes, which only a training has to prove."""
    settings = [*self_test._SETTINGS]
    settings[settings.index("DATALOADER.NUM_WORKERS") + 1] = 0
    monkeypatch.setattr(self_test, "_SETTINGS", settings)
    yield
    for name in [name for name in DatasetCatalog if name.startswith("doctor_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_trains_and_evaluates(quick, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = self_test.attempt("cpu float32")
    assert found["training"] > 0
    assert found["evaluation"] > 0
    assert 0 < found["loss"] < 100
    assert 0 <= found["PQ"] <= 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nothing_learnt_is_a_failure(quick, monkeypatch):
    monkeypatch.setattr(torch.optim.Optimizer, "step", lambda *args, **options: None)
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *args, **options: None)
    with pytest.raises(RuntimeError, match="after 2 iterations the weights are unchanged"):
        self_test.attempt("cpu float32")


@pytest.mark.slow
def test_no_metric_is_a_failure(quick, monkeypatch):
    monkeypatch.setattr(Trainer, "test", lambda *args, **options: {})
    with pytest.raises(RuntimeError, match=r"PQ None, expected numbers"):
        self_test.attempt("cpu float32")
