"""Whether a converted checkpoint is what the model of a config starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from fvcore.common.checkpoint import _IncompatibleKeys

from ocr_panoptic.engine.build import built_from_config
from ocr_panoptic.engine.checkpoint import Checkpointer
from ocr_panoptic.engine.prediction import check_prediction
from ocr_panoptic.errors import InputError

__all__ = ["differing_keys", "load_into_model"]

# They have the same weights, and compute the same where they do not learn.
_BATCH_NORMS = ("BN", "SyncBN", "FrozenBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")


class _Listening(Checkpointer):
    """Remembers what does not fit, beside what it says of it."""

    missing: tuple[str, ...] = ()

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        self.missing = tuple(incompatible.missing_keys)
        super()._log_incompatible_keys(incompatible)


def load_into_model(cfg: CfgNode, path: Path, known_as: Path) -> list[str]:
    """Load a checkpoint into the model of a config, as a training does with MODEL.WEIGHTS.

    Args:
        cfg: the config; its model is built on the CPU.
        path: the checkpoint.
        known_as: what errors call it.

    Returns:
        The names that the checkpoint does not have, of those that it may be without.

    Raises:
        InputError: it does not fit, or the config has a mistake.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    check_prediction(cfg, known_as.parent)
    with built_from_config():
        model = build_model(cfg)
    checkpointer = _Listening.of_config(cfg, model)
    try:
        checkpointer.load(str(path))
    except InputError as error:
        raise InputError(f"--config-file: {error}".replace(str(path), str(known_as))) from error
    return list(checkpointer.missing)


def differing_keys(cfg: CfgNode, expected: Mapping[str, object]) -> dict[str, object]:
    """Return those of the keys that weights need which a config has otherwise."""
    differing = {}
    for key, value in expected.items():
        node: object = cfg
        for part in key.split("."):
            node = node[part]
        alike = key.endswith("NORM") and node in _BATCH_NORMS and value in _BATCH_NORMS
        found = list(node) if isinstance(node, tuple) else node
        if found != value and not alike:
            differing[key] = value
    return differing
