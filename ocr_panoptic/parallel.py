"""Work on many files, shared by a bounded number of processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

__all__ = ["available_cpus", "parallel_map"]

_MAX_PROCESSES = 16
# Fewer are done before a process has imported what it needs.
_ITEMS_PER_PROCESS = 64

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def available_cpus() -> int:
    """Return the number of CPUs lent to this process, where the system can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallel_map(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    num_processes: int | None = None,
    *,
    description: str | None = None,
    unit: str = "image",
) -> Generator[_Result, None, None]:
    """Yield ``function(item)`` for each item, in order, with a progress bar on a terminal.

    The processes end with the iteration, with an exception, and with the death of this process.
    Close the generator (:func:`contextlib.closing`) where something after it relies on that.

    Args:
        function: can be pickled, as its results can.
        items: what to call it with; few bytes each, as they are sent.
        num_processes: how many share the items; None for one per CPU, at most 16 and one for every
            64 items. One works in this process.
        description: in front of the bar.
        unit: what the bar counts.
    """
    if num_processes is None:
        num_processes = min(available_cpus(), _MAX_PROCESSES, len(items) // _ITEMS_PER_PROCESS)
    num_processes = max(1, min(num_processes, len(items)))

    def shown(results: Iterable[_Result]) -> Iterable[_Result]:
        # A bar in a log file would bury the one line of an error.
        return tqdm(results, total=len(items), desc=description, unit=unit, disable=None)

    if num_processes == 1:
        yield from shown(map(function, items))
        return
    # Large enough that sending costs nothing, small enough that an error is told soon.
    chunk_size = max(1, min(16, len(items) // (4 * num_processes)))
    # Not forked from here: this process may have threads, of OpenCV or torch, whose locks a fork
    # would copy. The server that they are forked from imports once, and has none.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ocr_panoptic"])
    with ProcessPoolExecutor(num_processes, context, initializer=_initialize_worker) as pool:
        try:
            with contextlib.closing(pool.map(function, items, chunksize=chunk_size)) as results:
                yield from shown(results)
        finally:
            pool.shutdown(cancel_futures=True)


def _initialize_worker() -> None:
    cv2.setNumThreads(1)
    # Ctrl-C reaches the whole group of processes: the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    # A parent that is killed cannot end its workers, which would wait for work for ever.
    multiprocessing.parent_process().join()
    os._exit(1)
