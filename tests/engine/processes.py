"""tools/train_net.py in processes of its own, some of them on machines of their own."""

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from detectron2.utils import comm

from ocr_panoptic.data.shapes.register import register_shapes
from ocr_panoptic.engine import distributed
from ocr_panoptic.engine.trainer import Trainer
from ocr_panoptic.errors import InputError

from ..conftest import load_tool

# Its server has imported everything, so that a run starts at once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ocr_panoptic.engine.launch", "tests.engine.runs"])
BEGUN = "Starting training from iteration"
# What gloo says of a process that was killed, by what it was about to do with it.
LOST_OTHERS = r"process 0 of 2 has lost the others \(.*(closed by peer|reset by peer|Broken pipe)"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


def _enter(machine):
    """Move this process to a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{machine}") as namespace:
        if libc.setns(namespace.fileno(), _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), f"no machine {machine}")


def _run(root, output, argv, machine, environment, prepare):
    for standard, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), standard)
    # Those of the forkserver stand for files that are closed.
    sys.stdout, sys.stderr = (os.fdopen(os.dup(standard), "w", 1) for standard in (1, 2))
    os.setsid()
    # As on a terminal: in the background of a script interrupts are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Where what is killed may leave what it likes.
    tempfile.tempdir = str(Path(output).parent)
    os.environ.update(environment)
    if machine is not None:
        _enter(machine)
    torch.set_num_threads(1)
    # As from the command line. Workers of a forkserver would not see that the run is gone.
    multiprocessing.set_start_method("fork", force=True)
    # Detectron2 spawns; a fork has imported everything.
    torch.multiprocessing.start_processes = functools.partial(
        torch.multiprocessing.start_processes, start_method="fork"
    )
    distributed.GRACE_SECONDS = 2.0
    for split in ("train", "val"):
        register_shapes(f"test_shapes_{split}", root / "shapes_easy", split, "easy")
    if prepare is not None:
        prepare()
    sys.exit(load_tool("tools/train_net.py").main(argv))


def _in_iteration_3(act):
    before_step = Trainer.before_step

    def before_step_or_act(trainer):
        if trainer.iter == 3 and comm.get_rank() == 1:
            act()
        before_step(trainer)

    Trainer.before_step = before_step_or_act


def killed_in_iteration_3():
    """Let the second process of a run be killed, when it has saved two iterations."""
    _in_iteration_3(lambda: os.kill(os.getpid(), signal.SIGKILL))


def mistaken_in_iteration_3():
    """Let the second process of a run find what its user has to mend."""

    def find():
        raise InputError("an image is broken")

    _in_iteration_3(find)


def stuck_in_iteration_3():
    """Let the second process of a run do nothing any more."""
    _in_iteration_3(lambda: time.sleep(3600))


def deaf_to_interrupts():
    """Let a run ignore interrupts, as one that a script has started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Command:
    """A command line of tools/train_net.py that runs by itself.

    To be used in a ``with``, which ends it and whatever it has started.
    """

    def __init__(self, root, output, argv, *, machine=None, environment=(), prepare=None):
        """Start it.

        Args:
            root: of the data set.
            output: path; its output goes to files of this name with .out and .err.
            argv: of the command line.
            machine: network namespace that it runs in.
            environment: additional variables.
            prepare: called in front of everything; a function of a module.
        """
        self._output = output
        self._process = CONTEXT.Process(
            target=_run, args=(root, output, argv, machine, dict(environment), prepare)
        )
        self._process.start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        # It leads a process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()

    def said(self, where="out"):
        path = Path(f"{self._output}.{where}")
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, seconds=300):
        """Return its exit status, None while it runs."""
        self._process.join(seconds)
        return self._process.exitcode

    def wait_until(self, condition):
        while not condition():
            assert self.wait(0.02) is None, self.said() + self.said("err")

    def signal(self, number):
        os.kill(self._process.pid, number)

    def ranks(self):
        """Return the ids of the processes that it has started, in order."""
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(word) for word in path.read_text().split()]

    def require(self, status):
        """Wait for the exit status, and return the last line of stderr."""
        assert self.wait() == status, (self.said() + self.said("err"))[-4000:]
        assert "Traceback" not in self.said("err")
        return [*self.said("err").splitlines(), ""][-2 if self.said("err") else -1]
