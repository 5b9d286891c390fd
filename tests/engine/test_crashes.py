"""kill -9 while a run trains, saves and evaluates: nothing is lost, and the end is the same."""

import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
import torch

from ocr_panoptic.data.shapes.register import register_shapes

from ..conftest import load_tool
from .runs import VAL, arguments, assert_equal, read

# Its server has imported everything, so that a run starts at once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ocr_panoptic.engine.launch", "tests.engine.runs"])
BEGUN = "Starting training from iteration"
LENGTH = {"TEST.EVAL_PERIOD": 3}


def run(root, log, argv):
    """Train as tools/train_net.py does, in a process of its own."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    # Those of the forkserver stand for files that are closed.
    sys.stdout, sys.stderr = (os.fdopen(os.dup(descriptor), "w", 1) for _ in range(2))
    torch.set_num_threads(1)
    # As from the command line. Workers of a forkserver would not see that the run is gone.
    multiprocessing.set_start_method("fork", force=True)
    for split in ("train", "val"):
        register_shapes(f"test_shapes_{split}", root / "shapes_easy", split, "easy")
    sys.exit(load_tool("tools/train_net.py").main(argv))


class Run:
    """A run that is killed and resumed until it ends by itself."""

    def __init__(self, root, output):
        self.output, self.log = output, output.with_suffix(".log")
        self._root = root
        self._process = None
        self._start = 0

    def start(self, workers=0):
        overrides = {**LENGTH, "DATALOADER.NUM_WORKERS": workers}
        argv = arguments(self.output, "--resume", overrides=overrides)
        self._start = self.log.stat().st_size if self.log.exists() else 0
        self._process = CONTEXT.Process(target=run, args=(self._root, self.log, argv))
        self._process.start()

    def said(self):
        """Return what the run has said since it was started."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._start :].decode(errors="replace")

    def wait(self, seconds):
        """Return whether it has ended by then."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def wait_until(self, condition):
        while not condition():
            assert not self.wait(0.01), self.said()[-3000:]

    def kill(self):
        """Return whether it was still there to be killed."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode == -signal.SIGKILL

    def finish(self):
        assert self.wait(300), self.said()[-3000:]
        assert self._process.exitcode == 0, self.said()[-3000:]

    def moment(self):
        """Return what it was doing when it was killed, by what it had said."""
        if BEGUN not in self.said():
            return "starting"
        begun, done = (self.said().rfind(x) for x in ("Start inference on", "mask AP"))
        return "evaluating" if begun > done else "training"

    def require_whole_checkpoints(self):
        """See that every checkpoint can be read, and return the one to resume from."""
        for path in self.output.glob("model_*.pth"):
            content = torch.load(path, map_location="cpu", weights_only=True)
            assert {"model", "trainer", "iteration"} <= set(content)
        last = self.output / "last_checkpoint"
        if not last.exists():
            return None
        assert (self.output / last.read_text()).is_file()
        return str(self.output / last.read_text())

    def require_resumed(self, checkpoint):
        """See that the run, begun anew, has gone on from a checkpoint."""
        if checkpoint is None:
            assert "not resumed" in self.said()
        else:
            assert f"resumed from {checkpoint} at iteration" in self.said()


@pytest.fixture(scope="module")
def finished(datasets_root, tmp_path_factory):
    """The output folder of a run that nobody killed, and the seconds from its first iteration."""
    whole = Run(datasets_root, tmp_path_factory.mktemp("finished") / "run")
    whole.start()
    whole.wait_until(lambda: BEGUN in whole.said())
    start = time.monotonic()
    whole.finish()
    return whole.output, time.monotonic() - start


def require_the_same_end(killed, finished):
    assert_equal(read(killed.output), read(finished))
    metrics = f"inference/{VAL}/metrics.json"
    assert (killed.output / metrics).read_text() == (finished / metrics).read_text()
    # Nothing is left of what was half-written.
    assert not list(killed.output.glob(".*"))


@pytest.mark.slow
def test_a_run_killed_while_it_trains_and_while_it_evaluates(datasets_root, finished, tmp_path):
    killed = Run(datasets_root, tmp_path / "run")
    killed.start()
    killed.wait_until(lambda: (killed.output / "last_checkpoint").exists())
    assert killed.kill()
    checkpoint = killed.require_whole_checkpoints()
    assert checkpoint is not None
    killed.start(workers=1)
    killed.wait_until(lambda: "Start inference on" in killed.said())
    assert killed.kill()
    killed.require_resumed(checkpoint)
    # It was in the middle of it.
    assert "Total inference time" not in killed.said()
    assert not (killed.output / f"inference/{VAL}/metrics.json").exists()
    checkpoint = killed.require_whole_checkpoints()
    killed.start()
    killed.finish()
    killed.require_resumed(checkpoint)
    require_the_same_end(killed, finished[0])


@pytest.mark.soak
def test_twenty_random_kills(datasets_root, finished, tmp_path):
    output, seconds = finished
    dice = random.Random(0)
    kills, runs = {"starting": 0, "training": 0, "evaluating": 0}, 0
    while kills["training"] + kills["evaluating"] < 20:
        runs += 1
        killed = Run(datasets_root, tmp_path / f"run{runs}")
        checkpoint, ended = None, False
        while not ended:
            # Whoever reads the images: that does not matter.
            killed.start(workers=dice.randrange(3))
            if dice.random() < 0.8:
                killed.wait_until(lambda: BEGUN in killed.said())  # noqa: B023
            ended = killed.wait(dice.uniform(0, seconds)) or not killed.kill()
            if not ended:
                kills[killed.moment()] += 1
            if "resumed" in killed.said():
                killed.require_resumed(checkpoint)
            checkpoint = killed.require_whole_checkpoints()
        killed.finish()
        require_the_same_end(killed, output)
    print(f"{kills} in {runs} runs")
    assert kills["training"] > 0
    assert kills["evaluating"] > 0
