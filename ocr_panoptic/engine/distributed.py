"""How the processes of a run meet, what they share, and what is said when one is lost."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
from detectron2.utils import comm
from torch import distributed, nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ocr_panoptic.errors import InputError, LostProcessError, OneLineError, error_of_traceback

from .process_arguments import Place

__all__ = [
    "explain_lost_process",
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

_GOES_ON = "; --resume goes on from the last checkpoint"
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
    """
    changes = {}
    if args.num_machines * args.num_gpus > 1 and not device.startswith("cuda"):
        # Detectron2 asks for NCCL wherever it sees a GPU.
        changes["CUDA_VISIBLE_DEVICES"] = ""
    if args.num_machines > 1:
        host, port = args.dist_url.removeprefix("tcp://").rsplit(":", 1)
        changes |= _gloo_interface(host, int(port)) if args.dist_url.startswith("tcp") else {}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        if args.dist_url == "auto" and args.num_gpus > 1:
            with tempfile.TemporaryDirectory(prefix="ocr_panoptic-") as folder:
                yield f"file://{folder}/processes"
        else:
            yield args.dist_url
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
def lost_process_named(*, train: bool) -> Iterator[None]:
    """Turn the error of a process that has lost another into :class:`LostProcessError`.

    It is raised after :data:`GRACE_SECONDS`.

    Args:
        train: whether there is something to be resumed.
    """
    try:
        yield
    except RuntimeError as error:
        if comm.get_world_size() == 1 or not _is_lost(type(error).__name__, str(error)):
            raise
        if not train:
            # Detectron2's loop of a training does so.
            _logger.exception("The evaluation ends:")
        time.sleep(GRACE_SECONDS)
        raise LostProcessError(
            f"process {comm.get_rank()} of {comm.get_world_size()} has lost the others "
            f"({_reason(error)}){_GOES_ON if train else ''}"
        ) from error


def explain_lost_process(
    error: ProcessExitedException | ProcessRaisedException, args: argparse.Namespace, place: Place
) -> OneLineError | None:
    """Say in one line why a process that Detectron2's launcher started has ended.

    Args:
        error: of torch, which has ended the other processes of this machine.
        args: settled.
        place: of the first process of this machine.

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
            f"others were ended{'' if args.eval_only else _GOES_ON}"
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
    return re.sub(r"^\[\S*gloo\S*\] ", "", str(error).strip().partition("\n")[0]).rstrip(".")
