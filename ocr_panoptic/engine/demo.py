"""The demo: from nothing to a trained, evaluated, drawn Panoptic-FPN + OCR on the CPU."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.hooks import EvalHook
from tqdm import tqdm

from ocr_panoptic.data.shapes.difficulty import EASY
from ocr_panoptic.data.shapes.register import register_shapes
from ocr_panoptic.data.shapes.writer import write_shapes
from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.metrics import format_metrics
from ocr_panoptic.files import require_folder
from ocr_panoptic.known_warnings import silence_known_warnings
from ocr_panoptic.visualization.curves import draw_loss_curves, read_metrics
from ocr_panoptic.visualization.report import Report, write_report
from ocr_panoptic.visualization.run_report import class_tables, examples_of_run, metric_tables

from .schedule import follow_reference_batch
from .setup import check_config, load_config, prepare_run
from .trainer import Trainer, results_folder

__all__ = ["run_demo"]


_OWN_KEYS = ("OUTPUT_DIR", "DATASETS.TRAIN", "DATASETS.TEST")
_MARK = ".demo"


class _DemoTrainer(Trainer):
    """Leaves the evaluation to the demo, and says how far that is."""

    def build_hooks(self) -> list:
        return [hook for hook in super().build_hooks() if not isinstance(hook, EvalHook)]

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        loader = super().build_test_loader(cfg, dataset_name)
        return tqdm(loader, desc="evaluating", unit="image", dynamic_ncols=True)


def run_demo(
    config_file: str,
    output: Path,
    *,
    train_images: int,
    val_images: int,
    overrides: Sequence[str] = (),
    examples: int = 12,
) -> dict[str, str | float]:
    """Make Shapes, train a config on them, evaluate it, and write metrics and a report.

    Args:
        config_file: a config for the easy Shapes.
        output: folder for ``shapes/``, the training's ``run/``, ``metrics.json`` and
            ``report.html``: a new or empty one, or one of an earlier demo. Its run is replaced
            when all that can be checked has been; its Shapes are used again if they have the same
            numbers of images.
        train_images: images to train on.
        val_images: held-out images to evaluate on.
        overrides: keys and values in turn, applied to the config.
        examples: images in the report.

    Returns:
        The headline metrics, as in ``metrics.json``.

    Raises:
        InputError: for a config, a number or a folder that cannot be used.
    """
    start = time.monotonic()
    for key in overrides[::2]:
        if key in _OWN_KEYS:
            raise InputError(f"{key}: the demo sets it, expected another key")
    cfg = load_config(config_file, list(overrides))
    _claim(output)
    train_name, val_name = _prepare(output / "shapes", train_images, val_images)
    run = output / "run"
    cfg.OUTPUT_DIR = str(run)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train_name,), (val_name,)
    scaled = follow_reference_batch(cfg, config_file, overrides)
    changes = [*scaled, *check_config(cfg, train=True)]
    cfg.freeze()
    for name in ("metrics.json", "report.html"):
        # From here on, a demo that fails must not leave the numbers of the one before.
        (output / name).unlink(missing_ok=True)
    shutil.rmtree(run)
    prepare_run(cfg, argparse.Namespace(config_file=config_file), changes, quiet=True)
    silence_known_warnings()

    trainer = _DemoTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    trained = time.monotonic()
    with (
        # COCO's own tables go to a file; the summary is printed once, at the end.
        (run / "evaluation.txt").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
    ):
        results = _DemoTrainer.test(cfg, trainer.model)
    shutil.copy(results_folder(cfg, val_name) / "metrics.json", output)
    metrics = json.loads((output / "metrics.json").read_text())

    trainer.model.eval()
    report = Report(
        title="Panoptic-FPN + OCR on Shapes",
        subtitle=f"Trained from scratch, evaluated on {val_images} images it has not seen. "
        "Shapes are synthetic: the numbers say that the pipeline is right, not how good the model "
        "is on photographs.",
        command=f"python tools/demo.py --config-file {os.path.relpath(config_file)}",
        facts=_facts(cfg, metrics["dtype"], trained - start, time.monotonic() - trained),
        metrics=metric_tables(metrics),
        per_class=class_tables(results),
        losses_svg=draw_loss_curves(read_metrics(run / "metrics.json")),
        examples=examples_of_run(
            trainer.model, Trainer.build_test_loader(cfg, val_name), val_name, examples
        ),
    )
    write_report(output / "report.html", report)
    print(format_metrics(metrics))
    print(f"\n{output / 'metrics.json'}\n{output / 'report.html'}")
    return metrics


def _claim(output: Path) -> None:
    """Mark ``output`` as a demo's, whose content it may replace."""
    mark = output / _MARK
    if output.is_dir() and any(output.iterdir()) and not mark.is_file():
        raise InputError(
            f"--output {output}: holds something else than a demo, expected a new or empty folder"
        )
    require_folder(output, "--output")
    mark.touch()


def _prepare(root: Path, train_images: int, val_images: int) -> tuple[str, str]:
    """Make Shapes in ``root`` unless they are there, and register them; returns the names."""
    counts = {"train": train_images, "val": val_images}
    for split, count in counts.items():
        if count < 1:
            raise InputError(f"--{split} {count}: expected 1 picture or more")
    if {split: _count_files(root / split) for split in counts} != counts:
        shutil.rmtree(root, ignore_errors=True)
        write_shapes(root, train=train_images, val=val_images, size=EASY.size, seed=0)
    for split in counts:
        name = f"demo_shapes_{split}"
        for registered in (f"{name}_separated", f"{name}_stuffonly"):
            # Of an earlier demo in this process, in another folder.
            DatasetCatalog.pop(registered, None)
            MetadataCatalog.pop(registered, None)
        register_shapes(name, root, split, EASY.name)
    return "demo_shapes_train_separated", "demo_shapes_val_separated"


def _count_files(folder: Path) -> int:
    return len(os.listdir(folder)) if folder.is_dir() else 0


def _facts(cfg: CfgNode, dtype: str, training: float, evaluation: float) -> list[tuple[str, str]]:
    device = torch.device(cfg.MODEL.DEVICE)
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return [
        ("Iterations", f"{cfg.SOLVER.MAX_ITER:,}"),
        ("Images per batch", str(cfg.SOLVER.IMS_PER_BATCH)),
        ("Seed", str(cfg.SEED)),
        ("Device", where),
        ("dtype", dtype),
        ("Data and training", f"{training / 60:.1f} min"),
        ("Evaluation", f"{evaluation:.0f} s"),
    ]
