"""How processes find each other, and what is said when one is lost."""

import os
import socket
import sys

import pytest
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ocr_panoptic.engine.distributed import (
    explain_lost_process,
    meeting_point,
    network_interface,
)
from ocr_panoptic.errors import InputError, LostProcessError, NonFiniteLossError

from .test_process_arguments import settled

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] "


def test_processes_of_one_host_meet_at_a_file_of_their_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    args, _ = settled("--num-gpus", "2")
    with meeting_point(args, "cpu") as one, meeting_point(args, "cuda") as other:
        assert one.startswith("file:///")
        assert one != other
        folder = os.path.dirname(one.removeprefix("file://"))
        assert os.path.isdir(folder)
        # Where Detectron2 sees a GPU, it does not train on the CPU.
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not os.path.exists(folder)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    with meeting_point(settled()[0], "cpu"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    args, _ = settled("--num-gpus", "2", "--dist-url", "tcp://127.0.0.1:1234")
    with meeting_point(args, "cuda") as address:
        assert address == "tcp://127.0.0.1:1234"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def address_of(name):
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            request = struct.pack("256s", name.encode())
            return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), 0x8915, request)[20:24])
        except OSError:
            return None


@pytest.mark.skipif(sys.platform != "linux", reason="network interfaces are asked for on Linux")
def test_the_network_between_machines(monkeypatch):
    assert network_interface("127.0.0.1", 1234) is None
    for host in ("no such host", "a" * 99, "[::1]", ""):
        assert network_interface(host, 1234) is None
    names = [name for _, name in socket.if_nameindex()]
    others = {name: address_of(name) for name in names if name != "lo"}
    for name, address in others.items():
        if address is not None:
            assert network_interface(address, 1234) == name
    # What the user says counts.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    args, _ = settled("--num-machines", "2", "--dist-url", "tcp://10.0.0.1:1234")
    with meeting_point(args, "cpu"):
        assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"


def raised(text, frame="main_func(*args)"):
    return ProcessRaisedException(
        "\n\n-- Process 0 terminated with the following error:\nTraceback (most recent call last):"
        f'\n  File "launch.py", line 110, in _distributed_worker\n    {frame}\n{text}\n',
        0,
        1234,
    )


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            ProcessExitedException("", 1, 1234, -9, "SIGKILL"),
            LostProcessError,
            r"3 of 4 was killed by SIGKILL \(the system does so for lack of memory\), .*--resume",
        ),
        (
            ProcessExitedException("", 0, 1234, -6, "SIGABRT"),
            LostProcessError,
            "process 2 of 4 was killed by SIGABRT, and the others were ended; --resume goes on",
        ),
        (
            ProcessExitedException("", 0, 1234, 7),
            LostProcessError,
            "process 2 of 4 ended with status 7",
        ),
        (raised("ocr_panoptic.errors.InputError: a.png: broken"), InputError, "^a.png: broken$"),
        (
            raised("ocr_panoptic.errors.NonFiniteLossError: loss"),
            NonFiniteLossError,
            "^loss$",
        ),
        (
            raised("ocr_panoptic.errors.LostProcessError: process 0 of 2"),
            LostProcessError,
            "^process 0 of 2$",
        ),
        (
            raised(f"RuntimeError: {GLOO}Connection closed by peer [10.0.0.1]:1234"),
            LostProcessError,
            r"a process of 4 has gone at the start \(Connection closed by peer \[10",
        ),
        (
            raised(
                "torch.distributed.DistNetworkError: The server socket has failed to bind.",
                "dist.init_process_group(",
            ),
            InputError,
            r"--dist-url tcp://a:1234: the processes do not meet \(The server socket has failed "
            r"to bind\), expected a free port",
        ),
        (
            raised(f"RuntimeError: {GLOO}Connection reset by peer", "dist.init_process_group("),
            LostProcessError,
            "--dist-url tcp://a:1234: a process has gone before all had met",
        ),
    ],
)
def test_the_end_of_a_process_is_one_line(error, kind, message):
    argv = ("--num-gpus", "2", "--num-machines", "2", "--machine-rank", "1")
    args, place = settled(*argv, "--dist-url", "tcp://a:1234")
    explained = explain_lost_process(error, args, place)
    assert type(explained) is kind
    with pytest.raises(kind, match=message):
        raise explained


def test_an_evaluation_is_not_resumed():
    error = ProcessExitedException("", 0, 1234, -6, "SIGABRT")
    explained = explain_lost_process(error, *settled("--num-gpus", "2", "--eval-only"))
    assert str(explained) == "process 0 of 2 was killed by SIGABRT, and the others were ended"


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: shapes",
        "KeyError: 3",
        "ValueError",
        "RuntimeError: [1] gloo",
        "DistutilsError: 3",
    ],
)
def test_a_bug_keeps_its_traceback(text):
    assert explain_lost_process(raised(text), *settled("--num-gpus", "2")) is None
