"""Where a training's numbers go, besides Detectron2's own files: plain lines, Weights & Biases."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import secrets
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import write_text
from ocr_panoptic.random_state import preserved_random_state

from .progress import PROGRESS_LOGGER, Progress, clock, read_progress

__all__ = ["ProgressPrinter", "WandbWriter", "import_wandb"]

_logger = logging.getLogger(__name__)
_progress_logger = logging.getLogger(PROGRESS_LOGGER)
_WINDOW = 20


class ProgressPrinter(EventWriter):
    """Logs the progress as one line, in the place of Detectron2's CommonMetricPrinter.

    Stores ``eta_seconds`` as that does, for the writers behind it.
    """

    def __init__(self, max_iter: int, device: str) -> None:
        """Take the length of the training, and the device whose memory is shown."""
        self._max_iter, self._device = max_iter, device
        self._told = 0

    def write(self) -> None:
        """Log where the training is, unless it has been told: writers are called at its end too."""
        storage = get_event_storage()
        progress = read_progress(storage, self._max_iter, self._device)
        if progress is None or progress.done == self._told:
            return
        self._told = progress.done
        if progress.eta is not None:
            storage.put_scalar("eta_seconds", progress.eta, smoothing_hint=False)
        _progress_logger.info(_plain_line(progress))


def _plain_line(progress: Progress) -> str:
    fields = [f"iter {progress.done}/{progress.total}", f"eta {clock(progress.eta)}"]
    if progress.images_per_second is not None:
        fields.append(f"{progress.images_per_second:.3g} images/s")
    if progress.seconds is not None:
        waiting = progress.data_seconds
        data = f" ({waiting:.2g} for data)" if waiting is not None else ""
        fields.append(f"{progress.seconds:.3g} s/iter{data}")
    fields.append(f"mem {progress.memory / 2**30:.2f} GiB")
    if progress.lr is not None:
        fields.append(f"lr {progress.lr:.4g}")
    parts = ", ".join(f"{name} {value:.3g}" for name, value in progress.losses.items())
    fields.append(f"loss {progress.loss:.4g}" + (f" ({parts})" if parts else ""))
    fields += [f"{name} {value:.4g}" for name, value in progress.metrics.items()]
    return "  ".join(fields)


def import_wandb() -> ModuleType:
    """Return the module wandb, which is no dependency.

    Raises:
        InputError: it is not installed, or its own needs are not.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise InputError(
            f"WANDB.ENABLED: True, but wandb cannot be imported ({error}), expected it to be "
            "installed: pip install wandb"
        ) from error


def _leaves_random_numbers_alone(method: Callable) -> Callable:
    @functools.wraps(method)
    def call(self, *args, **kwargs):
        with preserved_random_state():
            return method(self, *args, **kwargs)

    return call


class WandbWriter(EventWriter):
    """Logs every stored number to a run of Weights & Biases, as Detectron2's to TensorBoard.

    The run's id is kept in ``OUTPUT_DIR/wandb_run.json``, with which a resumed training goes on in
    the same run. What depends on where results go, such as WANDB_MODE=offline, is wandb's own.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Take the config of the training, which the run shows; nothing is sent yet."""
        self._cfg = cfg
        self._run = None
        self._last = -1

    @_leaves_random_numbers_alone
    def start(self, resumed: bool) -> None:
        """Start a run, or go on with the one of the training that is resumed.

        Raises:
            InputError: wandb is not installed, or refuses: nobody is logged in, no network.
        """
        wandb = import_wandb()
        settings = self._cfg.WANDB
        folder = Path(self._cfg.OUTPUT_DIR)
        path = folder / "wandb_run.json"
        run_id = _read_id(path) if resumed else None
        if run_id is None:
            run_id = secrets.token_hex(4)
            write_text(path, json.dumps({"id": run_id}) + "\n")
        try:
            self._run = wandb.init(
                project=settings.PROJECT,
                name=settings.NAME or folder.resolve().name,
                id=run_id,
                resume="allow",
                dir=str(folder),
                config=yaml.safe_load(self._cfg.dump()),
                # A resumed training may be given more iterations.
                allow_val_change=True,
            )
            # Not wandb's steps: those may not go back to a checkpoint.
            self._run.define_metric("*", step_metric="iteration")
        except wandb.Error as error:
            raise InputError(
                f"WANDB.ENABLED: True, but no run can be started ({' '.join(str(error).split())}), "
                "expected 'wandb login' and a network, or WANDB_MODE=offline"
            ) from error

    @_leaves_random_numbers_alone
    def write(self) -> None:
        """Log what was stored since the last time."""
        if self._run is None:
            return
        by_iteration = defaultdict(dict)
        stored = get_event_storage().latest_with_smoothing_hint(_WINDOW)
        for name, (value, iteration) in stored.items():
            if iteration > self._last:
                by_iteration[iteration][name] = value
        with self._going_on_without():
            for iteration, values in sorted(by_iteration.items()):
                self._run.log({"iteration": iteration, **values})
                self._last = iteration

    @_leaves_random_numbers_alone
    def close(self) -> None:
        """End the run, as failed where an exception ends the training."""
        if self._run is not None:
            failed = sys.exc_info()[0] is not None
            with self._going_on_without():
                self._run.finish(exit_code=int(failed))
            self._run = None

    @contextlib.contextmanager
    def _going_on_without(self) -> Iterator[None]:
        """Let the training outlive wandb, whose process may be killed, or find no room or network.

        What its connection raises then is of many types, so all are caught, and told in full.
        """
        try:
            yield
        except Exception:
            _logger.warning("WANDB: the run is lost, the training goes on without", exc_info=True)
            self._run = None


def _read_id(path: Path) -> str | None:
    """Return the id that a training before kept, None where there is none."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kept if isinstance(kept, str) and kept.isalnum() else None
