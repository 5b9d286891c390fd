"""What a checkpoint needs, beyond Detectron2's, for a run that goes on as if never stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine.hooks import PreciseBN
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ocr_panoptic.random_state import (
    preserved_random_state,
    random_state,
    restore_random_state,
    seed_by,
)

from .published import settings

__all__ = [
    "RandomStates",
    "ResumablePreciseBN",
    "circumstances",
    "optimizer_settings",
    "require_state",
    "unused_settings",
    "what_differs",
]

# Key of an optimizer's groups -> those of the config that it is made of. A checkpoint has it, so
# that a resumed run goes on with its own.
_OF_OPTIMIZER = {
    "lr": ("SOLVER.BASE_LR", "SOLVER.BIAS_LR_FACTOR"),
    "weight_decay": (
        *("SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS"),
    ),
    "momentum": ("SOLVER.MOMENTUM",),
    "nesterov": ("SOLVER.NESTEROV",),
}
# Told in words, not used by a resumed run, or by evaluations alone.
_IGNORED = (
    *("SOLVER.IMS_PER_BATCH", "MODEL.WEIGHTS", "TEST"),
    *(key for keys in _OF_OPTIMIZER.values() for key in keys),
)
_AT_TEST = "_TEST"
# Of differences of a config in one line.
_MOST_DIFFERENCES = 6


def circumstances(cfg: CfgNode, num_images: int | None) -> dict[str, Any]:
    """Return what two runs of a schedule must agree on to be equal.

    Args:
        cfg: of the run.
        num_images: to train on, None where the loader does not say.
    """
    device = torch.device(cfg.MODEL.DEVICE).type
    return {
        "processes": comm.get_world_size(),
        "images per batch": cfg.SOLVER.IMS_PER_BATCH,
        "images": num_images,
        "device": device,
        # Sums depend on who adds what.
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "torch": str(torch.__version__),
        "config": {
            key: value
            for key, value in settings(cfg, _IGNORED).items()
            if not key.endswith(_AT_TEST) and not _is_length_alone(cfg, key)
        },
    }


def _is_length_alone(cfg: CfgNode, key: str) -> bool:
    """Say whether a key is the number of iterations, of a schedule that is given by its steps."""
    return key == "SOLVER.MAX_ITER" and cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR"


def what_differs(before: object, now: Mapping) -> list[str]:
    """Say in which :func:`circumstances` two runs differ, a few words for each.

    Args:
        before: of the run that wrote a checkpoint; anything else where it did not say.
        now: of this one.
    """
    if not isinstance(before, Mapping):
        return ["the checkpoint does not say how it was trained"]
    differences = [
        f"{name}: {value}, before {before.get(name)}"
        for name, value in now.items()
        if name != "config" and before.get(name) != value
    ]
    # A key that one of them does not have is new, or was only compared with another schedule.
    ours, theirs = now["config"], before.get("config")
    theirs = theirs if isinstance(theirs, Mapping) else {}
    of_config = [
        f"{key}: {value}, before {theirs[key]}"
        for key, value in ours.items()
        if key in theirs and theirs[key] != value
    ]
    more = len(of_config) - _MOST_DIFFERENCES
    differences += of_config[:_MOST_DIFFERENCES]
    return [*differences, *([f"and {more} more keys of the config"] if more > 0 else [])]


def optimizer_settings(optimizer: Optimizer, base_rates: Sequence[float]) -> dict[str, list]:
    """Return what an optimizer is set to, in each of its groups, by their keys.

    Args:
        optimizer: of the run.
        base_rates: of its groups, which a schedule changes; as the scheduler has them.
    """
    groups = optimizer.param_groups
    return {
        key: list(base_rates) if key == "lr" else [group.get(key) for group in groups]
        for key in _OF_OPTIMIZER
    }


def unused_settings(
    cfg: CfgNode, ours: Mapping[str, list], theirs: Mapping[str, list]
) -> list[str]:
    """Say which keys of a config a resumed run does not use, a line each.

    Args:
        cfg: of the run.
        ours: :func:`optimizer_settings` as the config makes them.
        theirs: as the checkpoint has them.
    """
    lines = []
    for name, keys in _OF_OPTIMIZER.items():
        if ours[name] == theirs[name]:
            continue
        first, *others = keys
        if not others or max(ours[name]) != max(theirs[name]):
            value = cfg.SOLVER[first.removeprefix("SOLVER.")]
            lines.append(
                f"{first}: {_short(value)} is not used: going on with "
                f"{_short(max(theirs[name]))}, the checkpoint's"
            )
        else:
            are = "is" if len(others) == 1 else "are"
            lines.append(f"{' and '.join(others)} {are} not used: going on with the checkpoint's")
    return lines


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def require_state(state: object, optimizer: Optimizer, scheduler: object) -> None:
    """See that what a trainer is to go on with are numbers where it has numbers.

    An optimizer and a scheduler take whatever they are given, and fail later.

    Args:
        state: of Detectron2's trainer.
        optimizer: of the run; nothing is loaded into it.
        scheduler: of its learning rate.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is no state of such a trainer.
    """
    if type(state["iteration"]) is not int:
        raise ValueError("its iteration is no number")
    of_scheduler = state.get("hooks", {}).get("LRScheduler")
    if of_scheduler is not None and isinstance(scheduler, LRScheduler):
        _require_alike(of_scheduler, scheduler.state_dict(), "the scheduler's")
    of_optimizer = state["_trainer"]["optimizer"]
    groups = of_optimizer["param_groups"]
    for ours, theirs in zip(optimizer.param_groups, groups, strict=False):
        _require_alike(theirs, ours, "the optimizer's")
        for parameter, number in zip(ours["params"], theirs["params"], strict=False):
            for key, value in of_optimizer["state"].get(number, {}).items():
                shape = getattr(value, "shape", None)
                fits = shape in (parameter.shape, torch.Size([]))
                if not fits and not (value is None or _is_number(value)):
                    found = type(value).__name__ if shape is None else f"of {tuple(shape)}"
                    raise ValueError(
                        f"{key} is {found} for a parameter of {tuple(parameter.shape)}"
                    )


def _require_alike(theirs: Mapping, ours: Mapping, whose: str) -> None:
    for key, value in ours.items():
        if key not in theirs and _is_number(value) and not isinstance(value, bool):
            raise ValueError(f"{whose} {key} is missing")
        if key not in theirs or key == "params":
            continue
        pairs = [(value, theirs[key])]
        if isinstance(value, list):
            if not isinstance(theirs[key], list) or len(theirs[key]) != len(value):
                raise ValueError(f"{whose} {key} are not {len(value)} numbers")
            pairs = list(zip(value, theirs[key], strict=True))
        for one, other in pairs:
            if _is_number(one) and not _is_number(other):
                raise ValueError(f"{whose} {key} is a {type(other).__name__}, no number")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


class RandomStates(HookBase):
    """Keeps the random state of every process for the checkpoint of an iteration, and restores it.

    To be registered in every process, before the hook that saves.
    """

    def __init__(self, period: int) -> None:
        """Make the hook.

        Args:
            period: of checkpoints, in iterations.
        """
        self._period = period
        self._saved = {}
        self._restored: dict | None = None

    def after_step(self) -> None:
        """Collect the states of all processes, where a checkpoint is due."""
        done = self.trainer.iter + 1
        if done % self._period == 0 or done >= self.trainer.max_iter:
            states = comm.gather(random_state())
            self._saved = {"iteration": self.trainer.iter, "states": states}

    def before_step(self) -> None:
        """Restore what was loaded, after all that comes before the first iteration."""
        if self._restored is not None:
            restore_random_state(self._restored)
            self._restored = None

    def state_dict(self) -> dict:
        """Return the states of all processes, for the checkpoint of the main one."""
        return self._saved

    def load_state_dict(self, state: Mapping) -> None:
        """Take a checkpoint's states, to be restored before the next iteration.

        Raises:
            ValueError: they are no states.
        """
        if not isinstance(state, Mapping) or not isinstance(state["states"], list):
            raise ValueError("no list of random states")
        states = state["states"]
        with preserved_random_state():
            for of_a_process in states:
                restore_random_state(of_a_process)
        self._saved = {"iteration": state["iteration"], "states": states}

    def resume(self, seed: int, iteration: int) -> bool:
        """Prepare to go on behind an iteration.

        Args:
            seed: of the run.
            iteration: the last one done.

        Returns:
            Whether its random states are known. Where they are not, random numbers are seeded
            anew, other ones than at the start.
        """
        states = self._saved.get("states", [])
        known = len(states) == comm.get_world_size() and self._saved["iteration"] == iteration
        if known:
            self._restored = states[comm.get_rank()]
        else:
            with preserved_random_state():
                seed_by(seed, iteration + 1, comm.get_rank())
                if torch.cuda.is_initialized():
                    # Where the model has dropout; seed_by leaves it alone.
                    torch.cuda.manual_seed(torch.initial_seed())
                self._restored = random_state()
        return known


class ResumablePreciseBN(PreciseBN):
    """Detectron2's hook on the batches that training sees next, whatever it saw before.

    It leaves the random numbers of the training alone.
    """

    def update_stats(self) -> None:
        """Update the statistics of the model."""
        if not self._disabled:
            self._data_loader.load_state_dict(self.trainer.data_loader.state_dict())
            self._data_iter = None
        with preserved_random_state():
            super().update_stats()
