"""The table of short trainings: what they say of themselves."""

import json

import pytest

from ocr_panoptic.benchmark.training_runs import format_runs, read_run
from ocr_panoptic.errors import InputError


def make_run(folder, times, metrics):
    rows = [
        {"iteration": 19 + 20 * row, "total_loss": 1.0, **({"time": time} if time else {})}
        for row, time in enumerate(times)
    ]
    evaluated = folder / "inference/shapes_val"
    evaluated.mkdir(parents=True)
    (evaluated / "metrics.json").write_text(json.dumps(metrics))
    rows.append({"iteration": 20 * len(times), "segm/AP": 1.0})
    (folder / "metrics.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_a_row_for_each_run(tmp_path):
    metrics = {"dtype": "float32", "PQ": 81.25, "mask_AP": 48.0, "box_AP": 51.0, "mIoU": 93.0}
    first = read_run(make_run(tmp_path / "with", [0.9, 0.25, 0.2], metrics))
    assert first == {
        **{"name": "with", "iterations": 60, "seconds_per_iteration": 0.25},
        **metrics,
    }
    second = read_run(make_run(tmp_path / "without", [None], {"dtype": "float32"}))
    assert second["seconds_per_iteration"] is None
    head, _, *rows = format_runs([first, second]).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)]
    assert [dict(zip(cells[0], row, strict=True)) for row in cells[1:]] == [
        {
            **{"run": "with", "iterations": "60", "a second": "4.00", "PQ": "81.2"},
            **{"PQ_th": "n/a", "PQ_st": "n/a", "box_AP": "51.0", "mask_AP": "48.0"},
            "mIoU": "93.0",
        },
        {
            **{"run": "without", "iterations": "20", "a second": "n/a", "PQ": "n/a"},
            **{"PQ_th": "n/a", "PQ_st": "n/a", "box_AP": "n/a", "mask_AP": "n/a"},
            "mIoU": "n/a",
        },
    ]


def test_a_run_that_was_killed_can_be_read(tmp_path):
    folder = make_run(tmp_path / "run", [0.9, 0.25], {"PQ": 1.0})
    log = folder / "metrics.json"
    first, second, *rest = log.read_text().splitlines()
    log.write_text("\n".join([first, second[:-9], second, *rest]) + "\n")
    run = read_run(folder)
    assert (run["iterations"], run["seconds_per_iteration"]) == (40, 0.575)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.json does not exist, expected the metrics"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="never holds no training that was evaluated"):
        read_run(make_run(tmp_path / "never", [], {}))
    folder = make_run(tmp_path / "run", [0.1], {})
    (folder / "inference/shapes_val/metrics.json").unlink()
    with pytest.raises(InputError, match="run holds no training that was evaluated, expected one"):
        read_run(folder)
