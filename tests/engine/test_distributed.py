"""How processes find each other, and what is said when one is lost."""

import os
import re
import signal
import socket
import sys

import pytest
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.utils.data import DataLoader

from ocr_panoptic.engine.distributed import (
    explain_lost_process,
    is_lost_worker,
    lost_process_named,
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


def test_a_signal_to_the_launcher_leaves_nothing_behind():
    folders = []
    numbers = (signal.SIGTERM, signal.SIGHUP)
    # Under nohup one is ignored.
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]

    def meet_and_get(number):
        with meeting_point(settled("--num-gpus", "2")[0], "cpu") as address:
            folders.append(os.path.dirname(address.removeprefix("file://")))
            assert os.path.isdir(folders[-1])
            signal.raise_signal(number)

    try:
        for number in numbers:
            with pytest.raises(SystemExit) as ended:
                meet_and_get(number)
            assert ended.value.code == 128 + number
            assert not os.path.exists(folders[-1])
            assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_a_signal_that_is_ignored_stays_so():
    args, _ = settled("--num-gpus", "2")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with meeting_point(args, "cpu"):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("host", "answer", "reason"),
    [
        ("nowhere", socket.gaierror(socket.EAI_NONAME, "Name unknown"), "Name unknown"),
        ("a" * 99, UnicodeError("label too long"), "no name of a host"),
        # Not now, but soon.
        ("nowhere", socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), None),
        ("[::1]", None, None),
    ],
)
@pytest.mark.parametrize(
    "argv", [("--num-gpus", "2"), ("--num-gpus", "0", "--num-machines", "2"), ()], ids=" ".join
)
def test_a_host_that_is_not_there(monkeypatch, host, answer, reason, argv):
    asked = []

    def getaddrinfo(name, port, **options):
        asked.append((name, port))
        if answer is not None:
            raise answer
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    url = f"tcp://{host}:1234"
    args, place = settled(*argv, "--dist-url", url)
    if place.world_size > 1 and reason is not None:
        expected = (
            f"--dist-url {url}: {host} cannot be found ({reason}), expected the name or the "
            "address of machine 0"
        )
        with pytest.raises(InputError) as refused, meeting_point(args, "cuda"):
            pass
        assert str(refused.value) == expected
    else:
        with meeting_point(args, "cuda") as address:
            assert address == url
    assert asked == [(host.strip("[]"), 1234)] * (place.world_size > 1)


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


@pytest.fixture
def trained(tmp_path):
    """The output folder of a training that has saved a checkpoint."""
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    return str(tmp_path)


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
def test_the_end_of_a_process_is_one_line(error, kind, message, trained):
    argv = ("--num-gpus", "2", "--num-machines", "2", "--machine-rank", "1")
    args, place = settled(*argv, "--dist-url", "tcp://a:1234")
    explained = explain_lost_process(error, args, place, trained)
    assert type(explained) is kind
    with pytest.raises(kind, match=message):
        raise explained


def test_an_evaluation_is_not_resumed():
    error = ProcessExitedException("", 0, 1234, -6, "SIGABRT")
    explained = explain_lost_process(error, *settled("--num-gpus", "2", "--eval-only"), None)
    assert str(explained) == "process 0 of 2 was killed by SIGABRT, and the others were ended"


def test_there_may_be_no_checkpoint_yet(tmp_path):
    error = ProcessExitedException("", 0, 1234, -6, "SIGABRT")
    explained = explain_lost_process(error, *settled("--num-gpus", "2"), str(tmp_path))
    assert str(explained).endswith("were ended; there is no checkpoint to go on from yet")


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
    assert explain_lost_process(raised(text), *settled("--num-gpus", "2"), None) is None


# Workers of a data loader.


class Dying:
    """Images of which one is the end of the process that reads it."""

    def __init__(self, act):
        self._act = act

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1:
            self._act()
        return index


MEMORY = r"\(the system kills for lack of memory; fewer DATALOADER.NUM_WORKERS take less\)"
SHARED = r"\(for lack of shared memory; expected more in /dev/shm, or DATALOADER.NUM_WORKERS 0\)"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), rf"is killed by signal: Killed {MEMORY}"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), rf"is killed by signal: Bus error {SHARED}"),
        (lambda: os._exit(3), r"exited unexpectedly with exit code 3 \(nobody has.*\)"),
    ],
    ids=["SIGKILL", "SIGBUS", "exit"],
)
def test_a_worker_that_has_gone_is_one_line(trained, act, message):
    with pytest.raises(LostProcessError) as lost, lost_process_named(trained):
        list(DataLoader(Dying(act), batch_size=None, num_workers=1, multiprocessing_context="fork"))
    line = str(lost.value)
    assert re.fullmatch(
        rf"a worker of the data loader is lost: DataLoader worker \(pid\S* \d+\) {message}; "
        "--resume goes on from the last checkpoint",
        line,
    )
    assert is_lost_worker(lost.value.__cause__)
    with pytest.raises(LostProcessError) as lost, lost_process_named(None):
        raise RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly")
    assert str(lost.value).endswith("take less)")


def test_the_error_of_a_worker_is_not_its_loss():
    def spoil():
        raise RuntimeError("an image")

    loader = DataLoader(Dying(spoil), batch_size=None, num_workers=1)
    with pytest.raises(RuntimeError, match="an image") as error, lost_process_named(None):
        list(loader)
    assert not is_lost_worker(error.value)
