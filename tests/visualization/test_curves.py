import json
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from ocr_panoptic.errors import InputError
from ocr_panoptic.visualization.curves import _smooth, draw_loss_curves, read_metrics


def record(iteration, **values):
    return {"iteration": iteration, **values}


def history(iterations=50):
    return [
        record(
            20 * i + 19,
            total_loss=3.0 / (i + 1) + 0.5,
            loss_sem_seg=1.5 / (i + 1) + 0.2,
            loss_mask=0.7,
            loss_extra=0.01,
            lr=0.01,
        )
        for i in range(iterations)
    ]


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_read_metrics(tmp_path):
    records = [record(19, total_loss=2.0), record(39, total_loss=1.0), record(39, PQ=50.0)]
    path = write(tmp_path / "metrics.json", map(json.dumps, records))
    assert read_metrics(path) == [
        record(19, total_loss=2.0),
        record(39, total_loss=1.0, PQ=50.0),
    ]


def test_a_resumed_run_is_one_history(tmp_path):
    before = [record(i, total_loss=float(i), run=1) for i in (19, 39, 59, 79, 95)]
    after = [record(i, total_loss=float(i), run=2) for i in (49, 59, 79, 99)]
    path = write(tmp_path / "metrics.json", map(json.dumps, before + after))
    read = read_metrics(path)
    assert [r["iteration"] for r in read] == [19, 39, 49, 59, 79, 99]
    assert [r["run"] for r in read] == [1, 1, 2, 2, 2, 2]


def test_torn_lines_and_lines_without_iteration_are_left_out(tmp_path, caplog):
    lines = [
        '{"iteration": 19, "total_loss": 1.0}',
        '{"iteration": 39, "to',
        "",
        "[1]",
        '{"PQ": 5}',
    ]
    assert read_metrics(write(tmp_path / "metrics.json", lines)) == [record(19, total_loss=1.0)]
    assert [message.split(":")[0].split(", ")[1] for message in caplog.messages] == [
        "line 2",
        "line 4",
    ]


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_metrics(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"empty\.json: holds no metrics"):
        read_metrics(write(tmp_path / "empty.json", []))


def test_smoothing_keeps_constants_and_length():
    np.testing.assert_allclose(_smooth(np.full(40, 3.0)), 3.0)
    for length in range(1, 70):
        assert len(_smooth(np.ones(length))) == length
    noise = np.random.default_rng(0).normal(size=300)
    assert _smooth(noise).std() < 0.5 * noise.std()


def test_svg_is_inline_and_names_every_loss():
    svg = draw_loss_curves(history())
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.tag == "svg"
    assert "width" not in root.attrib
    assert "http" not in svg
    assert "<style" not in svg
    assert "<!" not in svg
    assert "#010203" not in svg
    texts = [element.text for element in root.iter("text")]
    for text in ("Total loss", "mask 0.7", "loss_extra 0.01", "iteration"):
        assert text in texts
    assert any(text.startswith("semantic 0.23") for text in texts)
    assert not any("lr" in text for text in texts)
    assert len(svg) < 60_000


def test_svg_is_deterministic_whatever_the_global_style():
    first = draw_loss_curves(history())
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "svg.hashsalt": None}):
        second = draw_loss_curves(history())
    assert first == second


def test_chosen_losses():
    svg = draw_loss_curves(history(), ["loss_mask", "loss_not_there"])
    assert "semantic" not in svg
    assert "loss_not_there" not in svg


@pytest.mark.parametrize(
    "records",
    [
        history(1),
        history(2),
        [record(0, total_loss=0.0), record(20, total_loss=-1.0)],
        [record(0, loss_mask=1.0, loss_cls=float("nan")), record(20, loss_mask=float("inf"))],
        [record(20 * i, **{f"loss_{k}": 1.0 for k in range(14)}) for i in range(30)],
    ],
)
def test_unusual_histories_are_drawn(records):
    svg = draw_loss_curves(records)
    assert not re.search(r"\bnan\b|\binf\b", svg)
    ElementTree.fromstring(svg.replace("xlink:href", "href"))


def test_nothing_to_draw():
    assert draw_loss_curves([]) is None
    assert draw_loss_curves([record(3, lr=0.1, total_loss=float("nan"))]) is None
