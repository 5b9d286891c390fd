"""Random numbers: the state of every global generator of a process, kept, restored, derived."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.utils import comm

__all__ = [
    "MAX_SEED",
    "draw_seed",
    "preserved_random_state",
    "random_state",
    "restore_random_state",
    "seed_by",
]

MAX_SEED = 2**31 - 1
"""Greatest seed; what numpy takes, with room for the ranks that are added to it."""


def draw_seed() -> int:
    """Return a new seed, the same in every process of a run, which all have to call this."""
    return comm.all_gather(secrets.randbelow(MAX_SEED + 1))[0]


def seed_by(*numbers: int) -> None:
    """Seed python's, numpy's and torch's CPU generator with a function of integers from 0.

    Other integers below 2**64, or more or fewer of them, are another seed.
    """
    # A sequence alone takes (1, 0) for (1,).
    halves = [half for number in numbers for half in (number % 2**32, number >> 32)]
    words = np.random.SeedSequence([len(numbers), *halves]).generate_state(10)
    # Python and numpy would draw the same numbers from the same words.
    random.seed(words[:4].tobytes())
    np.random.seed(words[4:8])
    # Not torch.manual_seed, which seeds the CUDA devices too.
    torch.default_generator.manual_seed(int.from_bytes(words[8:].tobytes(), "little") % 2**63)


def random_state() -> dict:
    """Return the states of python's, numpy's and torch's generators.

    Returns:
        ``python``, ``numpy`` and ``torch``, and ``cuda`` where the process has used its device, of
        tensors, integers and tuples, which any reader of checkpoints takes.
    """
    name, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict) -> None:
    """Set the generators to what :func:`random_state` returned.

    Raises:
        ValueError: the state is not of that function; no generator is changed then.
    """
    before = random_state()
    try:
        _restore(state)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _restore(before)
        raise ValueError(f"no state of random numbers ({error})") from error


def _restore(state: dict) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Run a body whose random numbers are none of the caller's business."""
    state = random_state()
    try:
        yield
    finally:
        _restore(state)
