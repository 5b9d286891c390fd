"""Loading weights: what does not fit is said in one line each, a broken file is one line too."""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.error import URLError

from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _IncompatibleKeys

from ocr_panoptic.errors import InputError

__all__ = ["Checkpointer"]


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, for models that are fine-tuned to other classes."""

    def load(self, path: str, *args, **kwargs) -> dict:
        """Load weights as Detectron2 does.

        Raises:
            InputError: if the file is missing, cannot be downloaded or is no checkpoint; names it.
        """
        if path and "://" not in path and not Path(path).is_file():
            raise InputError(f"MODEL.WEIGHTS: {path} does not exist, expected a checkpoint")
        try:
            return super().load(path, *args, **kwargs)
        except URLError as error:
            raise InputError(
                f"MODEL.WEIGHTS: {path} cannot be downloaded ({error.reason}), expected a local "
                "file or an address that can be reached"
            ) from error
        except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"MODEL.WEIGHTS: {path} is no checkpoint ({reason})") from error

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        """Name a layer of another size once, instead of every tensor of it."""
        layers = {}
        for key, in_checkpoint, in_model in incompatible.incorrect_shapes:
            layers.setdefault(key.rpartition(".")[0], (in_checkpoint, in_model))
        for layer, (in_checkpoint, in_model) in layers.items():
            self.logger.warning(
                f"{layer} starts anew: {_size(in_checkpoint)} in the checkpoint, "
                f"{_size(in_model)} in the model"
            )
        reported = {key for key, _, _ in incompatible.incorrect_shapes}
        super()._log_incompatible_keys(
            incompatible._replace(
                incorrect_shapes=[],
                missing_keys=[key for key in incompatible.missing_keys if key not in reported],
            )
        )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
