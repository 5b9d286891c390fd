"""How the processes of a run meet, what they share, and what is said when one is lost."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit

import torch
from detectron2.utils import comm
from torch import distributed, nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ocr_panoptic.errors import InputError, LostProcessError, OneLineError, error_of_traceback

from .process_arguments import Place

__all__ = [
    "explain_lost_process",
    "is_lost_worker",
    "join_group",
    "lost_process_named",
    "meeting_point",
    "network_interface",
    "share_buffers",
]

_logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""How long a process that has lost another waits before it ends: whoever started both sees the
other one's end first, and can say why."""

# Linux: the IPv4 address of a network interface.
_SIOCGIFADDR = 0x8915


@contextlib.contextmanager
def meeting_point(args: argparse.Namespace, device: str) -> Iterator[str]:
    """Provide what the processes that Detectron2's launcher starts need to find each other.

    For ``--dist-url auto`` that is a file of their own: a free port could be taken by another
    job before they use it.

    Args:
        args: settled.
        device: MODEL.DEVICE.

    Yields:
        The address for Detectron2's launcher.

    Raises:
        InputError: there is no such host.
    """
    changes = {}
    if args.num_machines * max(1, args.num_gpus) > 1:
        _require_host(args.dist_url)
        if not device.startswith("cuda"):
            # Detectron2 asks for NCCL wherever it sees a GPU.
            changes["CUDA_VISIBLE_DEVICES"] = ""
    if args.num_machines > 1:
        host, port = args.dist_url.removeprefix("tcp://").rsplit(":", 1)
        changes |= _gloo_interface(host, int(port)) if args.dist_url.startswith("tcp") else {}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        if args.dist_url == "auto" and args.num_gpus > 1:
            with (
                _ended_as_by_exit(),
                tempfile.TemporaryDirectory(prefix="ocr_panoptic-") as folder,
            ):
                yield f"file://{folder}/processes"
        else:
            yield args.dist_url
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _require_host(url: str) -> None:
    """See that the host of a tcp address is known; torch would ask for it until its timeout."""
    address = urlsplit(url)
    if address.scheme != "tcp":
        return
    try:
        socket.getaddrinfo(address.hostname, address.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        reason = "no name of a host"
        raise InputError(_unknown_host(url, address.hostname, reason)) from error
    except socket.gaierror as error:
        # A name server that does not answer now may do so soon.
        if error.errno != socket.EAI_AGAIN:
            raise InputError(_unknown_host(url, address.hostname, error.strerror)) from error


def _unknown_host(url: str, host: str | None, reason: str) -> str:
    return (
        f"--dist-url {url}: {host} cannot be found ({reason}), expected the name or the address "
        "of machine 0"
    )


@contextlib.contextmanager
def _ended_as_by_exit() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this process as sys.exit does: what it has begun is ended too."""

    def leave(number: int, frame: object) -> None:
        # The second one ends it at once.
        signal.signal(number, signal.SIG_DFL)
        sys.exit(128 + number)

    ours = []
    # Elsewhere no signal can be handled.
    if threading.current_thread() is threading.main_thread():
        numbers = (signal.SIGTERM, signal.SIGHUP)
        # One that is ignored, as by nohup, stays so.
        ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def join_group(place: Place, device: str, timeout: int) -> None:
    """Join the group of processes that torchrun has started, as Detectron2's launcher does.

    Args:
        place: of this process.
        device: MODEL.DEVICE.
        timeout: in seconds, after which a process that does not answer is an error.

    Raises:
        InputError: they do not find each other.
    """
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    on_gpus = device.startswith("cuda") and torch.cuda.is_available()
    if place.machines > 1:
        os.environ.update(_gloo_interface(address, int(port)))
    try:
        distributed.init_process_group(
            "nccl" if on_gpus else "gloo",
            init_method="env://",
            world_size=place.world_size,
            rank=place.rank,
            timeout=timedelta(seconds=timeout),
        )
    except (RuntimeError, ValueError) as error:
        raise _no_meeting(f"torchrun: MASTER_ADDR {address}, MASTER_PORT {port}", error) from error
    comm.create_local_process_group(place.local_size)
    if on_gpus:
        torch.cuda.set_device(place.local_rank)
    comm.synchronize()


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the main one, the running statistics that it saves.

    Each process has its own while a model with plain batch norm is trained.

    Args:
        model: the same in all processes of a run, which call this together.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def _no_meeting(where: str, error: object) -> OneLineError:
    reason = _reason(error)
    if "onnection closed" in reason or "onnection reset" in reason:
        return LostProcessError(f"{where}: a process has gone before all had met ({reason})")
    return InputError(
        f"{where}: the processes do not meet ({reason}), expected a free port of machine 0 that "
        "all reach; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface"
    )


def _gloo_interface(host: str, port: int) -> dict[str, str]:
    """Name the network for gloo, which would take the one that this machine's name stands for.

    That is often the loopback, where no other machine is.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return {}
    name = network_interface(host, port)
    return {} if name is None else {"GLOO_SOCKET_IFNAME": name}


def network_interface(host: str, port: int) -> str | None:
    """Return the network interface of this machine from which it reaches a host.

    Args:
        host: name or IPv4 address; this machine's own gives the interface that has it.
        port: any.

    Returns:
        Its name; None where that is the loopback, or is not known.
    """
    if sys.platform != "linux":
        return None
    import fcntl

    # Nothing is sent: connecting a datagram socket chooses a route.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port))
        except (OSError, UnicodeError):
            return None
        address = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", os.fsencode(name)[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:
                continue  # It has no address.
            if socket.inet_ntoa(answer[20:24]) == address:
                return None if address.startswith("127.") else name
    return None


@contextlib.contextmanager
def lost_process_named(output: str | None) -> Iterator[None]:
    """Turn the error of a process that has lost another into :class:`LostProcessError`.

    The other is one of the run, which is told after :data:`GRACE_SECONDS`, or a worker of its
    data loader.

    Args:
        output: folder of the checkpoints of a training, None for an evaluation.
    """
    try:
        yield
    except RuntimeError as error:
        if is_lost_worker(error):
            raise LostProcessError(f"{_lost_worker(error)}{_goes_on(output)}") from error
        if comm.get_world_size() == 1 or not _is_lost(type(error).__name__, str(error)):
            raise
        if output is None:
            # Detectron2's loop of a training does so.
            _logger.exception("The evaluation ends:")
        time.sleep(GRACE_SECONDS)
        raise LostProcessError(
            f"process {comm.get_rank()} of {comm.get_world_size()} has lost the others "
            f"({_reason(error)}){_goes_on(output)}"
        ) from error


def is_lost_worker(error: BaseException | None) -> bool:
    """Say whether an error is torch's for a worker of a data loader that has gone."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def _lost_worker(error: RuntimeError) -> str:
    # The first error knows the signal.
    cause = error.__cause__
    text = str(cause if is_lost_worker(cause) else error)
    if "shared memory" in text:
        cure = "for lack of shared memory; expected more in /dev/shm, or DATALOADER.NUM_WORKERS 0"
    elif "exit code" in text:
        cure = "nobody has killed it; DATALOADER.NUM_WORKERS 0 may show why"
    else:
        cure = "the system kills for lack of memory; fewer DATALOADER.NUM_WORKERS take less"
    # What follows is advice.
    reason = _reason(text.partition(". ")[0])
    return f"a worker of the data loader is lost: {reason} ({cure})"


def _goes_on(output: str | None) -> str:
    """Return what to say of the checkpoint that is left, in a folder; None for no training."""
    if output is None:
        return ""
    if not os.path.exists(os.path.join(output, "last_checkpoint")):
        return "; there is no checkpoint to go on from yet"
    return "; --resume goes on from the last checkpoint"


def explain_lost_process(
    error: ProcessExitedException | ProcessRaisedException,
    args: argparse.Namespace,
    place: Place,
    output: str | None,
) -> OneLineError | None:
    """Say in one line why a process that Detectron2's launcher started has ended.

    Args:
        error: of torch, which has ended the other processes of this machine.
        args: settled.
        place: of the first process of this machine.
        output: folder of the checkpoints of a training, None for an evaluation.

    Returns:
        None for a bug, whose traceback ``error`` holds.
    """
    if isinstance(error, ProcessExitedException):
        how = f"ended with status {error.exit_code}"
        if error.signal_name is not None:
            how = f"was killed by {error.signal_name}"
        if error.signal_name == "SIGKILL":
            how += " (the system does so for lack of memory)"
        return LostProcessError(
            f"process {place.rank + error.error_index} of {place.world_size} {how}, and the "
            f"others were ended{_goes_on(output)}"
        )
    # A child's exception comes as the text of its traceback.
    text = str(error).strip()
    known = error_of_traceback(text)
    if known is not None:
        return known
    kind, _, message = text.splitlines()[-1].partition(": ")
    if re.search(r", in _distributed_worker\s+dist\.init_process_group\(", text):
        return _no_meeting(f"--dist-url {args.dist_url}", message)
    if _is_lost(kind.rpartition(".")[2], message):
        return LostProcessError(
            f"a process of {place.world_size} has gone at the start ({_reason(message)})"
        )
    return None


def _is_lost(kind: str, message: str) -> bool:
    """Say whether an error, by the name of its class and its message, is one of communication."""
    # Gloo's are plain RuntimeErrors that begin with the place in its source.
    known = re.fullmatch("_?Dist(Backend|Network|Store)?Error", kind)
    return bool(known or re.match(r"\[\S*gloo\S*\] ", message))


def _reason(error: object) -> str:
    return re.sub(r"^\[\S*gloo\S*\] ", "", str(error).strip().partition("\n")[0]).rstrip(". ")
