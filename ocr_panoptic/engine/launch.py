"""Train or evaluate a config, in one process or several."""

from __future__ import annotations

import argparse
import logging

import torch
from detectron2.engine import launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessRaisedException

from ocr_panoptic.errors import InputError

from .checkpoint import Checkpointer
from .setup import load_config, prepare_run
from .trainer import Trainer

__all__ = ["launch_run"]


def _is_no_input_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], InputError))


# Detectron2 logs the traceback of whatever ends a training; a user's mistake gets one line instead.
logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_input_error)


def launch_run(args: argparse.Namespace) -> None:
    """Start the processes that :func:`~.setup.argument_parser`'s arguments ask for.

    Raises:
        InputError: for bad input, wherever it was found.
    """
    if args.num_machines > 1 and args.dist_url == "auto":
        raise InputError(
            f"--dist-url auto with --num-machines {args.num_machines}, expected an address of "
            "machine 0 such as tcp://HOST:PORT"
        )
    gpus = torch.cuda.device_count()
    if args.num_gpus > gpus > 0:
        raise InputError(f"--num-gpus {args.num_gpus}: this machine has {gpus}")
    try:
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessRaisedException as error:
        # A child's exception comes as the text of its traceback.
        if f"{InputError.__module__}.{InputError.__qualname__}: " in str(error):
            raise InputError(str(error)) from error
        raise


def run(args: argparse.Namespace) -> dict:
    """Train or evaluate in this process; Detectron2's launcher calls it in each.

    Returns:
        Detectron2's results, empty on other ranks than 0.
    """
    cfg = load_config(args.config_file, args.opts)
    prepare_run(cfg, args, train=not args.eval_only)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        Checkpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
        results = getattr(trainer, "_last_eval_results", {})
    if comm.is_main_process():
        verify_results(cfg, results)
    return results
