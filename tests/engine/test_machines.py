"""Two machines: network namespaces with addresses of their own and a cable between them."""

import contextlib
import os
import re
import shutil
import subprocess

import pytest

from ocr_panoptic.errors import BAD_INPUT, LOST_PROCESS

from .processes import LOST_OTHERS, Command, killed_in_iteration_3
from .runs import VAL, arguments, assert_equal, read

pytestmark = pytest.mark.slow

ADDRESSES = ("10.11.12.1", "10.11.12.2")
METRICS = f"inference/{VAL}/metrics.json"


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def machines():
    """The names of two machines, with the addresses above."""
    if shutil.which("ip") is None:
        pytest.skip("there is no command ip, which makes network namespaces")
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    names = [f"ocr{os.getpid()}-{number}" for number in (0, 1)]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            peer = ("peer", "name", "cable1", "netns", names[1])
            ip("link", "add", "cable0", "netns", names[0], "type", "veth", *peer)
            for number, name in enumerate(names):
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "address", "add", f"{ADDRESSES[number]}/24", "dev", f"cable{number}")
                ip("-n", name, "link", "set", f"cable{number}", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        yield names
    finally:
        for name in names:
            # The cable goes with them.
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def words(output, *options):
    overrides = {
        **{"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": (3,), "TEST.EVAL_PERIOD": 0},
        # Workers are forked from a process that talks to another machine.
        "DATALOADER.NUM_WORKERS": 1,
    }
    return arguments(output, *options, overrides=overrides)


@contextlib.contextmanager
def running(root, machines, output, name, *options, **more):
    """Start a run on two machines, and yield their commands."""
    with contextlib.ExitStack() as stack:
        commands = []
        for rank, machine in enumerate(machines):
            argv = words(
                output,
                *("--num-machines", "2", "--machine-rank", str(rank)),
                *("--dist-url", f"tcp://{ADDRESSES[0]}:29500", *options),
            )
            command = Command(root, output.parent / f"{name}{rank}", argv, machine=machine, **more)
            commands.append(stack.enter_context(command))
        yield commands


@pytest.fixture(scope="module")
def one_host(datasets_root, tmp_path_factory):
    """The output folder of two processes on one host."""
    output = tmp_path_factory.mktemp("one_host") / "run"
    with Command(datasets_root, output, words(output, "--num-gpus", "2")) as command:
        command.require(0)
    return output


def require_the_same(output, one_host):
    assert_equal(read(output), read(one_host))
    assert (output / METRICS).read_text() == (one_host / METRICS).read_text()


def test_two_machines_are_as_two_processes_of_one(datasets_root, machines, one_host, tmp_path):
    output = tmp_path / "run"
    with running(datasets_root, machines, output, "machine") as commands:
        for command in commands:
            command.require(0)
    require_the_same(output, one_host)
    assert "Rank of current process: 1. World size: 2" in (output / "log.txt.rank1").read_text()


def test_a_process_killed_on_one_machine_ends_the_other(
    datasets_root, machines, one_host, tmp_path
):
    output = tmp_path / "run"
    with running(datasets_root, machines, output, "killed", prepare=killed_in_iteration_3) as (
        survivor,
        other,
    ):
        told = other.require(LOST_PROCESS)
        assert survivor.wait(60) is not None
        lost = survivor.require(LOST_PROCESS)
    assert told.startswith("error: process 1 of 2 was killed by SIGKILL")
    assert re.search(LOST_OTHERS, lost)
    for line in (told, lost):
        assert line.endswith("--resume goes on from the last checkpoint")
    with running(datasets_root, machines, output, "resumed", "--resume") as commands:
        for command in commands:
            command.require(0)
        assert f"resumed from {output}/model_0000001.pth" in commands[0].said()
    require_the_same(output, one_host)


def test_a_machine_that_is_not_there_is_one_line(datasets_root, machines, tmp_path):
    output = tmp_path / "run"
    argv = words(
        output,
        *("--num-machines", "2", "--machine-rank", "1", "--dist-timeout", "3"),
        *("--dist-url", f"tcp://{ADDRESSES[0]}:29500"),
    )
    with Command(datasets_root, output, argv, machine=machines[1]) as command:
        last = command.require(BAD_INPUT)
    assert last.startswith(f"error: --dist-url tcp://{ADDRESSES[0]}:29500: the processes do not ")
    assert "NCCL_SOCKET_IFNAME name the network interface" in last
