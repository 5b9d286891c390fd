"""The table at the end of a run: measured here beside published, and what differs."""

import json
import logging
import re

import pytest
import torch

from ocr_panoptic.engine.published import find_published
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.engine.summary import (
    RunFacts,
    begin_summary,
    facts_of_checkpoint,
    write_summary,
)
from ocr_panoptic.errors import BAD_INPUT, InputError

from ..conftest import load_tool
from ..models import CONFIGS
from .runs import VAL, arguments

COCO = "COCO-PanopticSegmentation/panoptic_fpn_ocr_R_50_3x"
COCO_VAL = "coco_2017_val_panoptic_separated"
RESULTS = {
    "panoptic_seg": {"PQ": 42.16, "SQ": 77.0, "RQ": 51.5, "PQ_th": 48.0, "PQ_st": 33.25},
    "bbox": {"AP": 40.21},
    "segm": {"AP": 36.9},
    "sem_seg": {"mIoU": 44.04},
}
TRAINED = RunFacts(
    trained=True,
    weights="R-50.pkl",
    iterations=270000,
    resumed_at=0,
    seed=7,
    training_images=118287,
    evaluated_images={COCO_VAL: 5000, "other": 3},
    seconds=93787.5,
)


@pytest.fixture
def summarised(tmp_path):
    """A function: the text and the json of a run of the COCO config, with overrides."""

    def write(*overrides, results=RESULTS, facts=TRAINED, config=COCO):
        path = str(CONFIGS / f"{config}.yaml")
        words = ["OUTPUT_DIR", tmp_path, "MODEL.DEVICE", "cpu", *overrides]
        cfg = load_config(path, [str(word) for word in words])
        write_summary(cfg, path, find_published(path), results, facts)
        text = (tmp_path / "summary.md").read_text()
        return text, json.loads((tmp_path / "summary.json").read_text())

    return write


def rows(text):
    """Return the table's cells: name -> the others."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines}


def test_measured_and_published_stand_beside_each_other(summarised):
    text, summary = summarised()
    assert rows(text) | {"": [], "-" * 11: []} == {
        **{"": [], "-" * 11: [], "PQ": ["42.2", "42.7"], "SQ": ["77.0", "-"], "RQ": ["51.5", "-"]},
        **{"PQ things": ["48.0", "48.6"], "PQ stuff": ["33.2", "33.9"]},
        **{"box AP": ["40.2", "40.4"], "mask AP": ["36.9", "-"], "mIoU": ["44.0", "44.3"]},
    }
    assert rows(text)[""] == ["measured here", "published"]
    assert "not comparable" not in text
    assert re.search(r"^- published: Segmentation Transformer: .+, Table 6$", text, re.MULTILINE)
    facts = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("- "))
    assert facts["iterations"] == "270000"
    assert facts["start"] == "R-50.pkl"
    assert facts["trained on"] == "118287 images, 16 per iteration"
    assert facts["evaluated on"] == f"5000 images, {COCO_VAL}"
    assert (facts["seed"], facts["dtype"]) == ("7", "float32")
    assert facts["hardware"] == f"CPU, {torch.get_num_threads()} threads"
    assert facts["time"] == "26:03:07, training with evaluation"
    row = summary["datasets"][COCO_VAL]
    assert row["measured"]["PQ"] == 42.16
    assert row["published"]["metrics"]["PQ"] == 42.7
    assert row["published"]["comparable"]
    assert (summary["seed"], summary["processes"], summary["iterations"]) == (7, 1, 270000)


def test_a_published_number_never_stands_among_ours(summarised):
    text, summary = summarised(results={"panoptic_seg": {"PQ": 1.0}})
    assert rows(text)["PQ"] == ["1.0", "42.7"]
    assert rows(text)["mIoU"] == ["-", "44.3"]
    assert summary["datasets"][COCO_VAL]["measured"] == {"dtype": "float32", "PQ": 1.0}


@pytest.mark.parametrize(
    ("overrides", "facts", "told"),
    [
        (
            ["SOLVER.MAX_ITER", 100, "SOLVER.STEPS", (60, 80)],
            {"iterations": 100},
            "SOLVER.MAX_ITER 100 (published 270000); SOLVER.STEPS (60, 80) (published (210000, "
            "250000))",
        ),
        ([], {"training_images": 64}, "64 images trained on (published 118287)"),
        (
            [],
            {"evaluated_images": {COCO_VAL: 53}},
            "53 images evaluated (published 5000)",
        ),
    ],
)
def test_what_was_done_otherwise_is_not_comparable(summarised, overrides, facts, told):
    text, summary = summarised(*overrides, facts=RunFacts(**{**vars(TRAINED), **facts}))
    assert rows(text)[""] == ["measured here", "published (not comparable)"]
    assert f"- not comparable with what is published for {COCO}: {told}\n" in text
    published = summary["datasets"][COCO_VAL]["published"]
    assert not published["comparable"]
    assert "; ".join(published["differences"]) == told


def test_many_differences_are_counted(summarised):
    keys = ["FPN.OUT_CHANNELS", "RPN.POST_NMS_TOPK_TEST", "ROI_HEADS.NUM_CLASSES", "RESNETS.DEPTH"]
    keys += ["SEM_SEG_HEAD.OCR.CHANNELS", "SEM_SEG_HEAD.OCR.KEY_CHANNELS", "ROI_BOX_HEAD.NUM_FC"]
    text, summary = summarised(*(word for key in keys for word in (f"MODEL.{key}", 3)))
    found = summary["datasets"][COCO_VAL]["published"]["differences"]
    assert [difference.split()[0] for difference in found] == sorted(f"MODEL.{k}" for k in keys)
    assert text.count(" (published ") == 6
    assert "; and 1 more\n" in text


def test_numbers_of_another_data_set_are_not_shown(summarised):
    text, _ = summarised("DATASETS.TEST", ("other",))
    assert rows(text)[""] == ["measured here"]
    assert "42.7" not in text
    assert f"{COCO}: DATASETS.TEST other (published {COCO_VAL})" in text
    assert "- evaluated on: 3 images, other\n" in text


def test_each_data_set_has_its_table(summarised):
    results = {COCO_VAL: RESULTS, "other": {"panoptic_seg": {"PQ": 11.0}}}
    text, _ = summarised("DATASETS.TEST", (COCO_VAL, "other"), results=results)
    ours, others = text.split("\nother\n")
    assert rows(ours)["PQ"] == ["42.2", "42.7"]
    assert rows(others)["PQ"] == ["11.0"]


def test_nothing_published_nothing_shown(summarised):
    text, summary = summarised(config="Shapes-PanopticSegmentation/panoptic_fpn_ocr_tiny")
    assert rows(text)[""] == ["measured here"]
    assert "published" not in text
    assert all(row["published"] is None for row in summary["datasets"].values())


@pytest.mark.parametrize("results", [{}, None])
def test_without_numbers_the_facts_stay(summarised, results):
    # Images without annotations; no evaluation at all.
    text, _ = summarised(
        config="Shapes-PanopticSegmentation/panoptic_fpn_ocr_tiny", results=results
    )
    assert rows(text) == {}
    assert ("no metrics could be computed" in text) == (results == {})
    assert "- iterations: 270000" in text
    assert f"- time: 26:03:07, training{'' if results is None else ' with evaluation'}\n" in text


def test_a_resumed_run_says_since_when(summarised):
    text, _ = summarised(facts=RunFacts(**{**vars(TRAINED), "resumed_at": 1000}))
    assert "- time: 26:03:07, training with evaluation from 1000 on\n" in text


def checkpoint(**content):
    return facts_of_checkpoint("mine.pth", content, {COCO_VAL: 5000}, 60.0)


def test_an_evaluation_tells_what_its_checkpoint_does(summarised):
    trainer = {"data_loader": {"seed": 5, "samples": 9}, "circumstances": {"images": 118287}}
    text, summary = summarised(facts=checkpoint(iteration=269999, trainer=trainer))
    assert summary["datasets"][COCO_VAL]["published"]["comparable"]
    for line in (
        "- weights: mine.pth",
        "- iterations: 270000",
        "- trained on: 118287 images",
        "- seed: 5",
        "- time: 0:01:00, evaluation",
    ):
        assert f"{line}\n" in text
    text, _ = summarised(facts=checkpoint(iteration=99))
    assert ": 100 iterations (published 270000)\n" in text


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"iteration": "many", "trainer": [1]},
        {"iteration": True, "trainer": {"data_loader": 3, "circumstances": {"images": "all"}}},
        {"trainer": {"data_loader": {"seed": torch.zeros(1)}}},
    ],
)
def test_a_checkpoint_may_say_nothing(summarised, content):
    text, summary = summarised(facts=checkpoint(**content))
    assert ": the weights do not say how they were trained\n" in text
    assert "- iterations: not known\n- trained on: not known images\n" in text
    assert summary["seed"] is None


def test_random_weights_are_not_comparable(summarised):
    text, _ = summarised(facts=facts_of_checkpoint("", {}, {}, 1.0))
    assert ": random weights\n" in text
    assert "- weights: random weights\n" in text


@pytest.mark.parametrize(
    ("resumed_at", "results", "told"),
    [
        (200000, RESULTS, "training with evaluation from 200000 on"),
        (270000, RESULTS, "evaluation, 270000 iterations before"),
        (270000, None, "270000 iterations before"),
    ],
)
def test_a_resumed_run_says_what_it_has_done(summarised, resumed_at, results, told):
    facts = RunFacts(**{**vars(TRAINED), "resumed_at": resumed_at})
    text, _ = summarised(results=results, facts=facts)
    assert f"- time: 26:03:07, {told}\n" in text


def test_a_run_that_is_resumed_behind_its_end_has_trained_before(datasets_root, tmp_path):
    main = load_tool("tools/train_net.py").main
    evaluated = {"SOLVER.STEPS": (1,), "TEST.EVAL_PERIOD": 0}
    assert main(arguments(tmp_path, overrides={**evaluated, "SOLVER.MAX_ITER": 3})) == 0
    fewer = arguments(tmp_path, "--resume", overrides={**evaluated, "SOLVER.MAX_ITER": 2})
    assert main(fewer) == 0
    assert "- iterations: 3\n" in (text := (tmp_path / "summary.md").read_text())
    assert text.endswith(", evaluation, 3 iterations before\n")
    line = "nothing is left to train: 3 iterations are done, and SOLVER.MAX_ITER is 2"
    assert line in (tmp_path / "log.txt").read_text()


def test_what_cannot_be_written_is_one_line(summarised, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ocr_panoptic"), "propagate", True)
    caplog.set_level(logging.INFO)
    (tmp_path / "summary.md").mkdir()
    with pytest.raises(InputError, match="the summary cannot be written"):
        summarised()
    # The numbers are not lost.
    assert any("42.2" in record.getMessage() for record in caplog.records)


def test_the_summary_before_is_removed_at_the_start(tmp_path):
    path = str(CONFIGS / f"{COCO}.yaml")
    cfg = load_config(path, ["OUTPUT_DIR", str(tmp_path)])
    assert begin_summary(cfg, path).metrics["PQ"] == 42.7
    for name in ("summary.md", "summary.json"):
        (tmp_path / name).write_text("old")
    begin_summary(cfg, path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "summary.md").mkdir()
    with pytest.raises(InputError, match=r"summary\.md: cannot be removed .+ an earlier summary"):
        begin_summary(cfg, path)


def test_from_training_to_evaluation(datasets_root, tmp_path, capsys, monkeypatch):
    main = load_tool("tools/train_net.py").main
    short = {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (1,), "TEST.EVAL_PERIOD": 0}
    assert main(arguments(tmp_path, overrides=short)) == 0
    text = (tmp_path / "summary.md").read_text()
    for seen in (capsys.readouterr().out, (tmp_path / "log.txt").read_text()):
        assert text in seen
    assert "- iterations: 2\n- trained on: 8 images, 2 per iteration\n" in text
    metrics = json.loads((tmp_path / "inference" / VAL / "metrics.json").read_text())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["datasets"][VAL] == {"images": 5, "measured": metrics, "published": None}
    assert (summary["seed"], summary["trained"]) == (3, True)

    evaluation = {**short, "MODEL.WEIGHTS": tmp_path / "model_final.pth"}
    assert main(arguments(tmp_path / "again", "--eval-only", overrides=evaluation)) == 0
    summary = json.loads((tmp_path / "again/summary.json").read_text())
    assert summary["datasets"][VAL]["measured"] == metrics
    assert (summary["iterations"], summary["seed"], summary["trained"]) == (2, 3, False)
    assert (summary["weights"], summary["training_images"]) == (f"{tmp_path}/model_final.pth", 8)
    # The checkpoint of the folder itself.
    assert main(arguments(tmp_path, "--eval-only", "--resume", overrides=short)) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["weights"], summary["iterations"]) == (f"{tmp_path}/model_final.pth", 2)

    # A run that fails leaves no numbers of the one before.
    absent = {**short, "MODEL.WEIGHTS": tmp_path / "absent.pth"}
    assert main(arguments(tmp_path, "--eval-only", overrides=absent)) == BAD_INPUT
    assert not (tmp_path / "summary.json").exists()
    assert not (tmp_path / "summary.md").exists()
