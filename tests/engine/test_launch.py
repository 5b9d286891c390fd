"""Several processes on one host: they compute the same as one, meet, and end together."""

import argparse
import contextlib
import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from ocr_panoptic.data.mapper import PanopticDatasetMapper
from ocr_panoptic.data.shapes.writer import write_shapes
from ocr_panoptic.engine import launch
from ocr_panoptic.engine.setup import prepare_run
from ocr_panoptic.engine.trainer import Trainer
from ocr_panoptic.errors import BAD_INPUT, INTERRUPTED, LOST_PROCESS
from ocr_panoptic.random_state import seed_by

from ..conftest import REPOSITORY, load_tool
from .processes import (
    BEGUN,
    LOST_OTHERS,
    Command,
    deaf_to_interrupts,
    killed_in_iteration_3,
    mistaken_in_iteration_3,
    stuck_in_iteration_3,
)
from .runs import UNTESTED, VAL, arguments, assert_equal, read

GOES_ON = "--resume goes on from the last checkpoint"
LENGTH = {"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": (3,), "TEST.EVAL_PERIOD": 0}
METRICS = f"inference/{VAL}/metrics.json"


def words(output, *options, overrides=()):
    return arguments(output, *options, overrides={**LENGTH, **dict(overrides)})


@pytest.fixture(scope="module")
def two(datasets_root, tmp_path_factory):
    """The output folder of a run of two processes that nobody stopped."""
    output = tmp_path_factory.mktemp("two") / "run"
    with Command(datasets_root, output, words(output, "--num-gpus", "2")) as command:
        command.require(0)
    return output


@pytest.fixture
def port():
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def torchrun(root, folder, argv, port, **options):
    """Start two processes as torchrun does, and yield their commands."""
    with contextlib.ExitStack() as stack:
        commands = []
        for rank in ("0", "1"):
            environment = {
                **{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            }
            command = Command(
                root, folder / f"rank{rank}", argv, environment=environment, **options
            )
            commands.append(stack.enter_context(command))
        yield commands


# What they compute.


@pytest.mark.slow
@pytest.mark.parametrize("images", [5, 1])
def test_two_processes_evaluate_as_one(datasets_root, two, tmp_path, images):
    root = datasets_root
    if images == 1:
        # The other process has none.
        root = tmp_path
        write_shapes(root / "shapes_easy", train=1, val=1, size=96, seed=1, processes=1)
    weights = {"MODEL.WEIGHTS": two / "model_final.pth"}
    for processes in ("1", "2"):
        output = tmp_path / processes
        options = ("--eval-only", "--save", "--num-gpus", processes)
        with Command(root, output, words(output, *options, overrides=weights)) as command:
            command.require(0)
    one, other = (tmp_path / processes / f"inference/{VAL}" for processes in ("1", "2"))
    for name in ("metrics.json", "panoptic_per_class.json", "panoptic.json"):
        assert (one / name).read_text() == (other / name).read_text()
    predicted, others = (
        json.loads((path / "coco_instances_results.json").read_text()) for path in (one, other)
    )
    assert len(predicted) > 0
    assert sorted(predicted, key=str) == sorted(others, key=str)
    if images == 5:
        # Both processes had statistics of their own while they trained.
        assert (one / "metrics.json").read_text() == (two / METRICS).read_text()


def gradients(trainer, batch, seed):
    """Return the gradients of one step of a trainer, which it undoes."""
    before = copy.deepcopy(trainer.model.state_dict())
    trainer._trainer._data_loader_iter_obj = iter([batch])
    seed_by(seed)
    with EventStorage(0):
        trainer._trainer.run_step()
    trainer.model.load_state_dict(before)
    return {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in trainer.model.named_parameters()
        if parameter.requires_grad
    }


def save_gradients(cfg, args, changes):
    """Stand for :func:`ocr_panoptic.engine.launch.run`: one step, on this process's images."""
    # It starts from nothing here, which a run would not.
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    cfg.freeze()
    prepare_run(cfg, args, changes)
    trainer = Trainer(cfg)
    trainer.model.train()
    batch = next(iter(trainer.data_loader))
    images = [image["image"] for image in batch]
    if comm.get_world_size() > 1:
        of_process = gradients(trainer, batch, comm.get_rank())
        torch.save((of_process, images), f"{cfg.OUTPUT_DIR}/rank{comm.get_rank()}.pt")
    else:
        halves = [gradients(trainer, batch[rank::2], rank) for rank in (0, 1)]
        whole = gradients(trainer, batch, 0)
        torch.save((halves, whole, images), f"{cfg.OUTPUT_DIR}/halves.pt")


def run_for_gradients():
    launch.run = save_gradients


def distance(one, other):
    """Return the greatest difference of gradients, relative to the parameter's greatest one."""
    assert list(one) == list(other)
    greatest = {name: max(float(gradient.abs().max()), 1e-30) for name, gradient in other.items()}
    return max(float((one[name] - other[name]).abs().max()) / greatest[name] for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["GN", "FrozenBN"])
def test_two_processes_give_the_mean_gradient_of_two_halves(datasets_root, tmp_path, norm):
    overrides = {
        **{"SOLVER.IMS_PER_BATCH": 4, "MODEL.FPN.NORM": norm, "MODEL.SEM_SEG_HEAD.NORM": norm},
        **{"MODEL.SEM_SEG_HEAD.OCR.NORM": norm, "MODEL.SEM_SEG_HEAD.OCR.KEY_CHANNELS": 64},
        # A norm of the mean is not the mean of norms.
        **{"SOLVER.CLIP_GRADIENTS.ENABLED": False, **UNTESTED},
    }
    for processes in ("1", "2"):
        argv = words(tmp_path, "--num-gpus", processes, overrides=overrides)
        with Command(
            datasets_root, tmp_path / processes, argv, prepare=run_for_gradients
        ) as command:
            command.require(0)
    halves, whole, images = torch.load(tmp_path / "halves.pt")
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for rank, (_, of_process) in enumerate(ranks):
        assert len(of_process) == 2
        assert all(map(torch.equal, images[rank::2], of_process))
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    assert any("ocr" in name and gradient.any() for name, gradient in mean.items())
    assert all(gradient.isfinite().all() for gradient in mean.values())
    for of_process, _ in ranks:
        # float32: halving and adding two numbers rounds in one way only.
        assert distance(of_process, mean) <= 1e-6
    # The halves differ, and their mean is not what the whole batch gives.
    assert distance(halves[0], halves[1]) > 1e-2
    assert distance(whole, mean) > 1e-2


# How they meet.


def meet(cfg, args, changes):
    """Stand for :func:`ocr_panoptic.engine.launch.run`: all tell each other who they are."""
    mine = (cfg.OUTPUT_DIR, comm.get_rank())
    assert comm.all_gather(mine) == [(cfg.OUTPUT_DIR, rank) for rank in (0, 1)]
    if comm.get_rank() == 0:
        print(f"met in {cfg.OUTPUT_DIR}")


def only_meet():
    launch.run = meet
    # The worst that can happen to two jobs at once: each is told that this port is free.
    sys.modules["detectron2.engine.launch"]._find_free_port = lambda: 29499


@pytest.mark.slow
def test_jobs_that_start_at_once_do_not_collide(datasets_root, tmp_path):
    for turn in range(4):
        with contextlib.ExitStack() as stack:
            outputs = [tmp_path / f"{turn}-{job}" for job in range(3)]
            commands = [
                stack.enter_context(
                    Command(
                        datasets_root,
                        output,
                        words(output, "--num-gpus", "2", "--dist-timeout", "120"),
                        prepare=only_meet,
                    )
                )
                for output in outputs
            ]
            for command, output in zip(commands, outputs, strict=True):
                command.require(0)
                assert command.said().count(f"met in {output}") == 1


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_line(datasets_root, tmp_path, port):
    argv = words(tmp_path / "run", "--num-gpus", "2", "--dist-url", f"tcp://127.0.0.1:{port}")
    with (
        socket.create_server(("127.0.0.1", port)) as _,
        Command(datasets_root, tmp_path / "run", argv, prepare=only_meet) as command,
    ):
        last = command.require(BAD_INPUT)
    assert last.startswith(f"error: --dist-url tcp://127.0.0.1:{port}: the processes do not meet")


@pytest.mark.slow
def test_torchruns_processes_train_as_the_launchers(datasets_root, two, tmp_path, port):
    output = tmp_path / "run"
    # What is said besides torchrun may be said if it is the same.
    argv = words(output, "--num-gpus", "2", overrides=UNTESTED)
    with torchrun(datasets_root, tmp_path, argv, port) as commands:
        for command in commands:
            command.require(0)
    assert_equal(read(output), read(two))
    log = (output / "log.txt").read_text()
    assert "num_gpus=2, num_machines=1, machine_rank=0" in log
    assert "Rank of current process: 0. World size: 2" in log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"NO.KEY": 1}, "Non-existent key: NO.KEY"),
        ({"SOLVER.IMS_PER_BATCH": 3}, "SOLVER.IMS_PER_BATCH: 3 images for 2 processes"),
    ],
)
def test_torchruns_processes_tell_a_mistake_once(datasets_root, tmp_path, port, overrides, message):
    argv = words(tmp_path / "run", overrides=overrides)
    with torchrun(datasets_root, tmp_path, argv, port) as commands:
        last, nothing = (command.require(BAD_INPUT) for command in commands)
    assert message in last
    assert "error" not in nothing


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ({"LOCAL_RANK": "0"}, [], "LOCAL_RANK is set, but RANK and WORLD_SIZE and"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, [], "WORLD_SIZE is '2', but there is no LOCAL_RANK"),
        (
            {
                **{"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234"},
            },
            ["--num-gpus", "3"],
            "--num-gpus 3: torchrun says 2, expected --num-gpus 2 or none",
        ),
    ],
)
def test_what_contradicts_torchrun_is_one_line(
    datasets_root, tmp_path, monkeypatch, capsys, environment, options, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_tool("tools/train_net.py").main(words(tmp_path, *options)) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.slow
def test_the_real_torchrun(datasets_root, two, tmp_path):
    names = [f"shapes_easy_{split}_panoptic_separated" for split in ("train", "val")]
    overrides = {"DATASETS.TRAIN": (names[0],), "DATASETS.TEST": (names[1],)}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "tools/train_net.py"),
            *words(tmp_path, overrides=overrides),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = read(tmp_path), read(two)
    # The same images, which another process knows by their registered name alone.
    for checkpoint, name in ((ours, names[0]), (theirs, "test_shapes_train_separated")):
        config = checkpoint["trainer"]["circumstances"]["config"]
        assert tuple(config.pop("DATASETS.TRAIN")) == (name,)
    assert_equal(ours, theirs)
    metrics = tmp_path / f"inference/{names[1]}/metrics.json"
    assert metrics.read_text() == (two / METRICS).read_text()


# How they end.


def gone(process):
    """Return whether a process has ended, waited for or not."""
    try:
        with open(f"/proc/{process}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def require_gone(processes):
    end = time.monotonic() + 60
    while not all(map(gone, processes)):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_can_be_resumed(datasets_root, two, tmp_path):
    output = tmp_path / "run"
    argv = words(output, "--num-gpus", "2", "--resume")
    with Command(datasets_root, output, argv, prepare=killed_in_iteration_3) as command:
        command.wait_until(lambda: len(command.ranks()) == 2)
        ranks = command.ranks()
        command.wait_until(lambda: gone(ranks[1]))
        assert command.wait(60) is not None
        last = command.require(LOST_PROCESS)
        require_gone(ranks)
    assert last.startswith("error: process 1 of 2 was killed by SIGKILL")
    assert last.endswith(GOES_ON)
    assert (output / "last_checkpoint").read_text() == "model_0000001.pth"
    with Command(datasets_root, tmp_path / "resumed", argv) as command:
        command.require(0)
        assert f"resumed from {output}/model_0000001.pth at iteration 2" in command.said()
    assert_equal(read(output), read(two))
    assert (output / METRICS).read_text() == (two / METRICS).read_text()


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run_after_the_timeout(datasets_root, tmp_path):
    argv = words(tmp_path / "run", "--num-gpus", "2", "--dist-timeout", "30")
    with Command(datasets_root, tmp_path / "run", argv, prepare=stuck_in_iteration_3) as command:
        last = command.require(LOST_PROCESS)
    assert last.startswith("error: process 0 of 2 has lost the others (Timed out waiting 30000ms")
    assert last.endswith(GOES_ON)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "status"),
    [(killed_in_iteration_3, -signal.SIGKILL), (mistaken_in_iteration_3, BAD_INPUT)],
)
def test_a_process_of_torchrun_that_ends_early_ends_the_others(
    datasets_root, tmp_path, port, prepare, status
):
    argv = words(tmp_path / "run")
    with torchrun(datasets_root, tmp_path, argv, port, prepare=prepare) as (first, second):
        line = second.require(status)
        assert ("error: an image is broken" in line) == (status == BAD_INPUT)
        assert first.wait(60) is not None
        last = first.require(LOST_PROCESS)
    assert re.search(LOST_OTHERS, last)
    assert last.endswith(GOES_ON)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "prepare"),
    [
        (signal.SIGKILL, -signal.SIGKILL, None),
        (signal.SIGKILL, -signal.SIGKILL, deaf_to_interrupts),
        (signal.SIGINT, INTERRUPTED, None),
        (signal.SIGTERM, 128 + signal.SIGTERM, None),
        (signal.SIGTERM, 128 + signal.SIGTERM, deaf_to_interrupts),
    ],
)
def test_no_process_outlives_the_launcher(datasets_root, tmp_path, number, status, prepare):
    argv = words(tmp_path / "run", "--num-gpus", "2", overrides={"SOLVER.MAX_ITER": 1000})
    with Command(datasets_root, tmp_path / "run", argv, prepare=prepare) as command:
        command.wait_until(lambda: BEGUN in command.said())
        ranks = command.ranks()
        assert len(ranks) == 2
        command.signal(number)
        assert command.require(status).startswith("interrupted" if status == INTERRUPTED else "")
        require_gone(ranks)
    # Whoever is killed cannot.
    left = [path.name for path in tmp_path.glob("ocr_panoptic-*")]
    assert number == signal.SIGKILL or left == []


@pytest.mark.parametrize("options", [(), ("--eval-only",)], ids=["training", "evaluation"])
def test_a_killed_worker_of_the_data_loader_is_one_line(
    datasets_root, tmp_path, monkeypatch, capsys, options
):
    def die(mapper, image):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(PanopticDatasetMapper, "__call__", die)
    argv = words(tmp_path / "run", *options, overrides={"DATALOADER.NUM_WORKERS": 1})
    assert load_tool("tools/train_net.py").main(argv) == LOST_PROCESS
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    (line,) = errors
    assert re.match(r"error: a worker of the data loader is lost: .* by signal: Killed \(the", line)
    assert line.endswith("take less)" if options else "; there is no checkpoint to go on from yet")
    assert "Traceback" not in said.err + said.out + (tmp_path / "run/log.txt").read_text()


def test_a_process_whose_reader_has_gone_works_on(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    done, args = [], argparse.Namespace(eval_only=True)

    def work(*args):
        for _ in range(3):
            print("x" * 100_000)
        done.append(args)

    monkeypatch.setattr(launch, "run", work)
    with os.fdopen(writer, "w") as nobody, contextlib.redirect_stdout(nobody):
        launch._run_as_child("config", args, [])
    assert done == [("config", args, [])]
