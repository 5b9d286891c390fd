"""The table at the end of a run: its numbers beside the published ones of its config."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from tabulate import tabulate

from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.metrics import summarise
from ocr_panoptic.files import write_text

from .progress import clock
from .published import Published, config_differences, find_published
from .trainer import Trainer

__all__ = [
    "RunFacts",
    "begin_summary",
    "facts_of_checkpoint",
    "facts_of_training",
    "write_summary",
]

_logger = logging.getLogger(__name__)

_FILES = ("summary.json", "summary.md")
# Metric -> its name in the table. SQ and RQ of things and stuff are logged by the evaluation.
_ROWS = {
    **{"PQ": "PQ", "SQ": "SQ", "RQ": "RQ", "PQ_th": "PQ things", "PQ_st": "PQ stuff"},
    **{"box_AP": "box AP", "mask_AP": "mask AP", "mIoU": "mIoU"},
}
_NONE = "-"
# Of the differences to what was published, as many are told; the json has all.
_MOST_DIFFERENCES = 6


@dataclass(frozen=True)
class RunFacts:
    """What a table of results must say of how they were made.

    Attributes:
        trained: by this run, or before it.
        weights: that the training started from, or that were evaluated; "" for random ones.
        iterations: of the training, None where the checkpoint does not say.
        resumed_at: iteration at which this run went on, 0 where it did not.
        seed: of the training, None where the checkpoint does not say.
        training_images: of the data sets trained on, None where it is not known.
        evaluated_images: data set -> images.
        seconds: that this run took, training with its evaluations, or the evaluation alone.
    """

    trained: bool
    weights: str
    iterations: int | None
    resumed_at: int
    seed: int | None
    training_images: int | None
    evaluated_images: Mapping[str, int]
    seconds: float


def facts_of_training(trainer: Trainer, seconds: float) -> RunFacts:
    """Return the facts of a training that has ended, and took ``seconds`` with its evaluations."""
    loader = trainer.data_loader
    return RunFacts(
        trained=True,
        weights=trainer.cfg.MODEL.WEIGHTS,
        # One that is resumed behind its end has done more.
        iterations=max(trainer.start_iter, trainer.max_iter),
        resumed_at=trainer.start_iter,
        # A resumed training goes on with the seed of its checkpoint.
        seed=getattr(loader, "seed", trainer.cfg.SEED),
        training_images=getattr(loader, "num_images", None),
        evaluated_images=trainer.evaluated_images,
        seconds=seconds,
    )


def facts_of_checkpoint(
    weights: str, rest: Mapping[str, Any], evaluated_images: Mapping[str, int], seconds: float
) -> RunFacts:
    """Return the facts of an evaluation alone.

    Args:
        weights: the checkpoint; "" for none.
        rest: what it holds besides weights; anything may be there.
        evaluated_images: data set -> images.
        seconds: that the evaluation took.
    """
    last = _integer(rest.get("iteration"))
    trainer = _mapping(rest.get("trainer"))
    return RunFacts(
        trained=False,
        weights=weights,
        iterations=None if last is None else last + 1,
        resumed_at=0,
        seed=_integer(_mapping(trainer.get("data_loader")).get("seed")),
        training_images=_integer(_mapping(trainer.get("circumstances")).get("images")),
        evaluated_images=evaluated_images,
        seconds=seconds,
    )


def _mapping(value: object) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _integer(value: object) -> int | None:
    return value if type(value) is int else None


def begin_summary(cfg: CfgNode, config_file: str) -> Published | None:
    """Prepare for the table at the end, before anything else: a run can take days.

    The summary of the run before is removed: one that fails must not leave its numbers.

    Returns:
        What is published for the config file, which may be another file at the end.

    Raises:
        InputError: there is something else in its place.
    """
    for name in _FILES:
        path = Path(cfg.OUTPUT_DIR) / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be removed ({error.strerror}), expected an earlier summary, or "
                "nothing"
            ) from error
    return find_published(config_file)


def write_summary(
    cfg: CfgNode,
    config_file: str,
    published: Published | None,
    results: Mapping[str, Any] | None,
    facts: RunFacts,
) -> None:
    """Log the final table, and write it to ``summary.md`` and ``summary.json`` in OUTPUT_DIR.

    Args:
        cfg: of the run.
        config_file: that it was made from.
        published: what :func:`begin_summary` returned.
        results: Detectron2's, by data set where there are several; None without evaluation.
        facts: of the run.

    Raises:
        InputError: if the files cannot be written; the table has been logged.
    """
    names = cfg.DATASETS.TEST if results is not None else ()
    datasets = {
        name: {
            "images": facts.evaluated_images.get(name),
            "measured": summarise(
                results if len(names) == 1 else results.get(name, {}), cfg.TEST.DTYPE
            ),
            "published": _compare(cfg, name, published, facts),
        }
        for name in names
    }
    summary = {"config": config_file, **asdict(facts), **_hardware(cfg), "datasets": datasets}
    # Each is with its data set; the loaders of a process may have been of more.
    del summary["evaluated_images"]
    text = _format(cfg, summary)
    _logger.info(f"Summary of the run:\n{text}")
    folder = Path(cfg.OUTPUT_DIR)
    try:
        write_text(folder / "summary.md", f"{text}\n")
        write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    except OSError as error:
        raise InputError(
            f"{folder}: the summary cannot be written ({error.strerror}), expected a folder that "
            "can be written to, with room"
        ) from error


def _hardware(cfg: CfgNode) -> dict[str, Any]:
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {torch.get_num_threads()} threads"
    return {
        "images_per_iteration": cfg.SOLVER.IMS_PER_BATCH,
        "processes": comm.get_world_size(),
        "device": name,
        "mixed_precision": bool(cfg.SOLVER.AMP.ENABLED),
    }


def _compare(
    cfg: CfgNode, dataset: str, published: Published | None, facts: RunFacts
) -> dict[str, Any] | None:
    """Return what is published for the config, and why it is not the same; None if nothing is."""
    if published is None:
        return None
    differences = config_differences(cfg, published.cfg, trained=facts.trained)
    theirs = published.cfg.DATASETS
    if dataset not in theirs.TEST:
        differences.insert(0, f"DATASETS.TEST {dataset} (published {', '.join(theirs.TEST)})")
    else:
        expected = published.images.get(dataset)
        differences += _other("images evaluated", facts.evaluated_images.get(dataset), expected)
    if cfg.DATASETS.TRAIN == theirs.TRAIN:
        # Under names that are the same there may be a part of it.
        expected = sum(published.images.get(name, 0) for name in theirs.TRAIN)
        differences += _other("images trained on", facts.training_images, expected)
    if not facts.trained:
        differences += _other("iterations", facts.iterations, published.cfg.SOLVER.MAX_ITER)
        if not facts.weights:
            differences.append("random weights")
        elif facts.iterations is None:
            differences.append("the weights do not say how they were trained")
    return {
        "config": published.config,
        "same_data": dataset in theirs.TEST,
        "metrics": dict(published.metrics),
        "sources": dict(published.sources),
        "comparable": not differences,
        "differences": differences,
    }


def _other(what: str, count: int | None, expected: int | None) -> list[str]:
    if not count or not expected or count == expected:
        return []
    return [f"{count} {what} (published {expected})"]


def _format(cfg: CfgNode, summary: Mapping[str, Any]) -> str:
    parts = []
    for name, row in summary["datasets"].items():
        parts += [name, _metrics_table(row["measured"], row["published"])]
        parts += _notes(row["published"])
    parts.append(_facts(cfg, summary))
    return "\n\n".join(parts)


def _metrics_table(measured: Mapping[str, Any], published: Mapping[str, Any] | None) -> str:
    columns = {"": list(_ROWS), "measured here": [measured.get(name) for name in _ROWS]}
    # Numbers of another data set say nothing beside these.
    if published is not None and published["same_data"]:
        mark = "" if published["comparable"] else " (not comparable)"
        columns[f"published{mark}"] = [published["metrics"].get(name) for name in _ROWS]
    rows = [
        (_ROWS[name], *(_NONE if value is None else f"{value:.1f}" for value in values))
        for name, *values in zip(*columns.values(), strict=True)
        if any(value is not None for value in values)
    ]
    if not rows:
        return "no metrics could be computed"
    # Without disable_numparse tabulate prints 0.0 as 0.
    return tabulate(rows, headers=list(columns), tablefmt="github", disable_numparse=True)


def _notes(published: Mapping[str, Any] | None) -> list[str]:
    if published is None:
        return []
    notes, differences = [], published["differences"]
    if published["same_data"]:
        notes.append(f"- published: {_sources(published['sources'])}")
    if differences:
        more = len(differences) - _MOST_DIFFERENCES
        told = [*differences[:_MOST_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
        notes.append(
            f"- not comparable with what is published for {published['config']}: {'; '.join(told)}"
        )
    return ["\n".join(notes)] if notes else []


def _sources(by_metric: Mapping[str, str]) -> str:
    """Name the source of most metrics, and those that have another."""
    sources = list(by_metric.values())
    main = max(dict.fromkeys(sources), key=sources.count)
    others = [
        f"{_ROWS.get(name, name)}: {source}" for name, source in by_metric.items() if source != main
    ]
    return "; ".join([main, *others])


def _facts(cfg: CfgNode, summary: Mapping[str, Any]) -> str:
    def known(value: object) -> str:
        return "not known" if value is None else str(value)

    trained, start = summary["trained"], summary["resumed_at"]
    images = f"{known(summary['training_images'])} images"
    if trained:
        images += f", {summary['images_per_iteration']} per iteration"
    dtype = cfg.TEST.DTYPE
    if trained and summary["mixed_precision"]:
        dtype += f", trained in mixed precision ({cfg.SOLVER.AMP.DTYPE})"
    processes = summary["processes"]
    trains = trained and start < summary["iterations"]
    what = " with ".join(
        name for name, done in (("training", trains), ("evaluation", summary["datasets"])) if done
    )
    what += f" from {start} on" if trains and start else ""
    what += f", {start} iterations before" if trained and not trains else ""
    rows = [
        ("config", summary["config"]),
        ("start" if trained else "weights", summary["weights"] or "random weights"),
        ("iterations", known(summary["iterations"])),
        ("trained on", images),
        *(
            ("evaluated on", f"{known(row['images'])} images, {name}")
            for name, row in summary["datasets"].items()
        ),
        ("seed", known(summary["seed"])),
        ("dtype", dtype),
        ("hardware", (f"{processes} x " if processes > 1 else "") + summary["device"]),
        ("time", f"{clock(summary['seconds'])}, {what.removeprefix(', ')}"),
    ]
    return "\n".join(f"- {name}: {value}" for name, value in rows)
