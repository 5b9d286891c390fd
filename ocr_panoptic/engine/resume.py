"""What a checkpoint needs, beyond Detectron2's, for a run that goes on as if never stopped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.engine.hooks import PreciseBN
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from ocr_panoptic.random_state import (
    preserved_random_state,
    random_state,
    restore_random_state,
    seed_by,
)

__all__ = ["RandomStates", "ResumablePreciseBN", "circumstances", "what_differs"]


def circumstances(cfg: CfgNode, num_images: int | None) -> dict[str, int | str | None]:
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
    }


def what_differs(before: object, now: Mapping) -> list[str]:
    """Say in which :func:`circumstances` two runs differ, a few words for each.

    Args:
        before: of the run that wrote a checkpoint; anything else where it did not say.
        now: of this one.
    """
    if not isinstance(before, Mapping):
        return ["the checkpoint does not say how it was trained"]
    return [
        f"{name}: {value}, before {before.get(name)}"
        for name, value in now.items()
        if before.get(name) != value
    ]


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
