"""One self-contained HTML page about a run: what it was, its numbers, its pictures."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from ocr_panoptic.files import write_text

__all__ = ["Example", "MetricTable", "Report", "write_report"]

Cell = str | int | float | None


@dataclass(frozen=True)
class MetricTable:
    """A table of numbers.

    Attributes:
        title: Its heading.
        columns: Headings of the columns; the first is that of the row names.
        rows: One sequence of cells for each row, as long as ``columns``. A float is printed with
            ``digits`` digits; None and NaN are printed as a dash, "not applicable".
        note: A remark below the table, such as the unit.
        digits: Digits after the decimal point.
        bar_column: Heading of a column in percent that also gets a bar behind its numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    digits: int = 1
    bar_column: str | None = None

    def __post_init__(self) -> None:
        """Check that the cells fill the columns.

        Raises:
            ValueError: For a row that is not as long as the columns, or an unknown bar column.
        """
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"{self.title}: a row has {len(row)} cells, expected {len(self.columns)}"
                )
        if self.bar_column is not None and self.bar_column not in self.columns:
            raise ValueError(f"{self.title}: no column {self.bar_column!r} in {self.columns}")


@dataclass(frozen=True)
class Example:
    """One image of the report. All pictures are (H, W, 3) uint8, RGB, of any size.

    Attributes:
        name: The image's name, such as its file name.
        image: The input.
        ground_truth: The picture of its annotation, None without one.
        prediction: The picture of its prediction.
        regions: Pairs of class name and picture of that class's soft object region.
        caption: A sentence about the example.
        quality: PQ of this image alone, in percent.
        legend: Pairs of class name and RGB colour (0 to 255), as ``panoptic.legend`` lists them.
    """

    name: str
    image: np.ndarray
    ground_truth: np.ndarray | None
    prediction: np.ndarray
    regions: Sequence[tuple[str, np.ndarray]] = ()
    caption: str = ""
    quality: float | None = None
    legend: Sequence[tuple[str, tuple[int, int, int]]] = ()

    def __post_init__(self) -> None:
        """Check the pictures.

        Raises:
            ValueError: For a picture that is not (H, W, 3) uint8.
        """
        pictures = [self.image, self.prediction, *(picture for _, picture in self.regions)]
        if self.ground_truth is not None:
            pictures.append(self.ground_truth)
        for picture in pictures:
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise ValueError(
                    f"{self.name}: pictures must be (H, W, 3) uint8, "
                    f"not {picture.shape} {picture.dtype}"
                )


@dataclass(frozen=True)
class Report:
    """What :func:`write_report` puts on the page; empty parts are left out.

    Attributes:
        title: The page's title.
        subtitle: A sentence below it.
        command: The command line that made the run.
        facts: Pairs of label and value: config, iterations, device, dtype, duration, seed, ...
        metrics: Tables whose first row is the overall result, which is highlighted.
        per_class: Tables with one row for each class.
        losses_svg: The loss curves as inline SVG, put on the page as it is: only from
            ``curves.draw_loss_curves``.
        examples: Images with their pictures.
    """

    title: str
    subtitle: str = ""
    command: str = ""
    facts: Sequence[tuple[str, str]] = ()
    metrics: Sequence[MetricTable] = ()
    per_class: Sequence[MetricTable] = ()
    losses_svg: str | None = None
    examples: Sequence[Example] = ()


def write_report(path: str | os.PathLike[str], report: Report) -> Path:
    """Write a report as one HTML file that needs no other file and no network.

    The file appears under its name only once it is complete: an interrupted write leaves an
    older report as it was, or none.

    Args:
        path: Where to write, usually ``report.html``; missing folders are made.
        report: The content. Every text in it is escaped.

    Returns:
        The path.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    environment = Environment(
        loader=PackageLoader("ocr_panoptic.visualization"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["cell"] = _format_cell
    environment.filters["bar"] = _bar_width
    losses = Markup(report.losses_svg) if report.losses_svg else None
    html = environment.get_template("report.html").render(report=report, losses_svg=losses)
    write_text(path, html)
    return path


def _data_uri(picture: np.ndarray) -> str:
    """Encode an (H, W, 3) uint8 picture as PNG or as JPEG, whichever is smaller."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    encoded = {}
    for kind, options in (
        ("png", {"compress_level": 6}),
        # Without chroma subsampling, which smears coloured outlines and labels.
        ("jpeg", {"quality": 90, "subsampling": 0, "optimize": True}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **options)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda name: len(encoded[name]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode('ascii')}"


def _format_cell(value: Cell, digits: int = 1) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float | np.floating):
        return "\N{EN DASH}" if math.isnan(value) else f"{value:.{digits}f}"
    return str(value)


def _bar_width(value: Cell) -> float:
    """Return the width of a cell's bar in percent of the cell."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return 0.0
    return round(min(max(float(value), 0.0), 100.0), 1)
