"""Follow a model from part to part while it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from .measure import FlopCounter

__all__ = ["Parts", "flops_of_parts", "timed_parts"]


class Parts:
    """The parts of one of Detectron2's meta-architectures, which run one after the other.

    They are its children (``backbone``, ``proposal_generator``, ``roi_heads``, ``sem_seg_head``),
    what comes before the first of them, and what comes after the last.

    Attributes:
        names: in the order in which they run; empty before :meth:`learn`.
    """

    def __init__(self, model: nn.Module, before: str, after: str) -> None:
        """Take the parts of ``model``, and names for what comes before and after them."""
        # A model prepared for inference holds the architecture, its postprocessing is its own.
        architecture = model if hasattr(model, "backbone") else model.model
        self.children = dict(architecture.named_children())
        self.before, self.after = before, after
        self.names: list[str] = []
        self._passes = 0

    def params(self) -> dict[str, int]:
        """Return the number of parameters of each child."""
        return {
            name: sum(parameter.numel() for parameter in child.parameters())
            for name, child in self.children.items()
        }

    def learn(self, call: Callable[[], Any]) -> Any:
        """Make a call, to learn in which order the parts run."""
        result, order = self._run(call, lambda name: contextlib.nullcontext())
        self._passes = len(order)
        self.names = [self.before, *dict.fromkeys(order), self.after]
        return result

    def run(self, call: Callable[[], Any], around: Callable[[str], AbstractContextManager]) -> Any:
        """Make a call, with ``around(name)`` entered while each part runs.

        Before, :meth:`learn` must have been called.
        """
        return self._run(call, around)[0]

    def _run(
        self, call: Callable[[], Any], around: Callable[[str], AbstractContextManager]
    ) -> tuple[Any, list[str]]:
        """Return what the call returns, and the children in the order in which they ran."""
        between = contextlib.ExitStack()
        order: list[str] = []

        def watched(name: str, forward: Callable) -> Callable:
            def run(*args, **kwargs) -> Any:
                between.close()
                with around(name):
                    result = forward(*args, **kwargs)
                order.append(name)
                if len(order) == self._passes:
                    between.enter_context(around(self.after))
                return result

            return run

        with contextlib.ExitStack() as restored, between:
            for name, child in self.children.items():
                restored.callback(_restore, child, vars(child).get("forward"))
                child.forward = watched(name, child.forward)
            between.enter_context(around(self.before))
            return call(), order


def _restore(module: nn.Module, forward: Callable | None) -> None:
    """Give a module back its ``forward``, None for that of its class."""
    del module.forward
    if forward is not None:
        module.forward = forward


def flops_of_parts(parts: Parts, call: Callable[[], Any]) -> tuple[int, dict[str, int]]:
    """Return the FLOPs of a call, and those of each part."""
    found = dict.fromkeys(parts.names, 0)

    @contextlib.contextmanager
    def around(name: str) -> Iterator[None]:
        before = counter.total
        yield
        found[name] = found.get(name, 0) + counter.total - before

    with FlopCounter() as counter:
        parts.run(call, around)
    return counter.total, found


def timed_parts(
    parts: Parts, call: Callable[[], Any], device: str
) -> tuple[Callable[[], Any], dict[str, list[float]]]:
    """Return a call that notes the time of each part, milliseconds, in the dict returned with it.

    A GPU is waited for at each part's end, which a call alone does not do.
    """
    times: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def around(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if device == "cuda":
            torch.cuda.synchronize()
        now[name] = now.get(name, 0.0) + 1e3 * (time.perf_counter() - start)

    now: dict[str, float] = {}

    def timed() -> None:
        now.clear()
        parts.run(call, around)
        for name, value in now.items():
            times.setdefault(name, []).append(value)

    return timed, times
