"""What is published for a config, and in which keys a run differs from it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from ocr_panoptic.config import add_ocr_panoptic_config
from ocr_panoptic.config_files import config_chain
from ocr_panoptic.evaluation.metrics import METRICS

__all__ = [
    "PUBLISHED_FILE",
    "Published",
    "config_differences",
    "find_published",
    "read_published",
    "settings",
]

PUBLISHED_FILE = "published.yaml"
"""Name of the file, in the folder of the folders of configs."""

_logger = logging.getLogger(__name__)

# Keys, or parts above them, that change where and how fast a run computes, not what.
_NEUTRAL = (
    *("OUTPUT_DIR", "VERSION", "VIS_PERIOD", "CUDNN_BENCHMARK", "SEED", "WANDB"),
    *("MODEL.DEVICE", "MODEL.TRUST_CHECKPOINT", "MODEL.ALLOW_MISSING", "MODEL.ALLOW_UNUSED"),
    *("MODEL.SEM_SEG_HEAD.OCR.CHECKPOINT_ACTIVATIONS",),
    *("MODEL.SEM_SEG_HEAD.CONTEXT.CHECKPOINT_ACTIVATIONS",),
    *("DATALOADER.NUM_WORKERS", "DATASETS.CACHE", "DATASETS.CUSTOM"),
    *("SOLVER.CHECKPOINT_PERIOD", "SOLVER.REFERENCE_BATCH", "SOLVER.REFERENCE_WORLD_SIZE"),
    *("SOLVER.NONFINITE", "SOLVER.NONFINITE_SKIPS"),
    *("TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "TEST.PANOPTIC"),
    # Told for each data set of a run.
    "DATASETS.TEST",
)
# Of training alone: what an evaluation is given there was not used by the training.
_OF_TRAINING = (
    *("SOLVER", "DATALOADER", "DATASETS.TRAIN", "DATASETS.PROPOSAL_FILES_TRAIN", "MODEL.WEIGHTS"),
    *("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.MAX_SIZE_TRAIN"),
    *("INPUT.RANDOM_FLIP", "INPUT.CROP", "MODEL.BACKBONE.FREEZE_AT"),
)


@dataclass(frozen=True)
class Published:
    """The published numbers of a config.

    Attributes:
        config: the file, as its folder and name.
        metrics: percent, by the names of ``metrics.json``.
        sources: of each of them: the paper or list and its table.
        images: of each data set that they were made with.
        cfg: the config as it is in that file.
    """

    config: str
    metrics: Mapping[str, float]
    sources: Mapping[str, str]
    images: Mapping[str, int]
    cfg: CfgNode


def find_published(config_file: str) -> Published | None:
    """Return what is published for a config file, or for the first that it is based on.

    None is, where neither is a config of a folder with a :data:`PUBLISHED_FILE` that names it.
    """
    for name, _ in config_chain(config_file):
        path = Path(name).resolve()
        table = path.parent.parent / PUBLISHED_FILE
        rows, images = read_published(table) if table.is_file() else ({}, {})
        config = f"{path.parent.name}/{path.stem}"
        if config in rows:
            cfg = get_cfg()
            add_ocr_panoptic_config(cfg)
            cfg.merge_from_file(str(path), allow_unsafe=False)
            return Published(config, *rows[config], images, cfg)
    return None


def read_published(
    path: Path,
) -> tuple[dict[str, tuple[dict[str, float], dict[str, str]]], dict[str, int]]:
    """Read a table of published numbers.

    Returns:
        Config -> the metrics that are published for it, in percent, and the source of each; and
        data set -> images. A file that is no such table is nobody's mistake here: both are empty
        then, and a line says so.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = {}
        for config, parts in content["configs"].items():
            found = [
                (name, float(value), content["sources"][source])
                for source, part in parts.items()
                for name, value in part.items()
            ]
            names = [name for name, *_ in found]
            if len(set(names)) < len(names) or set(names) - set(METRICS):
                raise ValueError(f"{config}: {', '.join(names)}")
            rows[config] = ({n: v for n, v, _ in found}, {n: source for n, _, source in found})
        return rows, {name: int(count) for name, count in content["images"].items()}
    except (AttributeError, KeyError, OSError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        _logger.warning(f"{path}: no table of published numbers ({reason}), not used")
        return {}, {}


def config_differences(cfg: CfgNode, published: CfgNode, *, trained: bool) -> list[str]:
    """Say in which keys a run is not what was published.

    Args:
        cfg: of the run.
        published: of the published row.
        trained: whether the run trained; of an evaluation alone, keys of training say nothing.

    Returns:
        One "KEY value (published value)" for each, in the order of the keys.
    """
    ignored = () if trained else _OF_TRAINING
    ours, theirs = settings(cfg, ignored), settings(published, ignored)
    return [
        f"{key} {ours.get(key, 'missing')} (published {theirs.get(key, 'missing')})"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    ]


def settings(cfg: CfgNode, ignored: Iterable[str] = ()) -> dict[str, Any]:
    """Return key -> value of what changes the results of a run, in the order of the config.

    Args:
        cfg: of the run.
        ignored: keys, or parts above them, that are left out besides.
    """
    ignored = (*_NEUTRAL, *ignored)
    return {
        key: value
        for key, value in _flat(cfg)
        if not any(key == part or key.startswith(f"{part}.") for part in ignored)
    }


def _flat(cfg: CfgNode, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{above}{key}.")
        else:
            # A yaml has lists where a default is a tuple.
            yield f"{above}{key}", tuple(value) if isinstance(value, list) else value
