"""What a training does where its loss is infinite or not a number: says why, and stops or skips.

Detectron2's own check sees the mean over all processes, in the main one alone, and says neither
which images it was nor lets the others end.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.engine.train_loop import AMPTrainer, HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from ocr_panoptic.errors import NonFiniteLossError, printable
from ocr_panoptic.files import replacing, write_text

from .checkpoint import last_checkpoint
from .saved_batch import save_batch

__all__ = ["FiniteAMPTrainer", "FiniteTrainer", "FiniteWeights", "nonfinite_options"]

_logger = logging.getLogger(__name__)

# Of names in a line; nonfinite.json has all.
_MOST_NAMES = 3
_IMAGE_KEYS = ("file_name", "image_id")


def nonfinite_options(cfg: CfgNode) -> dict:
    """Return what a config says to :class:`FiniteTrainer` and :class:`FiniteAMPTrainer`."""
    skip = cfg.SOLVER.NONFINITE == "skip"
    return {"output": Path(cfg.OUTPUT_DIR), "skips": cfg.SOLVER.NONFINITE_SKIPS if skip else 0}


class _SkippedStepError(Exception):
    """Leaves a step of Detectron2 before the optimizer's."""


class FiniteTrainer(SimpleTrainer):
    """Detectron2's training step, that never takes one along the gradients of a non-finite loss.

    Where a process has no finite loss, all processes do the same: that one saves its batch, the
    main one writes ``nonfinite.json``, and the step is skipped, or :class:`NonFiniteLossError`
    raised. Detectron2's RPN finds no loss at all where its predictions are not finite.

    That a gradient scaler skips a step, as gradients overflow while the loss does not, is no such
    thing.
    """

    def __init__(self, *args, output: Path, skips: int, **kwargs) -> None:
        """Make a step.

        Args:
            args: as for Detectron2's.
            output: folder for ``nonfinite.json`` and batches.
            skips: how many steps in a row may be skipped, 0 to stop at once.
            kwargs: as for Detectron2's.
        """
        super().__init__(*args, **kwargs)
        self._output, self._skips = output, skips
        self._skipped = self._in_a_row = 0
        self._forget()

    def _forget(self) -> None:
        self._batch: list[dict] = []
        self._losses: dict[str, torch.Tensor] = {}
        # Of them, behind the forward pass: whether one of any process is not finite.
        self._bad: torch.Tensor | None = None
        self._has_gradients = False

    def run_step(self) -> None:
        """Run one step.

        Raises:
            NonFiniteLossError: a loss is not finite, and the step is not to be skipped.
        """
        # Not for longer: what copies a model copies its hooks, and this trainer with them.
        hooks = [
            self.model.register_forward_pre_hook(self._before_forward),
            self.model.register_forward_hook(self._after_forward),
        ]
        statistics = _statistics(self.model) if self._skips else []
        try:
            try:
                super().run_step()
            except FloatingPointError as error:
                # The others wait for this one, behind their forward pass.
                _in_any_process(torch.ones(2, device=next(self.model.parameters()).device))
                self._answer({}, str(error))
            self._in_a_row = 0
        except _SkippedStepError:
            # The forward pass has changed them already.
            for buffer, before in statistics:
                buffer.copy_(before)
            self.optimizer.zero_grad()
            get_event_storage().put_scalar("skipped_steps", self._skipped, smoothing_hint=False)
        finally:
            for hook in hooks:
                hook.remove()
            self._forget()

    def _before_forward(self, model: nn.Module, inputs: tuple) -> None:
        self._batch = inputs[0]

    def _after_forward(self, model: nn.Module, inputs: tuple, losses: object) -> None:
        """Ask all processes for their losses: nobody goes backward alone, and waits there."""
        losses = losses if isinstance(losses, Mapping) else {"total_loss": losses}
        self._losses = {key: loss.detach().float().reshape(()) for key, loss in losses.items()}
        bad = ~torch.stack(list(self._losses.values())).isfinite().all()
        flags = torch.stack([bad, torch.zeros_like(bad)]).float()
        self._bad, lost = _in_any_process(flags)
        # One process has nobody to wait for, and looks once it has its gradients.
        if comm.get_world_size() > 1 and lost:
            self._answer(self._numbers())

    def after_backward(self) -> None:
        """Look at the losses, where Detectron2 waits for them too, for its metrics."""
        super().after_backward()
        self._has_gradients = True
        if self._bad:
            self._answer(self._numbers())

    def _numbers(self) -> dict[str, float]:
        return {key: loss.item() for key, loss in self._losses.items()}

    def _answer(self, losses: dict[str, float], error: str = "") -> NoReturn:
        """Say what happened, and leave the step, together with all other processes."""
        self._in_a_row += 1
        stop = self._in_a_row > self._skips
        self._skipped += not stop
        reports = comm.all_gather(self._report_of_process(losses, error))
        line = f"iteration {self.iter}: no finite loss ({_some(_faults(reports))})"
        if comm.is_main_process():
            line += self._write(reports, stop)
        # Nobody leaves before all is written.
        line = comm.all_gather(line)[0]
        if not stop:
            files = [str(image["file_name"]) for report in reports for image in report["images"]]
            _logger.warning(f"{line}; skipped, with {printable(', '.join(files))}")
            raise _SkippedStepError
        if self._skips:
            line += f"; {self._skips} steps before it were skipped (SOLVER.NONFINITE_SKIPS)"
        else:
            line += "; SOLVER.NONFINITE skip goes on without such a batch"
        if last_checkpoint(self._output):
            line += "; --resume goes on from the last checkpoint"
        _logger.error(line)
        raise NonFiniteLossError(line)

    def _report_of_process(self, losses: dict[str, float], error: str) -> dict:
        """Return what this process alone knows; saves its batch, if the fault is there."""
        rank = comm.get_rank()
        report = {
            "rank": rank,
            "losses": {key: _number(value) for key, value in losses.items()},
            "total_loss": _number(sum(losses.values())) if losses else None,
            "error": error or None,
            "images": [{key: one.get(key) for key in _IMAGE_KEYS} for one in self._batch],
            "batch": None,
        }
        if error or not all(map(math.isfinite, losses.values())):
            path = self._output / f"nonfinite_batch{f'_rank{rank}' if rank else ''}.pth"
            with _reported(report, "batch_error"):
                with replacing(path) as temporary:
                    save_batch(self._batch, temporary)
                report["batch"] = str(path)
        return report

    def _write(self, reports: list[dict], stop: bool) -> str:
        """Write nonfinite.json; returns, for a line, where it is or why it is not."""
        model = _unwrapped(self.model)
        scaler = getattr(self, "grad_scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0
        # Where no process went backward, those of the step before are still there, unscaled.
        gradients_of = self.iter if self._has_gradients else self.iter - 1
        norms = _gradient_norms(model, scale if self._has_gradients else 1.0)
        content = {
            "iteration": self.iter,
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            "action": "stop" if stop else "skip",
            "skipped_steps": self._skipped,
            "learning_rate": max(group["lr"] for group in self.optimizer.param_groups),
            "loss_scale": _number(scale),
            "gradients_of_iteration": gradients_of if norms else None,
            "gradient_norms": norms,
            "nonfinite_weights": _nonfinite_weights(model),
            "processes": reports,
        }
        path = self._output / "nonfinite.json"
        failed = {}
        with _reported(failed, "error"):
            write_text(path, json.dumps(content, indent=2, default=str) + "\n")
        line = f", {path} cannot be written ({failed['error']})" if failed else f", see {path}"
        if content["nonfinite_weights"]:
            line += f"; weights were not finite before it ({_some(content['nonfinite_weights'])})"
        return line

    def state_dict(self) -> dict:
        """Return what a checkpoint holds of the step."""
        skipped = {"steps": self._skipped, "in_a_row": self._in_a_row}
        return {**super().state_dict(), "skipped": skipped}

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Take what :meth:`state_dict` returned, or Detectron2's own."""
        super().load_state_dict(state_dict)
        skipped = state_dict.get("skipped", {"steps": 0, "in_a_row": 0})
        self._skipped, self._in_a_row = int(skipped["steps"]), int(skipped["in_a_row"])


class FiniteAMPTrainer(FiniteTrainer, AMPTrainer):
    """The same with Detectron2's mixed precision."""


class FiniteWeights(HookBase):
    """Sees that no checkpoint is written of weights that are not finite.

    Gradients that overflow behind a finite loss have made them so, in the iterations since the last
    checkpoint. To be registered in every process, before the hook that saves.
    """

    def __init__(self, period: int) -> None:
        """Make the hook.

        Args:
            period: of checkpoints, in iterations.
        """
        self._period = period

    def after_step(self) -> None:
        """Look at all weights, where a checkpoint is due.

        Raises:
            NonFiniteLossError: in every process, if those of any are not finite.
        """
        done = self.trainer.iter + 1
        if done % self._period and done < self.trainer.max_iter:
            return
        of_all = comm.all_gather(_nonfinite_weights(_unwrapped(self.trainer.model)))
        names = [name for names in of_all for name in names]
        if names:
            line = (
                f"iteration {self.trainer.iter}: weights are not finite "
                f"({_some(list(dict.fromkeys(names)))}), no checkpoint is written"
            )
            if self.trainer.checkpointer.has_checkpoint():
                line += "; --resume goes on from the last one"
            _logger.error(line)
            raise NonFiniteLossError(line)


def _in_any_process(flags: torch.Tensor) -> torch.Tensor:
    """Return flags, 1 where one process has it 1; all processes have to call this."""
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return flags


def _faults(reports: list[dict]) -> list[str]:
    """Return what is wrong in which process, a few words each."""
    faults = []
    for report in reports:
        where = f" in process {report['rank']}" if len(reports) > 1 else ""
        found = [f"{key} {loss}" for key, loss in report["losses"].items() if type(loss) is str]
        faults += [f"{fault}{where}" for fault in (*found, report["error"]) if fault]
    return faults


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def _statistics(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the buffers that a forward pass in training changes, with copies of them."""
    norms = (m for m in model.modules() if isinstance(m, _NormBase) and m.training)
    return [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]


def _gradient_norms(model: nn.Module, scale: float) -> dict[str, float | str]:
    """Return the 2-norm of the gradients of each part of a model, and of all; {} without any.

    Args:
        model: after a backward pass.
        scale: that the loss was multiplied by.
    """
    parts: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            norm = parameter.grad.float().norm() / scale
            parts.setdefault(name.split(".")[0], []).append(norm)
    norms = {part: torch.stack(each).norm().item() for part, each in parts.items()}
    if norms:
        norms = {"total": math.hypot(*norms.values()), **norms}
    return {key: _number(norm) for key, norm in norms.items()}


def _nonfinite_weights(model: nn.Module) -> list[str]:
    """Return the names of parameters that are not finite; waits for the device once."""
    named = [(name, p) for name, p in model.named_parameters() if p.is_floating_point()]
    if not named:
        return []
    finite = torch.stack([p.detach().isfinite().all() for _, p in named]).tolist()
    return [name for (name, _), fine in zip(named, finite, strict=True) if not fine]


def _number(value: float) -> float | str:
    """Return a number as json has it, or "nan", "inf", "-inf", which it has not."""
    return value if math.isfinite(value) else str(value)


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def _reported(report: dict, key: str) -> Iterator[None]:
    """Note why a file cannot be written, where that must not keep the run from its end."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # A full disk is a RuntimeError of torch's writer.
        reason = getattr(error, "strerror", None) or str(error)
        report[key] = printable(" ".join(reason.split())[:200])
