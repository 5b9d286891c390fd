"""Train a small Panoptic-FPN + OCR two iterations on a handful of Shapes, and evaluate it.

Called by :mod:`.child`, in a process of its own. Everything is in a temporary folder.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

__all__ = ["attempt"]

_CONFIG = "configs/Shapes-PanopticSegmentation/panoptic_fpn_ocr_tiny.yaml"
_ITERATIONS = 2
_IMAGES = 2
_SETTINGS = (
    *("SOLVER.MAX_ITER", _ITERATIONS, "SOLVER.STEPS", (), "SOLVER.IMS_PER_BATCH", _IMAGES),
    *("INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96, "SEED", 1),
    # Through processes, as in a training.
    *("DATALOADER.NUM_WORKERS", 2),
)


def attempt(name: str) -> dict:
    """Train and evaluate on one device.

    Args:
        name: the device and how it computes: ``"cpu float32"``, ``"cuda:0 float32"`` or
            ``"cuda:0 AMP"``.

    Returns:
        ``training`` and ``evaluation``, seconds; ``loss``, of the last iteration; ``PQ``, which
        means nothing after two iterations.

    Raises:
        RuntimeError: if nothing was learnt, or a number is none.
        BaseException: whatever training raises.
    """
    with tempfile.TemporaryDirectory(prefix="ocr_panoptic_doctor_") as folder:
        return _attempt(*name.split(), Path(folder))


def _attempt(device: str, precision: str, folder: Path) -> dict:
    import torch

    from ocr_panoptic.data.shapes.register import register_shapes
    from ocr_panoptic.data.shapes.writer import write_shapes
    from ocr_panoptic.engine.setup import check_config, load_config, prepare_run
    from ocr_panoptic.engine.trainer import Trainer
    from ocr_panoptic.evaluation.metrics import summarise

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    shapes = write_shapes(folder / "shapes", train=_IMAGES, val=1, size=96, seed=0, processes=1)
    # In one process after another, with a name for each.
    name = f"doctor_{device}_{precision}".replace(":", "_")
    for split in ("train", "val"):
        register_shapes(f"{name}_{split}", shapes, split)
    train, val = f"{name}_train_separated", f"{name}_val_separated"
    settings = {
        "DATASETS.TRAIN": (train,),
        "DATASETS.TEST": (),
        "MODEL.DEVICE": device,
        "OUTPUT_DIR": folder / "run",
        "SOLVER.AMP.ENABLED": precision == "AMP",
    }
    words = [*_SETTINGS, *(word for pair in settings.items() for word in pair)]
    config = Path(__file__).resolve().parents[2] / _CONFIG
    cfg = load_config(str(config), [str(word) for word in words])
    changes = check_config(cfg, train=True)
    cfg.freeze()
    prepare_run(cfg, argparse.Namespace(config_file=str(config)), changes, quiet=True)

    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    start = time.monotonic()
    trainer.train()
    trained = time.monotonic()
    loss = float(trainer.storage.latest()["total_loss"][0])
    parameters = list(trainer.model.parameters())
    moved = [not torch.equal(*pair) for pair in zip(before, parameters, strict=True)]
    if not (any(moved) and all(torch.isfinite(parameter).all() for parameter in parameters)):
        raise RuntimeError(
            f"after {_ITERATIONS} iterations the weights are unchanged or not finite"
        )

    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (val,)
    metrics = summarise(Trainer.test(cfg, trainer.model), cfg.TEST.DTYPE)
    evaluated = time.monotonic()
    if not (math.isfinite(loss) and math.isfinite(metrics.get("PQ", math.nan))):
        raise RuntimeError(f"the loss is {loss}, PQ {metrics.get('PQ')}, expected numbers")
    return {
        "training": trained - start,
        "evaluation": evaluated - trained,
        "loss": loss,
        "PQ": metrics["PQ"],
    }
