"""Train or evaluate a config, in one process or several."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ocr_panoptic.errors import BAD_INPUT, InputError, OneLineError, patient_streams
from ocr_panoptic.known_warnings import silence_known_warnings

from .checkpoint import Checkpointer
from .distributed import (
    explain_lost_process,
    is_lost_worker,
    join_group,
    lost_process_named,
    meeting_point,
)
from .output_folder import output_errors_named, reserve_for_training
from .process_arguments import (
    Place,
    check_device,
    place_of_torchrun,
    settle_process_arguments,
)
from .schedule import follow_reference_batch
from .setup import check_config, load_config, prepare_run
from .summary import begin_summary, facts_of_checkpoint, facts_of_training, write_summary
from .trainer import Trainer

__all__ = ["launch_run"]


def _needs_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, OneLineError) or is_lost_worker(error))


# Detectron2 logs the traceback of whatever ends a training; a user's mistake gets one line instead.
logging.getLogger("detectron2.engine.train_loop").addFilter(_needs_traceback)


def launch_run(args: argparse.Namespace) -> None:
    """Check what :func:`~.setup.argument_parser`'s arguments ask for, and start its processes.

    Under torchrun this process is one of them, and joins the others.

    Raises:
        InputError: for bad input, wherever it was found.
        NonFiniteLossError: the training was stopped as its loss is not finite.
        LostProcessError: a process of the run has ended before its time.
    """
    place = place_of_torchrun(os.environ)
    if place is None:
        _start_processes(args, settle_process_arguments(args, None, os.environ))
        return
    try:
        settle_process_arguments(args, place, os.environ)
        cfg = _load_config(args, place)
    except InputError:
        # All processes of a machine say the same: once is enough.
        if place.local_rank == 0:
            raise
        sys.exit(BAD_INPUT)
    with lost_process_named(_checkpoints(cfg, args)):
        if place.world_size > 1:
            join_group(place, cfg.MODEL.DEVICE, args.dist_timeout)
        checked = _check_together(cfg, args, place)
    _run_and_leave(*checked)


def _start_processes(args: argparse.Namespace, place: Place) -> None:
    """Let Detectron2 start the processes of this machine, and wait for them."""
    cfg = _load_config(args, place)
    changes = _check_config(cfg, args, place)
    others = set(multiprocessing.active_children())
    try:
        with meeting_point(args, cfg.MODEL.DEVICE) as address:
            launch(
                _run_as_child if place.world_size > 1 else _run_and_leave,
                place.local_size,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=address,
                args=(cfg, args, changes),
                timeout=timedelta(seconds=args.dist_timeout),
            )
    except (ProcessExitedException, ProcessRaisedException) as error:
        cause = explain_lost_process(error, args, place, _checkpoints(cfg, args))
        if cause is None:
            raise
        raise cause from error
    finally:
        # After Ctrl-C, which may have reached this process alone.
        for process in set(multiprocessing.active_children()) - others:
            if place.world_size > 1:
                process.terminate()


def _load_config(args: argparse.Namespace, place: Place) -> CfgNode:
    cfg = load_config(args.config_file, [*args.trust_checkpoint, *args.opts])
    if args.save:
        cfg.TEST.PANOPTIC.SAVE = True
    if args.num_procs is not None:
        if args.num_procs < 1:
            raise InputError(f"--num-procs {args.num_procs}: expected 1 or more")
        cfg.TEST.PANOPTIC.NUM_PROCS = args.num_procs
    check_device(cfg.MODEL.DEVICE, args, place)
    return cfg


def _checkpoints(cfg: CfgNode, args: argparse.Namespace) -> str | None:
    """Return where a training has its checkpoints; an evaluation has none to go on from."""
    return None if args.eval_only else cfg.OUTPUT_DIR


def _check_config(cfg: CfgNode, args: argparse.Namespace, place: Place) -> list[str]:
    scaled = [] if args.eval_only else follow_reference_batch(cfg, args.config_file, args.opts)
    train, processes = not args.eval_only, place.world_size
    return [*scaled, *check_config(cfg, train=train, processes=processes, resume=args.resume)]


def _check_together(
    cfg: CfgNode, args: argparse.Namespace, place: Place
) -> tuple[CfgNode, argparse.Namespace, list[str]]:
    """Check a config once on each machine, for all its processes."""
    found = None
    if place.local_rank == 0:
        try:
            found = (_check_config(cfg, args, place), cfg, None)
        except InputError as error:
            found = (None, None, str(error))
    of_all = comm.all_gather(found)
    mistakes = [message for *_, message in filter(None, of_all) if message is not None]
    if mistakes and place.rank > 0:
        sys.exit(BAD_INPUT)
    if mistakes:
        raise InputError(mistakes[0])
    changes, cfg, _ = of_all[place.rank - place.local_rank]
    return cfg, args, changes


def _run_as_child(cfg: CfgNode, args: argparse.Namespace, changes: Sequence[str]) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # In the background of a script interrupts are ignored, and torch's word that the launcher
        # is gone is one.
        torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGTERM)
    # A process that was forked has the launcher's handlers.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    with patient_streams():
        _run_and_leave(cfg, args, changes)


def _run_and_leave(cfg: CfgNode, args: argparse.Namespace, changes: Sequence[str]) -> None:
    with lost_process_named(_checkpoints(cfg, args)):
        run(cfg, args, changes)
        if comm.get_world_size() > 1:
            # Nobody leaves while another still talks to it; and the threads of a group that is
            # not destroyed may abort the process at its end.
            comm.synchronize()
            torch.distributed.destroy_process_group()


def run(cfg: CfgNode, args: argparse.Namespace, changes: Sequence[str]) -> dict:
    """Train or evaluate in this process, one of those that Detectron2's launcher starts.

    Args:
        cfg: checked.
        args: of the command line.
        changes: what the check changed, a line each.

    Returns:
        Detectron2's results, empty on other ranks than 0.
    """
    if args.eval_only or not comm.is_main_process():
        return _run(cfg, args, changes)
    with reserve_for_training(cfg.OUTPUT_DIR):
        return _run(cfg, args, changes)


def _run(cfg: CfgNode, args: argparse.Namespace, changes: Sequence[str]) -> dict:
    silence_known_warnings()
    cfg.freeze()
    with output_errors_named(cfg.OUTPUT_DIR):
        prepare_run(cfg, args, changes)
    published = begin_summary(cfg, args.config_file) if comm.is_main_process() else None
    if args.eval_only:
        if not cfg.MODEL.WEIGHTS and not args.resume:
            logging.getLogger("ocr_panoptic").warning(
                "MODEL.WEIGHTS is empty: random weights are evaluated"
            )
        model = Trainer.build_model(cfg)
        checkpointer = Checkpointer.of_config(cfg, model, cfg.OUTPUT_DIR, complete=True)
        last = checkpointer.get_checkpoint_file() if args.resume else ""
        rest = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        start = time.monotonic()
        results = Trainer.test(cfg, model)
        facts = facts_of_checkpoint(
            last or cfg.MODEL.WEIGHTS, rest, Trainer.evaluated_images, time.monotonic() - start
        )
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        start = time.monotonic()
        trainer.train()
        facts = facts_of_training(trainer, time.monotonic() - start)
        # Scaled, where SOLVER.REFERENCE_WORLD_SIZE asks for it.
        cfg = trainer.cfg
        results = getattr(trainer, "_last_eval_results", {})
    if comm.is_main_process():
        write_summary(cfg, args.config_file, published, results, facts)
        verify_results(cfg, results)
    return results
