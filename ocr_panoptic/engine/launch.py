"""Train or evaluate a config, in one process or several."""

from __future__ import annotations

import argparse
import logging
import re
import warnings
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessRaisedException

from ocr_panoptic.errors import InputError, message_of_traceback

from .checkpoint import Checkpointer
from .setup import check_config, load_config, prepare_run
from .trainer import Trainer

__all__ = ["launch_run"]


def _is_no_input_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], InputError))


# Detectron2 logs the traceback of whatever ends a training; a user's mistake gets one line instead.
logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_input_error)


def launch_run(args: argparse.Namespace) -> None:
    """Check what :func:`~.setup.argument_parser`'s arguments ask for, and start its processes.

    Raises:
        InputError: for bad input, wherever it was found.
    """
    _check_arguments(args)
    processes = args.num_machines * max(1, args.num_gpus)
    cfg = load_config(args.config_file, [*args.trust_checkpoint, *args.opts])
    if args.save:
        cfg.TEST.PANOPTIC.SAVE = True
    if args.num_procs is not None:
        cfg.TEST.PANOPTIC.NUM_PROCS = args.num_procs
    changes = check_config(cfg, train=not args.eval_only, processes=processes)
    try:
        launch(
            _run_and_leave,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(cfg, args, changes),
        )
    except ProcessRaisedException as error:
        # A child's exception comes as the text of its traceback.
        message = message_of_traceback(str(error))
        if message is None:
            raise
        raise InputError(message) from error


def _check_arguments(args: argparse.Namespace) -> None:
    gpus = torch.cuda.device_count()
    if args.num_gpus < 0 or args.num_gpus > gpus > 0:
        raise InputError(f"--num-gpus {args.num_gpus}: this machine has {gpus}")
    if args.num_procs is not None and args.num_procs < 1:
        raise InputError(f"--num-procs {args.num_procs}: expected 1 or more")
    if args.num_machines < 1:
        raise InputError(f"--num-machines {args.num_machines}: expected 1 or more")
    if not 0 <= args.machine_rank < args.num_machines:
        raise InputError(
            f"--machine-rank {args.machine_rank}: expected 0 to {args.num_machines - 1}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise InputError(
            f"--dist-url auto with --num-machines {args.num_machines}, expected an address of "
            "machine 0 such as tcp://HOST:PORT"
        )
    if args.dist_url != "auto" and not re.match(r"(tcp://.+:\d+|file:///.+)$", args.dist_url):
        raise InputError(
            f"--dist-url {args.dist_url}: expected auto, tcp://HOST:PORT or file:///PATH"
        )


def _run_and_leave(cfg: CfgNode, args: argparse.Namespace, changes: Sequence[str]) -> None:
    run(cfg, args, changes)
    if comm.get_world_size() > 1:
        # Nobody leaves while another still talks to it; and the threads of a group that is not
        # destroyed may abort the process at its end.
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
    # Of Detectron2's anchors, once in every process.
    warnings.filterwarnings("ignore", "torch.meshgrid")
    cfg.freeze()
    prepare_run(cfg, args, changes)
    if args.eval_only:
        if not cfg.MODEL.WEIGHTS and not args.resume:
            logging.getLogger("ocr_panoptic").warning(
                "MODEL.WEIGHTS is empty: random weights are evaluated"
            )
        model = Trainer.build_model(cfg)
        checkpointer = Checkpointer.of_config(cfg, model, cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
        results = getattr(trainer, "_last_eval_results", {})
    if comm.is_main_process():
        verify_results(cfg, results)
    return results
