"""Loading weights: what does not fit is said in one line each, a broken file is one line too."""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.error import URLError

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _IncompatibleKeys

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import replacing

__all__ = ["Checkpointer"]


# What unpickling and reading a file that holds something else raises.
_NOT_A_CHECKPOINT = (
    *(AssertionError, AttributeError, EOFError, ImportError, KeyError, OSError, RuntimeError),
    *(TypeError, ValueError, pickle.UnpicklingError),
)


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
        except InputError as error:
            raise InputError(f"MODEL.WEIGHTS: {path}: {error}") from error
        except URLError as error:
            raise InputError(
                f"MODEL.WEIGHTS: {path} cannot be downloaded ({error.reason}), expected a local "
                "file or an address that can be reached"
            ) from error
        except _NOT_A_CHECKPOINT as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"MODEL.WEIGHTS: {path} is no checkpoint ({reason})") from error

    def save(self, name: str, **kwargs) -> None:
        """Save as Detectron2 does, but so that the file appears whole or not at all.

        Raises:
            InputError: if it cannot be written; what was there before is untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        data.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        try:
            with replacing(path) as temporary:
                torch.save(data, temporary)
        except (OSError, RuntimeError) as error:
            # A full disk is a RuntimeError of torch's writer.
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: the checkpoint cannot be written ({reason})") from error
        self.tag_last_checkpoint(path.name)

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        """Name a layer of another size once, instead of every tensor of it.

        Raises:
            InputError: if nothing of the checkpoint fits the model.
        """
        names = {name for name, _ in self.model.named_parameters()}
        if names and names <= set(incompatible.missing_keys):
            found = ", ".join(incompatible.unexpected_keys[:3]) or "nothing"
            raise InputError(f"no key of the checkpoint is one of the model's; it holds {found}")
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
