"""Trade time for memory: compute a module's activations again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["checkpointed"]


def checkpointed(module: nn.Module, function: Callable[..., Tensor], *args) -> Tensor:
    """Return ``function(*args)``, whose inner activations are not kept for the backward pass.

    They are computed a second time then. That time the running statistics of BatchNorm stay as
    they are, so a model trains to the same numbers with and without.

    Args:
        module: whose layers ``function`` uses.
        function: of tensors, None and constants.
        *args: its arguments.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    norms = [norm for norm in module.modules() if _has_statistics(norm)]
    return checkpoint(
        function,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _same_statistics(norms)),
    )


def _has_statistics(module: nn.Module) -> bool:
    kinds = nn.modules.batchnorm._BatchNorm, NaiveSyncBatchNorm
    return isinstance(module, kinds) and module.track_running_stats


@contextmanager
def _same_statistics(norms: list[nn.Module]) -> Iterator[None]:
    """Put the running statistics of ``norms`` back at the end."""
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
