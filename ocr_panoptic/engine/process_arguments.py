"""Which processes a run has: what the command line says of them, or torchrun."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.engine.launch import DEFAULT_TIMEOUT

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import require_folder

__all__ = [
    "Place",
    "add_process_arguments",
    "check_device",
    "place_of_torchrun",
    "settle_process_arguments",
]

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """Where this process stands among those of a run.

    Attributes:
        rank: among all processes, from 0.
        world_size: number of all processes.
        local_rank: among those of this machine, from 0.
        local_size: processes of this machine, and of every other.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int

    @property
    def machines(self) -> int:
        """Number of machines."""
        return self.world_size // self.local_size

    @property
    def machine(self) -> int:
        """This machine among them, from 0."""
        return self.rank // self.local_size


def place_of_torchrun(environment: Mapping[str, str]) -> Place | None:
    """Return where torchrun has put this process, or None if torchrun has not started it.

    Args:
        environment: of the process.

    Raises:
        InputError: the variables are not those of torchrun, or contradict each other.
    """
    if "LOCAL_RANK" not in environment:
        return None
    missing = [name for name in _TORCHRUN if not environment.get(name)]
    if missing:
        raise InputError(
            f"environment: LOCAL_RANK is set, but {' and '.join(missing)} is not; expected all "
            "that torchrun sets, or none"
        )
    names = (*_TORCHRUN[:4], "MASTER_PORT")
    for name in names:
        if not re.fullmatch(r"\d{1,9}", environment[name], re.ASCII):
            raise InputError(f"environment: {name} is '{environment[name]}', expected a number")
    place = Place(*(int(environment[name]) for name in names[:4]))
    # Detectron2 counts the processes of a machine in a row.
    fits = place.local_size >= 1 and place.world_size % place.local_size == 0
    if (
        not fits
        or place.rank >= place.world_size
        or place.local_rank != place.rank % (place.local_size)
    ):
        raise InputError(
            f"environment: RANK {place.rank} of WORLD_SIZE {place.world_size}, LOCAL_RANK "
            f"{place.local_rank} of LOCAL_WORLD_SIZE {place.local_size}; expected as many "
            "processes on every machine, numbered in a row"
        )
    return place


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add to Detectron2's arguments, and let them tell what was given from what was not."""
    # Detectron2's port is the same for every job of a user, so two jobs on a host would collide.
    parser.set_defaults(num_gpus=None, num_machines=None, machine_rank=None, dist_url="auto")
    parser.add_argument(
        "--dist-timeout",
        type=int,
        metavar="SECONDS",
        default=int(DEFAULT_TIMEOUT.total_seconds()),
        help="how long processes wait for one that does not answer (default %(default)s)",
    )


def settle_process_arguments(
    args: argparse.Namespace, place: Place | None, environment: Mapping[str, str]
) -> Place:
    """Check the arguments that concern processes, and fill in what was not given.

    Args:
        args: of :func:`add_process_arguments`; changed in place.
        place: of torchrun, if that started this process.
        environment: of the process.

    Returns:
        ``place``, or that of the first process which is to be started here.

    Raises:
        InputError: for what cannot be, or contradicts torchrun.
    """
    if not 1 <= args.dist_timeout <= 10**7:
        raise InputError(f"--dist-timeout {args.dist_timeout}: expected 1 second or more")
    if place is not None:
        _settle_with_torchrun(args, place)
        return place
    args.num_gpus = 1 if args.num_gpus is None else args.num_gpus
    args.num_machines = 1 if args.num_machines is None else args.num_machines
    args.machine_rank = 0 if args.machine_rank is None else args.machine_rank
    if args.num_gpus < 0:
        raise InputError(f"--num-gpus {args.num_gpus}: expected 0 or more")
    if args.num_machines < 1:
        raise InputError(f"--num-machines {args.num_machines}: expected 1 or more")
    if not 0 <= args.machine_rank < args.num_machines:
        raise InputError(
            f"--machine-rank {args.machine_rank}: expected 0 to {args.num_machines - 1}"
        )
    _check_address(args)
    others = environment.get("WORLD_SIZE", "")
    if args.num_machines == 1 and environment.get("RANK") and others not in ("", "1"):
        # Each process of such a job would train alone, into the same folder.
        raise InputError(
            f"environment: WORLD_SIZE is '{others}', but there is no LOCAL_RANK; expected torchrun "
            "to start the processes, or --num-machines, --machine-rank and --dist-url, or no RANK"
        )
    # Without a GPU there is one process too.
    here = max(1, args.num_gpus)
    return Place(args.machine_rank * here, args.num_machines * here, 0, here)


def _settle_with_torchrun(args: argparse.Namespace, place: Place) -> None:
    for name, value in (
        ("num_gpus", place.local_size),
        ("num_machines", place.machines),
        ("machine_rank", place.machine),
    ):
        given = getattr(args, name)
        if given not in (None, value):
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"{option} {given}: torchrun says {value}, expected {option} {value} or none"
            )
        setattr(args, name, value)
    if args.dist_url != "auto":
        raise InputError(
            f"--dist-url {args.dist_url}: torchrun has its own address, expected no --dist-url"
        )


def _check_address(args: argparse.Namespace) -> None:
    url = args.dist_url
    if url == "auto":
        if args.num_machines > 1:
            raise InputError(
                f"--dist-url auto with --num-machines {args.num_machines}, expected an address of "
                "machine 0 such as tcp://HOST:PORT"
            )
        return
    tcp = re.fullmatch(r"tcp://([^/]+):(\d{1,5})", url, re.ASCII)
    if not (tcp and 0 < int(tcp[2]) < 2**16) and not re.fullmatch(r"file:///.+", url):
        raise InputError(f"--dist-url {url}: expected auto, tcp://HOST:PORT or file:///PATH")
    if tcp:
        return
    path = url.removeprefix("file://")
    if os.path.isdir(path) or (args.num_machines == 1 and os.path.exists(path)):
        raise InputError(f"--dist-url {url}: there is such a file, expected a new one's name")
    # Torch would wait for it to appear.
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise InputError(f"--dist-url {url}: {folder}: no such folder, expected one for the file")
    require_folder(folder, f"--dist-url {url}")


def check_device(name: str, args: argparse.Namespace, place: Place) -> None:
    """See that every process of this machine has a device.

    Args:
        name: MODEL.DEVICE; another check says whether there is such a device.
        args: settled.
        place: of a process of this machine.

    Raises:
        InputError: there are more processes than GPUs.
    """
    if not name.startswith("cuda"):
        return
    gpus = torch.cuda.device_count()
    if place.local_size > gpus > 0:
        raise InputError(f"--num-gpus {args.num_gpus}: this machine has {gpus}")
    if place.local_size > 1 and name != "cuda":
        raise InputError(f"MODEL.DEVICE: {name} for {place.local_size} processes, expected cuda")
