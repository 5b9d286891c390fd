"""What is published: one table, which the model zoo and the README repeat."""

import logging
import re

import pytest
import yaml

from ocr_panoptic.engine.published import config_differences, find_published, read_published
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.evaluation.metrics import METRICS

from ..conftest import REPOSITORY
from ..models import CONFIGS, TINY

TABLE = CONFIGS / "published.yaml"
ROWS, IMAGES = read_published(TABLE)
OCR = CONFIGS / "COCO-PanopticSegmentation/panoptic_fpn_ocr_R_50_3x.yaml"
# As the tables have it.
NOTHING = "\N{EN DASH}"
COLUMNS = {
    **{"PQ": "PQ", "PQ things": "PQ_th", "PQ stuff": "PQ_st", "mIoU": "mIoU"},
    **{"box AP": "box_AP", "mask AP": "mask_AP"},
}


def test_the_table_is_about_configs_that_exist_and_their_data():
    assert len(ROWS) == 15
    assert set(IMAGES) == {
        name for row in ROWS for name in data_sets(load_config(str(CONFIGS / f"{row}.yaml"), []))
    }
    for metrics, sources in ROWS.values():
        assert metrics.keys() == sources.keys() <= METRICS.keys()
        assert all(0 < value < 100 for value in metrics.values())


def data_sets(cfg):
    return (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)


def test_every_source_is_used():
    named = set(yaml.safe_load(TABLE.read_text())["sources"].values())
    assert named == {source for _, sources in ROWS.values() for source in sources.values()}


def tables(path):
    """Give each row of a markdown table that links a config: column -> text, and its config."""
    columns = []
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if cells and cells[0] == "config":
            columns = cells
        elif cells and (linked := re.match(r"\[.+\]\((?:configs/)?(COCO-.+)\.yaml\)", cells[0])):
            yield linked[1], dict(zip(columns, cells, strict=True))


def text(config, metric):
    value = ROWS.get(config, ({}, {}))[0].get(metric)
    return NOTHING if value is None else f"{value:.1f}"


def test_the_model_zoo_repeats_the_table():
    seen = set()
    for config, cells in tables(CONFIGS / "README.md"):
        for column in cells.keys() & COLUMNS.keys():
            assert cells[column] == text(config, COLUMNS[column]), (config, column)
        seen.add(config)
    assert seen > set(ROWS)


def test_the_gains_of_the_model_zoo_are_those_over_its_baselines():
    gains = 0
    for config, cells in tables(CONFIGS / "README.md"):
        for column, metric in (("box gain", "box_AP"), ("mask gain", "mask_AP")):
            if cells.get(column, NOTHING) != NOTHING:
                baseline = re.sub("_(nl|isa)_", "_", config)
                gain = ROWS[config][0][metric] - ROWS[baseline][0][metric]
                assert cells[column] == f"{gain:+.1f}", (config, column)
                gains += 1
    assert gains == 8


def test_the_readme_repeats_the_table():
    seen = 0
    for config, cells in tables(REPOSITORY / "README.md"):
        if "PQ published" in cells:
            assert cells["PQ published"] == text(config, "PQ"), config
            seen += 1
        elif "published" in cells:
            expected = f"{text(config, 'box_AP')} / {text(config, 'mask_AP')}"
            assert cells["published"] == expected, config
            seen += 1
    assert seen >= 7


def test_the_row_of_a_config_is_found():
    found = find_published(str(OCR))
    assert found.config == "COCO-PanopticSegmentation/panoptic_fpn_ocr_R_50_3x"
    assert (found.metrics["PQ"], found.metrics["PQ_st"]) == (42.7, 33.9)
    assert found.sources["PQ"].endswith("Table 6")
    assert found.images["coco_2017_val_panoptic_separated"] == 5000
    assert found.cfg.SOLVER.MAX_ITER == 270000
    # Of a baseline, what the paper leaves out.
    baseline = find_published(str(OCR).replace("_ocr", ""))
    assert baseline.metrics["mask_AP"] == 36.5
    assert baseline.sources["mask_AP"] == "Detectron2's model zoo"


def test_the_row_of_a_config_is_that_of_the_one_it_is_based_on(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {OCR}\n")
    (tmp_path / "again.yaml").write_text("_BASE_: mine.yaml\n")
    assert find_published(str(tmp_path / "again.yaml")).metrics["PQ"] == 42.7
    monkeypatch.chdir(OCR.parent)
    assert find_published(OCR.name).metrics["PQ"] == 42.7


@pytest.mark.parametrize("name", ["ocr", "mask_rcnn"])
def test_nothing_is_published_for_shapes(name):
    assert find_published(str(TINY[name])) is None


@pytest.mark.parametrize(
    "content",
    [
        *("", "[1]", "a: [", "configs: {a/b: {x: {PQ: 1}}}"),
        "{sources: {x: y}, images: {}, configs: {a/b: {x: {PQ: high}}}}",
        "{sources: {x: y}, images: {}, configs: {a/b: {x: {quality: 1}}}}",
        "{sources: {x: y, z: y}, images: {}, configs: {a/b: {x: {PQ: 1}, z: {PQ: 2}}}}",
        "{sources: {x: y}, images: {a: many}, configs: {a/b: {x: {PQ: 1}}}}",
    ],
)
def test_another_file_of_that_name_is_told_and_not_used(tmp_path, caplog, monkeypatch, content):
    monkeypatch.setattr(logging.getLogger("ocr_panoptic"), "propagate", True)
    (tmp_path / "published.yaml").write_text(content)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.yaml").write_text("VERSION: 2\n")
    assert find_published(str(tmp_path / "a/b.yaml")) is None
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{tmp_path}/published.yaml: no table of published numbers (")


def differences(*overrides, trained=True):
    cfg = load_config(str(OCR), [str(word) for word in overrides])
    return config_differences(cfg, find_published(str(OCR)).cfg, trained=trained)


def test_a_run_of_the_config_differs_in_nothing():
    assert differences() == []
    neutral = ["SEED", 5, "OUTPUT_DIR", "x", "DATALOADER.NUM_WORKERS", 0, "WANDB.ENABLED", True]
    assert differences(*neutral, "TEST.EVAL_PERIOD", 50, "TEST.PANOPTIC.SAVE", True) == []
    # A list is the tuple of the default.
    assert differences("SOLVER.STEPS", "[210000, 250000]") == []


def test_what_differs_is_told():
    assert differences("SOLVER.MAX_ITER", 100, "INPUT.MIN_SIZE_TEST", 600) == [
        "INPUT.MIN_SIZE_TEST 600 (published 800)",
        "SOLVER.MAX_ITER 100 (published 270000)",
    ]
    assert differences("MODEL.SEM_SEG_HEAD.OCR.DROPOUT", 0.1, "TEST.DTYPE", "bfloat16") == [
        "MODEL.SEM_SEG_HEAD.OCR.DROPOUT 0.1 (published 0.05)",
        "TEST.DTYPE bfloat16 (published float32)",
    ]


def test_an_evaluation_is_not_asked_how_it_would_train():
    training = ["SOLVER.MAX_ITER", 100, "MODEL.WEIGHTS", "mine.pth", "INPUT.CROP.ENABLED", True]
    assert len(differences(*training)) == 3
    assert differences(*training, trained=False) == []
    assert differences("INPUT.MIN_SIZE_TEST", 600, trained=False)
