"""One progress bar for a training, where Detectron2's log lines would be too much."""

from __future__ import annotations

import logging

from detectron2.engine import HookBase
from tqdm import tqdm

__all__ = ["ProgressBar", "quiet_console"]


class ProgressBar(HookBase):
    """Shows iterations, time left and the smoothed total loss on one line of stderr."""

    def before_train(self) -> None:
        """Open the bar at the iteration that training starts from."""
        self._bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            unit="it",
            mininterval=1.0,
            dynamic_ncols=True,
        )

    def after_step(self) -> None:
        """Move on by one iteration."""
        losses = self.trainer.storage.histories().get("total_loss")
        if losses is not None:
            self._bar.set_postfix(loss=f"{losses.median(20):.2f}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Close the bar, after an exception too."""
        self._bar.close()


def quiet_console() -> None:
    """Let only warnings of Detectron2's loggers reach the terminal; its log file keeps all."""
    for name in ("detectron2", "fvcore", "ocr_panoptic"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(
                handler, logging.FileHandler
            ):
                handler.setLevel(logging.WARNING)
    # It warns of every data set whose category ids have gaps, COCO's own included.
    logging.getLogger("detectron2.data.datasets.coco").setLevel(logging.ERROR)
