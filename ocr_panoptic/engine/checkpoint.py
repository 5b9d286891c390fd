"""Checkpoints: written whole or not at all, read without running them, and checked to fit."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.parse import parse_qs, urlparse

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import nn

from ocr_panoptic.config import ALLOW_MISSING, ALLOW_UNUSED
from ocr_panoptic.errors import InputError, printable
from ocr_panoptic.files import replacing

from .matching import describe_start, require_equal_keys, require_whole_model
from .safe_load import load_checkpoint_file

__all__ = ["Checkpointer", "last_checkpoint"]

# Of a key, those of models have less than 100; of a reason in a message.
_MOST_LETTERS = 200


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, for files of others, disks that fill up and runs that are killed.

    Files are read by :func:`~.safe_load.load_checkpoint_file`. Weights to start from may leave out
    what :func:`~.matching.describe_start` says; those to evaluate or predict with must be
    complete, and a checkpoint to resume from must fit entirely.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        allow_missing: Sequence[str] = ALLOW_MISSING,
        allow_unused: Sequence[str] = ALLOW_UNUSED,
        trust: bool = False,
        complete: bool = False,
        **kwargs,
    ) -> None:
        """Prepare to load and save a model.

        Args:
            model: that weights are loaded into.
            save_dir: folder for checkpoints.
            allow_missing: as MODEL.ALLOW_MISSING.
            allow_unused: as MODEL.ALLOW_UNUSED.
            trust: as MODEL.TRUST_CHECKPOINT.
            complete: whether nothing may be missing, as what is evaluated is not trained any more.
            kwargs: as for Detectron2's; what else to save and to resume.
        """
        super().__init__(model, save_dir, **kwargs)
        self._allow_missing, self._allow_unused = allow_missing, allow_unused
        self._trust, self._complete = trust, complete
        self._resuming = False

    @classmethod
    def of_config(
        cls, cfg: CfgNode, model: nn.Module, save_dir: str = "", **kwargs
    ) -> Checkpointer:
        """Return a checkpointer that loads as a config says."""
        return cls(
            model,
            save_dir,
            allow_missing=cfg.MODEL.ALLOW_MISSING,
            allow_unused=cfg.MODEL.ALLOW_UNUSED,
            trust=cfg.MODEL.TRUST_CHECKPOINT,
            **kwargs,
        )

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Resume from the folder's last checkpoint, or else load weights; one line says which.

        Args:
            path: weights to load where there is nothing to resume from; "" for none.
            resume: whether to resume at all.

        Returns:
            What else the checkpoint holds.

        Raises:
            InputError: if the checkpoint cannot be loaded, or does not fit; names it. If there is
                none to be evaluated. If a folder is where the name of the last one is kept.
        """
        tag = Path(self.save_dir) / "last_checkpoint"
        if self.save_dir and tag.is_dir():
            raise InputError(
                f"{tag}: is a folder, expected a file that names a checkpoint, or none"
            )
        last = self.get_checkpoint_file()
        if resume and last:
            return self._resume(last)
        if resume and self._complete:
            raise InputError(
                f"--resume: {self.save_dir} holds no checkpoint, expected one to evaluate; without "
                "--resume MODEL.WEIGHTS is evaluated"
            )
        why = f"{self.save_dir} holds no checkpoint" if resume else "--resume was not given"
        there = f", though {last} is there" if last else ""
        weights = f"the weights {path}" if path else "random weights"
        self.logger.info(f"not resumed, as {why}{there}: starting from {weights} at iteration 0")
        return self.load(path, checkpointables=[])

    def _resume(self, path: str) -> dict:
        self._resuming = True
        try:
            rest = self.load(path, checkpointables=[])
        finally:
            self._resuming = False
        for key, part in self.checkpointables.items():
            try:
                part.load_state_dict(rest.pop(key))
            except (
                *(AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError),
            ) as error:
                # Of an optimizer with other groups, a gradient scaler that was not there; of what
                # somebody has put in their place, anything.
                raise InputError(
                    f"--resume: {path}: its {key} is not of this config ({_reason(error)}), "
                    "expected the config it was trained with"
                ) from error
        last = rest.get("iteration")
        at = f" at iteration {last + 1}" if isinstance(last, int) else ""
        self.logger.info(f"resumed from {path}{at}")
        return rest

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        """Load weights as Detectron2 does.

        Raises:
            InputError: if the file is missing, cannot be downloaded, is refused or no checkpoint,
                or does not fit; names it.
        """
        source = "--resume" if self._resuming else "MODEL.WEIGHTS"
        try:
            if path:
                self._require_file(path)
            return super().load(path, checkpointables)
        except InputError as error:
            # A file that was downloaded has a name of its own.
            address = "" if str(error).startswith(path) else f"{path}: "
            raise InputError(f"{source}: {address}{error}") from error
        finally:
            # Detectron2 forgets it only where all went well.
            self._parsed_url_during_load = None

    def _require_file(self, path: str) -> None:
        """See that a path or an address names a file; downloads it to Detectron2's cache."""
        try:
            local = self.path_manager.get_local_path(_without_query(path))
        except URLError as error:
            raise InputError(
                f"{path} cannot be downloaded ({error.reason}), expected a local file or an "
                "address that can be reached"
            ) from error
        # What the path manager and its catalogs say to an address that they do not know.
        except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{path} cannot be fetched ({_reason(error)}), expected a local file or an "
                "address that can be reached"
            ) from error
        if not os.path.isfile(local):
            raise InputError(f"{path} does not exist, expected a checkpoint")

    def get_checkpoint_file(self) -> str:
        """Return the :func:`last_checkpoint` of the folder, "" if there is none."""
        return last_checkpoint(self.save_dir) if self.save_dir else ""

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to resume from."""
        return bool(self.get_checkpoint_file())

    def save(self, name: str, **kwargs) -> None:
        """Save as Detectron2 does, but so that the file appears whole, on the disk, or not at all.

        Raises:
            InputError: if it cannot be written; what was there before is untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        data.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        last = self.get_checkpoint_file()
        with self._writing(path, f", {last} is the last one" if last else ""):
            self._remove_leftovers()
            with replacing(path) as temporary:
                try:
                    torch.save(data, temporary)
                except RuntimeError:
                    _raise_of_system(temporary)
                    raise
                _sync(temporary)
        with self._writing(path.with_name("last_checkpoint"), f", {path} is the last one"):
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the last checkpoint in ``last_checkpoint``, which is replaced as a whole."""
        path = Path(self.save_dir) / "last_checkpoint"
        with replacing(path) as temporary:
            temporary.write_text(last_filename_basename, encoding="utf-8")
            _sync(temporary)
        # Network file systems may have no such thing for a folder.
        with contextlib.suppress(OSError):
            _sync(path.parent)

    def _remove_leftovers(self) -> None:
        """Remove what killed runs have left half-written, each as large as a checkpoint."""
        for pattern in (".*.pth.*.tmp", ".last_checkpoint.*.tmp"):
            for path in Path(self.save_dir).glob(pattern):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self, path: Path, last: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            free = ""
            # Of a folder that is gone there is none.
            with contextlib.suppress(OSError):
                free = f", {shutil.disk_usage(self.save_dir).free // 2**20} MB are free"
            raise InputError(
                f"{path}: the checkpoint cannot be written ({_reason(error)}){free}{last}; "
                "expected a folder that can be written to, with room"
            ) from error

    def _load_file(self, filename: str) -> dict:
        """Return the dict of a file, its weights, tensors, in "model"; as Detectron2's own.

        Unlike that one by the content: a pickle alone is of a model zoo, whatever its name.
        """
        content, is_zip = load_checkpoint_file(filename, trust=self._trust)
        if not isinstance(content, dict):
            raise _no_checkpoint(filename, f"a {type(content).__name__}")
        queries = parse_qs(self._parsed_url_during_load.query)
        if filename.endswith(".pyth") and "model_state" in content:
            content = {"model": content["model_state"], "matching_heuristics": True}  # of pycls
        elif "model" not in content and is_zip:
            content = {"model": content}
        elif "model" not in content:
            content = _of_caffe2(content, filename)
        if queries.pop("matching_heuristics", ["False"]) == ["True"]:
            content["matching_heuristics"] = True
        if queries:
            raise InputError(
                f"{filename}: {', '.join(queries)} behind its '?', expected matching_heuristics"
            )
        self._require_state(content, filename)
        content["model"] = _tensors(content["model"], filename)
        author = content.get("__author__")
        if isinstance(author, str):
            self.logger.info(f"Reading a file from '{printable(author[:80])}'")
        return content

    def _require_state(self, content: dict, filename: str) -> None:
        """See that a file has what a training goes on with, if there is one."""
        if not self._resuming or not self.checkpointables:
            return
        absent = {"iteration", *self.checkpointables} - set(content)
        if absent or type(content["iteration"]) is not int:
            raise InputError(
                f"{filename} has no {' and no '.join(sorted(absent)) or 'number of iterations'}, "
                "expected a checkpoint of a training that can go on; MODEL.WEIGHTS takes weights "
                "alone"
            )
        last = content["iteration"]
        for key in self.checkpointables:
            part = content[key]
            of_part = part.get("iteration", last) if isinstance(part, Mapping) else last
            if last < 0 or type(of_part) is not int or of_part != last:
                raise InputError(
                    f"{filename}: its iteration is {last}, its {key}'s {_reason(of_part)}, "
                    "expected the same, 0 or more"
                )

    def _load_model(self, checkpoint: dict) -> _IncompatibleKeys:
        try:
            return super()._load_model(checkpoint)
        except (AssertionError, IndexError, ValueError) as error:
            # Of Detectron2's heuristics, which take names apart.
            raise InputError(f"its names cannot be matched ({_reason(error)})") from error

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        if self._resuming:
            require_equal_keys(self.model, incompatible)
            return
        if self._complete:
            require_whole_model(self.model, incompatible, self._allow_missing)
        for line in describe_start(
            self.model, incompatible, self._allow_missing, self._allow_unused
        ):
            self.logger.warning(line)


def last_checkpoint(folder: str | os.PathLike[str]) -> str:
    """Return the last whole checkpoint of a folder, "" if there is none.

    That is what ``last_checkpoint`` names. Where a crash has left that file empty, or someone has
    removed the one it names, it is the newest ``model_*.pth``.
    """
    folder = Path(folder)
    with contextlib.suppress(OSError, ValueError):
        name = (folder / "last_checkpoint").read_text(encoding="utf-8").strip()
        if name and name == Path(name).name and (folder / name).is_file():
            return str(folder / name)
    ages = {p: (p.stat().st_mtime_ns, p.name) for p in folder.glob("model_*.pth")}
    return str(max(ages, key=ages.__getitem__)) if ages else ""


def _of_caffe2(content: dict, filename: str) -> dict:
    blobs = content.get("blobs", content)  # a classifier has its weights at the top
    if not isinstance(blobs, dict):
        raise _no_checkpoint(filename, f"a {type(blobs).__name__} for its blobs")
    # Without those of the optimizer.
    weights = {
        key: blob
        for key, blob in blobs.items()
        if not (isinstance(key, str) and key.endswith("_momentum"))
    }
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _tensors(weights: object, filename: str) -> dict[str, torch.Tensor]:
    """Return weights as they are, arrays as tensors; an OrderedDict keeps torch's versions."""
    if not isinstance(weights, dict):
        raise _no_checkpoint(filename, f"a {type(weights).__name__} for its weights")
    for key in list(weights):
        value = weights[key]
        # Names end up in logs and on terminals.
        if not isinstance(key, str) or not key.isprintable() or len(key) > _MOST_LETTERS:
            raise _no_checkpoint(filename, "weights under something else than a name")
        if isinstance(value, np.ndarray):
            try:
                weights[key] = torch.from_numpy(value)
            except TypeError as error:
                raise _no_checkpoint(filename, f"{key} of {value.dtype}") from error
        elif not isinstance(value, torch.Tensor):
            raise _no_checkpoint(filename, f"{key}, a {type(value).__name__}")
    return weights


def _no_checkpoint(filename: str, found: str) -> InputError:
    return InputError(
        f"{filename} is no checkpoint (it holds {found}), expected names and tensors, alone or in "
        "'model'"
    )


def _without_query(path: str) -> str:
    return urlparse(path)._replace(query="").geturl()


def _reason(error: object) -> str:
    words = getattr(error, "strerror", None) or str(error)
    return " ".join(words.split())[:_MOST_LETTERS] or type(error).__name__


def _raise_of_system(path: Path) -> None:
    """Raise the system's own error to writing on, if it has one: torch's writer hides it."""
    with open(path, "ab") as file:
        file.write(bytes(2**20))
        file.flush()


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
