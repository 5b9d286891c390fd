"""Panoptic evaluation whose ground truth is named when it is what is wrong."""

from __future__ import annotations

from pathlib import Path

from detectron2.evaluation import COCOPanopticEvaluator

from ocr_panoptic.data.panoptic_json import load_panoptic_json, read_panoptic_png

__all__ = ["PanopticEvaluator"]


class PanopticEvaluator(COCOPanopticEvaluator):
    """Detectron2's evaluator; panopticapi counts in other processes, and names no file."""

    def evaluate(self) -> dict | None:
        """Count as Detectron2 does.

        Raises:
            InputError: if a panoptic json or PNG of the ground truth is missing or broken; names
                it. Looked for only when the counting failed.
        """
        try:
            return super().evaluate()
        except (KeyError, OSError, TypeError, ValueError):
            truth = load_panoptic_json(self._metadata.panoptic_json)
            for annotation in truth["annotations"]:
                read_panoptic_png(Path(self._metadata.panoptic_root) / annotation["file_name"])
            raise
