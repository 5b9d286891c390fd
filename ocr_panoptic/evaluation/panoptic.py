"""Evaluation of panoptic predictions as they come, and the files that are kept of them."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import time
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from panopticapi.evaluation import VOID, PQStat

from ocr_panoptic.data.panoptic_json import load_json, write_panoptic_png
from ocr_panoptic.data.register import NO_THINGS
from ocr_panoptic.errors import InputError
from ocr_panoptic.files import require_folder, write_text

from .panoptic_files import FILE_COUNTERS, count_files
from .panoptic_quality import (
    ClassQuality,
    ImageCounts,
    average,
    count_image,
    format_classes,
    format_quality,
    per_class,
    sum_counts,
)
from .panoptic_truth import GroundTruth
from .results import panoptic_annotation, result_categories

__all__ = ["COUNTERS", "PanopticEvaluator", "PanopticResults"]

_logger = logging.getLogger(__name__)

COUNTERS = ("in_process", *FILE_COUNTERS)
"""What may count panoptic quality: the processes that predict, as they go, or others from files."""


class PanopticResults(DatasetEvaluator):
    """Writes panoptic predictions in COCO's result format; asks for no ground truth.

    In the folder of the results: ``panoptic/*.png`` and ``panoptic.json``. Each process writes its
    PNGs as they come and keeps a few numbers of each segment. The folder has its name, and the
    json is there, only when all is written.

    The metadata has the ids of the classes (see :func:`~.results.panoptic_annotation`), and
    optionally ``image_root`` and ``json_file``, whose ``images`` are copied.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | Path | None = None, *, save: bool = True
    ) -> None:
        """Make an evaluator.

        Args:
            dataset_name: a registered data set.
            output_dir: folder of the results, one that all machines share; made if it is missing.
            save: whether PNGs and ``panoptic.json`` are kept.
        """
        self._metadata = MetadataCatalog.get(dataset_name)
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._save = save
        self._writes_pngs = save
        self._cleanup: weakref.finalize | None = None
        self._annotations: list[dict[str, Any]] = []

    def reset(self) -> None:
        """Forget what was seen, and remove the json files of the evaluation before.

        Raises:
            InputError: the folder of the results cannot be written to.
        """
        # An evaluation that fails must not leave the results of another.
        self._annotations = []
        if self._output_dir is None:
            if self._writes_pngs:
                raise ValueError("PNGs cannot be written without output_dir")
            return
        if comm.is_main_process():
            require_folder(self._output_dir, "folder of results")
            for name in self._file_names():
                (self._output_dir / name).unlink(missing_ok=True)
            if self._save:
                require_folder(self._output_dir / "panoptic", "folder of results")
            if self._writes_pngs:
                # Of a run that was killed.
                shutil.rmtree(self._partial, ignore_errors=True)
                if self._cleanup is not None:
                    self._cleanup.detach()
                self._cleanup = weakref.finalize(self, shutil.rmtree, self._partial, True)
        comm.synchronize()

    @property
    def _partial(self) -> Path:
        # A name that every process knows.
        return self._output_dir / "panoptic.partial"

    def _file_names(self) -> list[str]:
        return ["panoptic.json"] if self._save else []

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Take the predictions of some images.

        Args:
            inputs: with ``image_id`` and ``file_name``.
            outputs: each with ``panoptic_seg``: (H, W) ids and segments, as Detectron2's models
                return them; not changed.

        Raises:
            InputError: a PNG cannot be written, or a class is not the data set's.
        """
        for image, output in zip(inputs, outputs, strict=True):
            segment_ids, annotation = panoptic_annotation(
                *output["panoptic_seg"],
                self._metadata,
                image["image_id"],
                _png_name(image["file_name"], self._metadata.get("image_root")),
            )
            if self._metadata.get("thing_classes") == [NO_THINGS]:
                segment_ids, annotation = self._without_things(segment_ids, annotation)
            if self._writes_pngs:
                path = self._partial / annotation["file_name"]
                try:
                    write_panoptic_png(path, segment_ids)
                except OSError as error:
                    raise InputError(
                        f"{path}: {error.strerror or error}; expected a folder with room for a PNG"
                        " of each image"
                    ) from error
            self._annotations.append(annotation)
            self._take(segment_ids, annotation)

    def _without_things(
        self, segment_ids: np.ndarray, annotation: dict[str, Any]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Make void what a model takes for a thing where there is no such class."""
        things = self._metadata.thing_dataset_id_to_contiguous_id
        kept = [row for row in annotation["segments_info"] if row["category_id"] not in things]
        is_kept = np.isin(segment_ids, [row["id"] for row in kept])
        return np.where(is_kept, segment_ids, VOID), {**annotation, "segments_info": kept}

    def _take(self, segment_ids: np.ndarray, annotation: dict[str, Any]) -> None:
        """See one prediction."""

    def evaluate(self) -> dict | None:
        """Write the results.

        Returns:
            No metrics: an empty dict in the main process, None in the others.

        Raises:
            InputError: two images have one name, or the processes do not share the folder.
        """
        comm.synchronize()
        gathered = comm.gather(self._annotations)
        if not comm.is_main_process():
            return None
        annotations = [annotation for part in gathered for annotation in part]
        if self._save:
            images = []
            if self._metadata.get("json_file") is not None:
                path = PathManager.get_local_path(self._metadata.json_file)
                images = load_json(path, ("images",))["images"]
            header = {"images": images, "categories": result_categories(self._metadata)}
            self._keep_pngs(annotations)
            self._write_json("panoptic.json", {**header, "annotations": annotations})
            _logger.info(f"{len(annotations)} panoptic results are in {self._output_dir}")
        return {}

    def _check_pngs(self, annotations: Sequence[Mapping[str, Any]]) -> None:
        image_ids: dict[str, int] = {}
        for annotation in annotations:
            name = annotation["file_name"]
            other = image_ids.setdefault(name, annotation["image_id"])
            if other != annotation["image_id"]:
                raise InputError(
                    f"dataset {self._metadata.name}: images {other} and {annotation['image_id']}"
                    f" are both named {Path(name).stem}; expected different names, as PNGs have"
                )
            if not (self._partial / name).is_file():
                raise InputError(
                    f"{self._partial / name}: written, but not here; expected OUTPUT_DIR to be a"
                    " folder that all machines of a run share, and no other run"
                )

    def _keep_pngs(self, annotations: Sequence[Mapping[str, Any]]) -> None:
        self._check_pngs(annotations)
        self._partial.mkdir(exist_ok=True)  # without images nobody made it
        folder = self._output_dir / "panoptic"
        shutil.rmtree(folder, ignore_errors=True)
        self._partial.rename(folder)
        self._cleanup.detach()

    def _write_json(self, name: str, content: Any) -> None:
        write_text(self._output_dir / name, json.dumps(content))


class PanopticEvaluator(PanopticResults):
    """Panoptic quality: Detectron2's results and ``predictions.json``, with little memory.

    Each image is counted by the process that predicted it, as soon as it comes, and what is kept
    of it is a few numbers: nothing need be written, and no process is started. The figures are
    panopticapi's, to the last bit, and do not depend on the number of processes.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        save: bool = False,
        counter: str = "in_process",
        num_processes: int | None = None,
    ) -> None:
        """Make an evaluator.

        Args:
            dataset_name: a registered data set with ``panoptic_json`` and ``panoptic_root``.
            output_dir: folder of ``predictions.json``; None to write nothing.
            save: whether PNGs, ``panoptic.json`` and ``panoptic_per_class.{csv,json}`` are kept in
                ``output_dir`` too.
            counter: one of :data:`COUNTERS`. The others than "in_process" read PNGs, which are
                removed afterwards without ``save``.
            num_processes: of the counters that read files, as in
                :func:`~.panoptic_files.count_files`.

        Raises:
            InputError: the panoptic json is missing or broken; names the entry.
        """
        super().__init__(dataset_name, output_dir, save=save)
        if counter not in COUNTERS:
            raise ValueError(f"counter {counter}, expected one of {', '.join(COUNTERS)}")
        self._counter = counter
        self._num_processes = num_processes
        self._writes_pngs = save or counter != "in_process"
        self._counts: dict[int, ImageCounts] = {}
        self._truth = GroundTruth(
            PathManager.get_local_path(self._metadata.panoptic_json),
            PathManager.get_local_path(self._metadata.panoptic_root),
        )

    def _file_names(self) -> list[str]:
        saved = [*super()._file_names(), "panoptic_per_class.csv", "panoptic_per_class.json"]
        return ["predictions.json", *(saved if self._save else ())]

    def reset(self) -> None:
        """Forget what was seen, as :meth:`PanopticResults.reset`."""
        super().reset()
        self._counts = {}

    def _take(self, segment_ids: np.ndarray, annotation: dict[str, Any]) -> None:
        image_id = annotation["image_id"]
        if image_id not in self._truth.images:
            raise InputError(
                f"{self._truth.json_file}: no annotation of image id {image_id}; expected one for"
                f" each image of dataset {self._metadata.name}"
            )
        for segment in annotation["segments_info"]:
            if segment["category_id"] not in self._truth.categories:
                raise InputError(
                    f"{self._truth.json_file}: no category id {segment['category_id']}, which is"
                    f" predicted; expected all those of the metadata of {self._metadata.name}"
                )
        if self._counter == "in_process":
            self._counts[image_id] = count_image(
                self._truth.overlaps(image_id, segment_ids),
                self._truth.images[image_id].segments,
                annotation["segments_info"],
            )

    def evaluate(self) -> OrderedDict | None:
        """Count, log the tables of all, things, stuff and each class, and write the files.

        Returns:
            Detectron2's results in the main process, None in the others: ``panoptic_seg`` ->
            PQ, SQ, RQ, PQ_th, ..., RQ_st in percent, NaN where no class occurs.

        Raises:
            InputError: an image of the panoptic json was not predicted; or as
                :class:`PanopticResults` and :class:`~.panoptic_truth.GroundTruth` do.
        """
        comm.synchronize()
        gathered = comm.gather((self._annotations, self._counts))
        if not comm.is_main_process():
            return None
        annotations = [annotation for part, _ in gathered for annotation in part]
        by_image = {annotation["image_id"]: annotation for annotation in annotations}
        missing = [image_id for image_id in self._truth.images if image_id not in by_image]
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            raise InputError(
                f"{self._truth.json_file}: no prediction for image id {missing[0]}{more}; expected"
                f" each of its images in dataset {self._metadata.name}"
            )
        # Before counting: whatever the ground truth is like, predictions are worth keeping.
        if self._output_dir is not None:
            content = {**self._truth.header, "annotations": annotations}
            self._write_json("predictions.json", content)
            if self._save:
                self._keep_pngs(annotations)
                self._write_json("panoptic.json", content)
        if self._counter == "in_process":
            counts = {image_id: row for _, part in gathered for image_id, row in part.items()}
            total = sum_counts(counts[image_id] for image_id in self._truth.images)
        else:
            total = self._count_files(by_image)

        averages = average(total, self._truth.categories)
        classes = per_class(total, self._truth.categories)
        _logger.info(f"Panoptic quality of each class:\n{format_classes(classes)}")
        _logger.info(f"Panoptic evaluation results:\n{format_quality(averages)}")
        if self._save:
            rows = [row._asdict() for row in classes]
            self._write_json("panoptic_per_class.json", rows)
            write_text(self._output_dir / "panoptic_per_class.csv", _to_csv(classes))
        return OrderedDict(
            panoptic_seg={
                f"{metric}{suffix}": 100 * averages[part][metric.lower()]
                for part, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st"))
                for metric in ("PQ", "SQ", "RQ")
            }
        )

    def _count_files(self, annotations: Mapping[int, Mapping[str, Any]]) -> PQStat:
        if self._save:
            folder = self._output_dir / "panoptic"
        else:
            self._check_pngs(list(annotations.values()))
            folder = self._partial
        start = time.perf_counter()
        total = count_files(self._counter, self._truth, annotations, folder, self._num_processes)
        seconds = time.perf_counter() - start
        _logger.info(
            f"{self._counter} counted {len(annotations)} images from files in {seconds:.1f} s,"
            " the check of the ground truth included"
        )
        if not self._save:
            self._cleanup()
        return total


def _png_name(file_name: str, image_root: str | None) -> str:
    """Return a PNG's name: the image's within the folder of images, its last part elsewhere."""
    path = PurePath(file_name)
    name = PurePath(path.name)
    if image_root is not None and path.is_relative_to(image_root):
        name = path.relative_to(image_root)
        if ".." in name.parts:
            name = PurePath(path.name)
    return name.with_suffix(".png").as_posix()


def _to_csv(rows: Sequence[ClassQuality]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ClassQuality._fields)
    writer.writerows(rows)
    return text.getvalue()
