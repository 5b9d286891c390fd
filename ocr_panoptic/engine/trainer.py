"""Detectron2's DefaultTrainer with this project's data, evaluators and checkpoints."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, create_ddp_model
from detectron2.engine.hooks import (
    EvalHook,
    IterationTimer,
    PeriodicCheckpointer,
    PeriodicWriter,
    PreciseBN,
)
from detectron2.engine.train_loop import HookBase, TrainerBase
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ocr_panoptic.data.loader import ResumableLoader, build_train_loader
from ocr_panoptic.data.mapper import PanopticDatasetMapper
from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.build import build_evaluators
from ocr_panoptic.evaluation.metrics import format_metrics, summarise, write_metrics
from ocr_panoptic.random_state import draw_seed, preserved_random_state

from .build import built_from_config
from .checkpoint import Checkpointer
from .distributed import share_buffers
from .inference import prepare_for_inference
from .memory import enough_memory
from .nonfinite import FiniteAMPTrainer, FiniteTrainer, FiniteWeights, nonfinite_options
from .output_folder import RunWriter, end_last_line, output_errors_named
from .precision import amp_options
from .progress import ImagesPerSecond, ProgressBar, on_terminal
from .resume import (
    RandomStates,
    ResumablePreciseBN,
    circumstances,
    optimizer_settings,
    require_state,
    unused_settings,
    what_differs,
)
from .schedule import check_resumed_batch
from .writers import ProgressPrinter, WandbWriter

__all__ = ["Trainer", "results_folder"]

_logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains and evaluates any config of this project or of Detectron2."""

    evaluated_images: ClassVar[dict[str, int]] = {}
    """Data set -> its images, of the test loaders that were built."""

    def __init__(self, cfg: CfgNode) -> None:
        """Build model, optimizer, data loader and hooks as DefaultTrainer does.

        Not DefaultTrainer's own constructor: that hands DistributedDataParallel a device id on the
        CPU too, which it refuses. A negative SEED is drawn here.
        """
        TrainerBase.__init__(self)
        cfg = _with_seed(self.auto_scale_workers(cfg, comm.get_world_size()))
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)

        on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
        model = create_ddp_model(
            model, broadcast_buffers=False, **({"device_ids": None} if on_cpu else {})
        )
        step = FiniteAMPTrainer if cfg.SOLVER.AMP.ENABLED else FiniteTrainer
        options = {**amp_options(cfg), **nonfinite_options(cfg)}
        self._trainer = step(model, data_loader, optimizer, **options)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer.of_config(
            cfg, model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        # Of the checkpoint that was resumed from.
        self._resumed: dict[str, Mapping | None] = {}
        self._wandb: WandbWriter | None = None
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Return Detectron2's model; what no model can be built of is one line.

        Raises:
            InputError: Detectron2 or torch refuse values of ``cfg``.
        """
        with built_from_config():
            return super().build_model(cfg)

    def build_hooks(self) -> list[HookBase]:
        """Return Detectron2's hooks, and those that let a resumed run be as one never stopped."""
        hooks = [hook for hook in super().build_hooks() if hook is not None]
        for place, hook in enumerate(hooks):
            if isinstance(hook, PreciseBN):
                test = self.cfg.TEST
                hooks[place] = ResumablePreciseBN(
                    test.EVAL_PERIOD, self.model, hook._data_loader, test.PRECISE_BN.NUM_ITER
                )
            elif isinstance(hook, PeriodicWriter):
                hooks[place] = RunWriter(hook._writers, hook._period, self.cfg.OUTPUT_DIR)
        saving = [isinstance(hook, PeriodicCheckpointer | EvalHook) for hook in hooks]
        period, place = self.cfg.SOLVER.CHECKPOINT_PERIOD, saving.index(True)
        hooks[place:place] = [FiniteWeights(period), RandomStates(period)]
        timer = [isinstance(hook, IterationTimer) for hook in hooks].index(True)
        progress = [ImagesPerSecond(self.cfg.SOLVER.IMS_PER_BATCH)]
        if comm.is_main_process() and on_terminal():
            progress.append(ProgressBar(self.cfg.MODEL.DEVICE))
        hooks[timer + 1 : timer + 1] = progress
        return hooks

    def build_writers(self) -> list[EventWriter]:
        """Return Detectron2's writers, with a readable line, and W&B's where it is asked for."""
        with output_errors_named(self.cfg.OUTPUT_DIR):
            # Of a run that was killed while it wrote.
            end_last_line(Path(self.cfg.OUTPUT_DIR) / "metrics.json")
            of_detectron2 = super().build_writers()
        writers = [
            ProgressPrinter(self.max_iter, self.cfg.MODEL.DEVICE)
            if isinstance(writer, CommonMetricPrinter)
            else writer
            for writer in of_detectron2
        ]
        if self.cfg.WANDB.ENABLED:
            self._wandb = WandbWriter(self.cfg)
            writers.append(self._wandb)
        return writers

    def state_dict(self) -> dict:
        """Return what a checkpoint holds of the trainer."""
        state = {**super().state_dict(), "circumstances": self._circumstances()}
        if isinstance(self.data_loader, ResumableLoader):
            state["data_loader"] = self.data_loader.state_dict()
        return state

    def _circumstances(self) -> dict:
        return circumstances(self.cfg, getattr(self.data_loader, "num_images", None))

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Take what :meth:`state_dict` returned, or Detectron2's trainer."""
        require_state(state_dict, self._trainer.optimizer, self.scheduler)
        super().load_state_dict(state_dict)
        self._resumed = {key: state_dict.get(key) for key in ("circumstances", "data_loader")}
        if "data_loader" in state_dict and isinstance(self.data_loader, ResumableLoader):
            self.data_loader.load_state_dict(state_dict["data_loader"])

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint, or load MODEL.WEIGHTS; says what happened.

        Raises:
            InputError: for a checkpoint that cannot be used, or that not all processes see.
        """
        self._resumed = {}
        configured = self._optimizer_settings()
        super().resume_or_load(resume)
        for line in unused_settings(self.cfg, configured, self._optimizer_settings()):
            _logger.warning(line)
        starts = sorted(set(comm.all_gather(self.start_iter)))
        if len(starts) > 1:
            raise InputError(
                f"--resume: {self.cfg.OUTPUT_DIR}: the processes find checkpoints of different "
                f"iterations, {starts[0]} and {starts[-1]}, expected a folder that all machines "
                "share"
            )
        if self._resumed:
            self._go_on()

    def _optimizer_settings(self) -> dict[str, list]:
        # Another scheduler than Detectron2's may have no base rates.
        return optimizer_settings(self._trainer.optimizer, getattr(self.scheduler, "base_lrs", ()))

    def _go_on(self) -> None:
        """Let random numbers and data go on, as far as the checkpoint says where they were."""
        before = self._resumed["circumstances"]
        if isinstance(before, Mapping):
            check_resumed_batch(self.cfg, before.get("images per batch"))
        differences = what_differs(before, self._circumstances())
        seed = self.cfg.SEED
        if not isinstance(self.data_loader, ResumableLoader):
            differences.append("the train loader starts anew")
        elif self._resumed["data_loader"] is not None:
            seed = self.data_loader.seed
            if seed != self.cfg.SEED:
                _logger.info(f"SEED: going on with {seed}, the checkpoint's")
        else:
            samples = self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH
            self.data_loader.load_state_dict({"seed": seed, "samples": samples})
        states = next(hook for hook in self._hooks if isinstance(hook, RandomStates))
        if not states.resume(seed, self.start_iter - 1) and not differences:
            differences.append("it has no random state of its iteration")
        if differences:
            _logger.warning(
                f"not bit for bit as a run that was never stopped ({'; '.join(differences)})"
            )

    def train(self):
        """Train as Detectron2 does; returns its results."""
        if self.start_iter >= self.max_iter:
            _logger.info(
                f"nothing is left to train: {self.start_iter} iterations are done, and "
                f"SOLVER.MAX_ITER is {self.max_iter}"
            )
        last = Path(self.checkpointer.get_checkpoint_file()).name
        if self.start_iter >= self.max_iter and last != "model_final.pth":
            # Killed between the checkpoint of the last iteration and this one.
            self.checkpointer.save("model_final", iteration=self.start_iter - 1)
        with output_errors_named(self.cfg.OUTPUT_DIR):
            if self._wandb is not None:
                self._wandb.start(resumed=self.start_iter > 0)
            return super().train()

    def run_step(self) -> None:
        """Run a step as Detectron2 does; too little memory is an InputError."""
        with enough_memory(self.cfg):
            super().run_step()

    def after_train(self) -> None:
        """Close the hooks; a run that failed in its last iteration is not evaluated either."""
        if self.iter < self.max_iter:
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, EvalHook)]
        super().after_train()

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> ResumableLoader:
        """Return a train loader over :class:`PanopticDatasetMapper`, which can be resumed."""
        return build_train_loader(cfg, PanopticDatasetMapper(cfg, True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Return Detectron2's test loader over :class:`PanopticDatasetMapper`."""
        mapper = PanopticDatasetMapper(cfg, False)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        cls.evaluated_images[dataset_name] = len(loader.dataset)
        return loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        """Return the evaluators of the data set's type; they write to its own folder."""
        return build_evaluators(cfg, dataset_name, results_folder(cfg, dataset_name))

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None) -> OrderedDict:
        """Evaluate on every data set of DATASETS.TEST; log and write the headline metrics.

        They are written to ``metrics.json`` in :func:`results_folder`. In float32 the model is
        evaluated as it is; with TEST.DTYPE bfloat16, as
        :func:`~.inference.prepare_for_inference` prepares a copy.

        Random numbers are afterwards what they were before. All processes evaluate the model that
        the main one saves.

        Returns:
            Detectron2's results: task -> metric -> percent, by data set if there are several.

        Raises:
            InputError: they cannot be written.
        """
        with output_errors_named(cfg.OUTPUT_DIR):
            return cls._test(cfg, model, evaluators)

    @classmethod
    def _test(cls, cfg: CfgNode, model: nn.Module, evaluators) -> OrderedDict:
        if comm.is_main_process():
            for name in cfg.DATASETS.TEST:
                # An evaluation that fails must not leave the numbers of the one before.
                (results_folder(cfg, name) / "metrics.json").unlink(missing_ok=True)
        share_buffers(model)
        if cfg.TEST.DTYPE == "bfloat16":
            if isinstance(model, DistributedDataParallel):
                model = model.module
            model = prepare_for_inference(model, dtype="bfloat16", keep_logits=True)
        # Test loaders draw a number, whatever they are asked for.
        with preserved_random_state():
            results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            names = cfg.DATASETS.TEST
            for name in names:
                summary = summarise(results if len(names) == 1 else results[name], cfg.TEST.DTYPE)
                write_metrics(results_folder(cfg, name) / "metrics.json", summary)
                _logger.info(f"{name}\n{format_metrics(summary)}")
        return results


def _with_seed(cfg: CfgNode) -> CfgNode:
    """Return a config whose SEED is not negative: a drawn one then, which seeds everything."""
    if cfg.SEED >= 0:
        return cfg
    seed = draw_seed()
    _logger.info(f"SEED: {cfg.SEED}, drawn: {seed}")
    seed_all_rng(seed + comm.get_rank())
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = seed
    cfg.freeze()
    return cfg


def results_folder(cfg: CfgNode, dataset_name: str) -> Path:
    """Return where a run's results on a data set are written."""
    return Path(cfg.OUTPUT_DIR) / "inference" / dataset_name
