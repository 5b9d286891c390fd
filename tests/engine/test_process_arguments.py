"""Which processes a run has, as the command line says or torchrun."""

import argparse

import pytest
import torch

from ocr_panoptic.engine.process_arguments import (
    Place,
    add_process_arguments,
    check_device,
    place_of_torchrun,
    settle_process_arguments,
)
from ocr_panoptic.errors import InputError

TORCHRUN = {
    **{"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "a", "MASTER_PORT": "29500"},
}
PLACE = Place(rank=5, world_size=6, local_rank=1, local_size=2)


def parsed(*argv):
    parser = argparse.ArgumentParser()
    for option in ("--num-gpus", "--num-machines", "--machine-rank"):
        parser.add_argument(option, type=int)
    parser.add_argument("--dist-url")
    parser.add_argument("--eval-only", action="store_true")
    add_process_arguments(parser)
    return parser.parse_args(argv)


def settled(*argv, place=None, environment=()):
    args = parsed(*argv)
    return args, settle_process_arguments(args, place, dict(environment))


def test_without_torchrun_there_is_no_place():
    assert place_of_torchrun({}) is None
    assert place_of_torchrun({"RANK": "0", "WORLD_SIZE": "1"}) is None


def test_the_place_that_torchrun_gives():
    place = place_of_torchrun(TORCHRUN)
    assert place == PLACE
    assert (place.machines, place.machine) == (3, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": ""}, "LOCAL_RANK is set, but RANK is not"),
        ({"RANK": "", "MASTER_ADDR": ""}, "RANK and MASTER_ADDR is not"),
        ({"WORLD_SIZE": "six"}, "WORLD_SIZE is 'six', expected a number"),
        ({"RANK": "-1"}, "RANK is '-1', expected a number"),
        ({"MASTER_PORT": "1e3"}, "MASTER_PORT is '1e3', expected a number"),
        ({"RANK": "6"}, "RANK 6 of WORLD_SIZE 6"),
        ({"RANK": "4"}, "LOCAL_RANK 1 of LOCAL_WORLD_SIZE 2"),
        ({"LOCAL_WORLD_SIZE": "4"}, "as many processes on every machine"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE 0"),
    ],
)
def test_an_environment_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        place_of_torchrun({**TORCHRUN, **changes})


def test_what_is_not_given_is_one_process():
    args, place = settled()
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (1, 1, 0)
    assert (args.dist_url, args.dist_timeout) == ("auto", 1800)
    assert place == Place(0, 1, 0, 1)


def test_the_first_process_of_a_machine():
    argv = ("--num-gpus", "4", "--num-machines", "3", "--machine-rank", "2")
    _, place = settled(*argv, "--dist-url", "tcp://a:1234")
    assert place == Place(rank=8, world_size=12, local_rank=0, local_size=4)
    # No GPU is one process.
    _, place = settled("--num-gpus", "0")
    assert place == Place(0, 1, 0, 1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-gpus", "-1"], "--num-gpus -1: expected 0 or more"),
        (["--num-machines", "0"], "--num-machines 0: expected 1 or more"),
        (["--machine-rank", "1"], "--machine-rank 1: expected 0 to 0"),
        (["--machine-rank", "-1"], "--machine-rank -1: expected 0 to 0"),
        (["--num-machines", "2"], "--dist-url auto with --num-machines 2"),
        (["--dist-url", "localhost:1234"], "expected auto, tcp://HOST:PORT or file:///PATH"),
        (["--dist-url", "tcp://a"], "--dist-url tcp://a: expected auto"),
        (["--dist-url", "tcp://a:65536"], "--dist-url tcp://a:65536: expected auto"),
        (["--dist-url", "tcp://a:0"], "--dist-url tcp://a:0: expected auto"),
        (["--dist-url", "file://a"], "--dist-url file://a: expected auto"),
        (["--dist-url", f"file://{__file__}"], "there is such a file"),
        (["--dist-url", "file:///"], "--dist-url file:///: expected auto"),
        (["--dist-url", "file:///nonexistent/dir/x"], "/nonexistent/dir: no such folder, expected"),
        (["--dist-url", "file:///tmp/"], "there is such a file, expected a new one's name"),
        (["--dist-url", "file:///dev/null/x"], "/dev/null: no such folder, expected one for"),
        (["--dist-url", "file:///proc/x"], "--dist-url file:///proc/x: /proc: .* to write to"),
        (
            ["--num-machines", "2", "--dist-url", "file:///nonexistent/x"],
            "/nonexistent: no such folder",
        ),
        (["--dist-timeout", "0"], "--dist-timeout 0: expected 1 second or more"),
        (["--dist-timeout", "-3"], "--dist-timeout -3: expected 1 second or more"),
        (["--dist-timeout", str(10**12)], "--dist-timeout 1000000000000: expected"),
    ],
)
def test_arguments_that_cannot_be(argv, message):
    with pytest.raises(InputError, match=message):
        settled(*argv)


def test_torchrun_fills_in_the_arguments():
    for argv in ([], ["--num-gpus", "2"], ["--num-machines", "3", "--machine-rank", "2"]):
        args, place = settled(*argv, place=PLACE)
        assert place == PLACE
        assert (args.num_gpus, args.num_machines, args.machine_rank) == (2, 3, 2)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-gpus", "1"], "--num-gpus 1: torchrun says 2, expected --num-gpus 2 or none"),
        (["--num-gpus", "0"], "--num-gpus 0: torchrun says 2"),
        (["--num-machines", "1"], "--num-machines 1: torchrun says 3"),
        (["--machine-rank", "0"], "--machine-rank 0: torchrun says 2"),
        (["--dist-url", "tcp://a:1234"], "tcp://a:1234: torchrun has its own address"),
    ],
)
def test_arguments_that_contradict_torchrun(argv, message):
    with pytest.raises(InputError, match=message):
        settled(*argv, place=PLACE)


def test_processes_that_something_else_has_started_are_not_left_alone():
    others = {"RANK": "1", "WORLD_SIZE": "2"}
    with pytest.raises(InputError, match="WORLD_SIZE is '2', but there is no LOCAL_RANK"):
        settled(environment=others)
    # As they are meant to be used with Detectron2's launcher.
    argv = ("--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://a:1234")
    assert settled(*argv, environment=others)[1].rank == 1
    assert settled(environment={"RANK": "0", "WORLD_SIZE": "1"})[1].world_size == 1


def test_every_process_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    args, place = settled("--num-gpus", "3")
    with pytest.raises(InputError, match="--num-gpus 3: this machine has 2"):
        check_device("cuda", args, place)
    check_device("cpu", args, place)
    args, place = settled("--num-gpus", "2")
    check_device("cuda", args, place)
    with pytest.raises(InputError, match="DEVICE: cuda:1 for 2 processes, expected cuda"):
        check_device("cuda:1", args, place)
    check_device("cuda:1", *settled())
