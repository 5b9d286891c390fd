"""Detectron2's DefaultTrainer with this project's data, evaluators and checkpoints."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, SimpleTrainer, create_ddp_model
from detectron2.engine.train_loop import AMPTrainer, TrainerBase
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from torch import nn

from ocr_panoptic.data.mapper import PanopticDatasetMapper
from ocr_panoptic.evaluation.build import build_evaluators
from ocr_panoptic.evaluation.metrics import format_metrics, summarise, write_metrics

from .checkpoint import Checkpointer

__all__ = ["Trainer", "results_folder"]

_logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains and evaluates any config of this project or of Detectron2."""

    def __init__(self, cfg: CfgNode) -> None:
        """Build model, optimizer, data loader and hooks as DefaultTrainer does.

        Not DefaultTrainer's own constructor: that hands DistributedDataParallel a device id on the
        CPU too, which it refuses.
        """
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)

        on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
        model = create_ddp_model(
            model, broadcast_buffers=False, **({"device_ids": None} if on_cpu else {})
        )
        step = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = step(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """Return Detectron2's train loader over :class:`PanopticDatasetMapper`."""
        return build_detection_train_loader(cfg, mapper=PanopticDatasetMapper(cfg, True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Return Detectron2's test loader over :class:`PanopticDatasetMapper`."""
        mapper = PanopticDatasetMapper(cfg, False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        """Return the evaluators of the data set's type; they write to its own folder."""
        return build_evaluators(cfg, dataset_name, results_folder(cfg, dataset_name))

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None) -> OrderedDict:
        """Evaluate on every data set of DATASETS.TEST; log and write the headline metrics.

        They are written to ``metrics.json`` in :func:`results_folder`.

        Returns:
            Detectron2's results: task -> metric -> percent, by data set if there are several.
        """
        if comm.is_main_process():
            for name in cfg.DATASETS.TEST:
                # An evaluation that fails must not leave the numbers of the one before.
                (results_folder(cfg, name) / "metrics.json").unlink(missing_ok=True)
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
            names = cfg.DATASETS.TEST
            for name in names:
                summary = summarise(results if len(names) == 1 else results[name], dtype)
                write_metrics(results_folder(cfg, name) / "metrics.json", summary)
                _logger.info(f"{name}\n{format_metrics(summary)}")
        return results


def results_folder(cfg: CfgNode, dataset_name: str) -> Path:
    """Return where a run's results on a data set are written."""
    return Path(cfg.OUTPUT_DIR) / "inference" / dataset_name
