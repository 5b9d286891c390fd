"""train_net.py: training, evaluation, resuming, several processes, and what it says to mistakes."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ocr_panoptic.data.shapes.register import register_shapes
from ocr_panoptic.engine.checkpoint import Checkpointer
from ocr_panoptic.errors import BAD_INPUT, InputError

from ..conftest import REPOSITORY, load_tool
from ..models import SMALL, TINY

TRAIN, VAL = "test_shapes_train_separated", "test_shapes_val_separated"
METRICS = {
    *("dtype", "PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st"),
    *("box_AP", "mask_AP", "mIoU"),
}


def arguments(output, *options, config="ocr", train=TRAIN, val=VAL, overrides=()):
    settings = {
        **dict(zip(SMALL[::2], SMALL[1::2], strict=True)),
        "DATASETS.TRAIN": (train,),
        "DATASETS.TEST": (val,),
        "OUTPUT_DIR": output,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": (1,),
        **dict(overrides),
    }
    words = [str(word) for pair in settings.items() for word in pair]
    return ["--config-file", str(TINY[config]), *options, *words]


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/train_net.py").main


@pytest.fixture(scope="module")
def trained(main, datasets_root, tmp_path_factory):
    """The output folder of two iterations and the evaluation after them."""
    output = tmp_path_factory.mktemp("trained")
    assert main(arguments(output)) == 0
    return output


def read_metrics(folder):
    return json.loads((folder / "inference" / VAL / "metrics.json").read_text())


def test_trains_and_evaluates(trained):
    lines = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    losses = {"loss_sem_seg", "loss_sem_seg_region", "loss_cls", "loss_mask", "loss_rpn_cls"}
    assert any(losses <= set(line) for line in lines)
    assert {"sem_seg/mIoU", "panoptic_seg/PQ", "bbox/AP", "segm/AP"} <= set(lines[-1])
    metrics = read_metrics(trained)
    assert set(metrics) <= METRICS
    assert metrics["dtype"] == "float32"
    assert metrics["PQ"] == lines[-1]["panoptic_seg/PQ"]
    assert (trained / "model_final.pth").is_file()


def test_eval_only_gives_the_same_and_prints_the_table(main, trained, tmp_path, capsys):
    weights = {"MODEL.WEIGHTS": trained / "model_final.pth"}
    assert main(arguments(tmp_path, "--eval-only", overrides=weights)) == 0
    assert read_metrics(tmp_path) == read_metrics(trained)
    table = capsys.readouterr().out
    assert "mask AP" in table
    assert f"{read_metrics(tmp_path)['mIoU']:.1f}" in table


def test_resume_goes_on_at_the_next_iteration(main, trained, tmp_path):
    output = tmp_path / "resumed"
    shutil.copytree(trained, output)
    assert main(arguments(output, "--resume", overrides={"SOLVER.MAX_ITER": 3})) == 0
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    iterations = [line["iteration"] for line in lines if "total_loss" in line]
    assert iterations == [1, 2]
    # Nothing is left to do: no iteration runs, and that is no error.
    assert main(arguments(output, "--resume", overrides={"SOLVER.MAX_ITER": 3})) == 0


def test_fine_tuning_to_other_classes_starts_the_predictors_anew(main, trained, tmp_path, caplog):
    checkpoint = torch.load(trained / "model_final.pth", map_location="cpu")["model"]
    changed = {
        "sem_seg_head.predictor.weight": (54, 32, 1, 1),
        "sem_seg_head.predictor.bias": (54,),
        "roi_heads.box_predictor.cls_score.weight": (81, 32),
        "roi_heads.box_predictor.cls_score.bias": (81,),
    }
    for key, shape in changed.items():
        assert checkpoint[key].shape != shape
        checkpoint[key] = torch.zeros(shape)
    torch.save({"model": checkpoint}, tmp_path / "other.pth")
    weights = {"MODEL.WEIGHTS": tmp_path / "other.pth", "SOLVER.MAX_ITER": 1, "SOLVER.STEPS": ()}
    assert main(arguments(tmp_path / "run", overrides=weights)) == 0
    log = (tmp_path / "run/log.txt").read_text()
    for layer, sizes in (
        ("sem_seg_head.predictor", "54x32x1x1 in the checkpoint, 7x32x1x1 in the model"),
        ("roi_heads.box_predictor.cls_score", "81x32 in the checkpoint, 7x32 in the model"),
    ):
        assert log.count(f"{layer} starts anew: {sizes}") == 1
    assert log.count("starts anew") == 2


def test_the_baseline_trains_too(main, datasets_root, tmp_path):
    assert main(arguments(tmp_path, config="baseline")) == 0
    assert set(read_metrics(tmp_path)) <= METRICS


@pytest.mark.parametrize("config", ["mask_rcnn", "isa", "nl"])
def test_mask_r_cnn_trains_is_evaluated_and_resumes(main, datasets_root, tmp_path, config):
    names = {f"{split}": f"test_shapes_{split}_instances" for split in ("train", "val")}
    assert main(arguments(tmp_path, config=config, **names)) == 0
    longer = {"SOLVER.MAX_ITER": 3}
    assert main(arguments(tmp_path, "--resume", config=config, **names, overrides=longer)) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [1, 2]
    metrics = json.loads((tmp_path / f"inference/{names['val']}/metrics.json").read_text())
    assert set(metrics) == {"dtype", "box_AP", "mask_AP"}
    assert metrics["box_AP"] == lines[-1]["bbox/AP"]
    keys = torch.load(tmp_path / "model_final.pth", map_location="cpu")["model"]
    assert any("res4.1.context" in key for key in keys) == (config != "mask_rcnn")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("STAGE", "res7", "MODEL.RESNETS.CONTEXT.STAGE: 'res7', expected one of res2 res3"),
        ("BLOCK", 2, "MODEL.RESNETS.CONTEXT.BLOCK: 2 of res4, expected -2 to 1"),
    ],
)
def test_a_context_that_does_not_exist_is_named(
    main, datasets_root, tmp_path, capsys, key, value, message
):
    names = {f"{split}": f"test_shapes_{split}_instances" for split in ("train", "val")}
    overrides = {f"MODEL.RESNETS.CONTEXT.{key}": value}
    assert main(arguments(tmp_path, config="isa", **names, overrides=overrides)) == BAD_INPUT
    assert message in one_line(capsys)


def test_a_context_that_the_backbone_would_not_read(main, datasets_root, tmp_path, capsys):
    overrides = {"MODEL.RESNETS.CONTEXT.NAME": "isa"}
    assert main(arguments(tmp_path, overrides=overrides)) == BAD_INPUT
    assert "expected build_context_resnet_fpn_backbone" in one_line(capsys)


@pytest.fixture
def broken(datasets_root, tmp_path):
    """A function that registers a copy of the data set, to be damaged, and returns its names."""

    def copy(name):
        root = tmp_path / "shapes"
        shutil.copytree(datasets_root / "shapes_easy", root)
        for split in ("train", "val"):
            register_shapes(f"{name}_{split}", root, split, "easy")
        return root, {"train": f"{name}_train_separated", "val": f"{name}_val_separated"}

    return copy


def one_line(capsys):
    # What comes after the log of a run that had already begun.
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert not any(line.startswith("Traceback") for line in lines)
    return lines[-1]


def test_a_missing_image_is_named(main, broken, tmp_path, capsys):
    root, names = broken("missing")
    gone = sorted((root / "train").iterdir())[3]
    gone.unlink()
    assert main(arguments(tmp_path / "run", **names)) == BAD_INPUT
    assert str(gone) in one_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_truncated_png_is_named(main, broken, tmp_path, capsys, num_workers):
    root, names = broken(f"truncated{num_workers}")
    for path in (root / "panoptic_stuff_train").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    workers = {"DATALOADER.NUM_WORKERS": num_workers}
    assert main(arguments(tmp_path / "run", **names, overrides=workers)) == BAD_INPUT
    message = one_line(capsys)
    assert "panoptic_stuff_train" in message
    assert "truncated" in message
    assert not (tmp_path / "run/model_final.pth").exists()


def test_a_label_out_of_range_is_named(main, broken, tmp_path, capsys):
    root, names = broken("label")
    for path in (root / "panoptic_stuff_train").iterdir():
        labels = np.array(Image.open(path))
        labels[:20] = 77
        Image.fromarray(labels).save(path)
    assert main(arguments(tmp_path / "run", **names)) == BAD_INPUT
    message = one_line(capsys)
    assert "semantic label 77; expected 0 to 6" in message
    assert "panoptic_stuff_train" in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"MODEL.SEM_SEG_HEAD.NAME": "NoHead"}, "MODEL.SEM_SEG_HEAD.NAME: 'NoHead'"),
        ({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 54}, "NUM_CLASSES is 54; expected 7"),
        ({"MODEL.WEIGHTS": "none.pth"}, "MODEL.WEIGHTS: none.pth does not exist"),
        ({"NO.KEY": 1}, "Non-existent key: NO.KEY"),
    ],
)
def test_a_bad_config_is_one_line(main, datasets_root, tmp_path, capsys, overrides, message):
    assert main(arguments(tmp_path / "run", overrides=overrides)) == BAD_INPUT
    assert message in one_line(capsys)


def test_a_truncated_panoptic_png_is_named_and_leaves_no_numbers(
    main, trained, broken, tmp_path, capsys
):
    root, names = broken("panoptic")
    output = tmp_path / "run"
    metrics = output / "inference" / names["val"] / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text("of an earlier evaluation")
    path = sorted((root / "panoptic_val").iterdir())[2]
    path.write_bytes(path.read_bytes()[:300])
    overrides = {"MODEL.WEIGHTS": trained / "model_final.pth"}
    assert main(arguments(output, "--eval-only", **names, overrides=overrides)) == BAD_INPUT
    assert str(path) in one_line(capsys)
    assert not metrics.exists()


def test_a_checkpoint_of_another_model_is_refused(main, datasets_root, tmp_path, capsys):
    for content, message in (
        ({"model": {"foo.weight": torch.zeros(3)}}, "no key of the checkpoint .*holds foo.weight"),
        ({"model": 3}, "is no checkpoint"),
        ([1, 2], "is no checkpoint"),
    ):
        torch.save(content, tmp_path / "other.pth")
        overrides = {"MODEL.WEIGHTS": tmp_path / "other.pth"}
        argv = arguments(tmp_path / "run", "--eval-only", overrides=overrides)
        assert main(argv) == BAD_INPUT
        assert re.search(f"MODEL.WEIGHTS: {tmp_path}/other.pth.*{message}", one_line(capsys))


def test_a_checkpoint_that_cannot_be_written_is_not_left_half(tmp_path, monkeypatch):
    def write_half(data, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:595] . unexpected pos 64 vs 0")

    checkpointer = Checkpointer(torch.nn.Linear(2, 2), str(tmp_path))
    checkpointer.save("model_0000001")
    before = (tmp_path / "model_0000001.pth").read_bytes()
    monkeypatch.setattr(torch, "save", write_half)
    for name in ("model_0000001", "model_final"):
        with pytest.raises(InputError, match=rf"{name}\.pth: the checkpoint cannot be written"):
            checkpointer.save(name)
    assert (tmp_path / "model_0000001.pth").read_bytes() == before
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert {path.name for path in tmp_path.iterdir()} == {"model_0000001.pth", "last_checkpoint"}


@pytest.mark.parametrize(
    "words",
    [
        ["--num-gpus", "-1"],
        ["--num-machines", "0"],
        ["--machine-rank", "3"],
        ["--dist-url", "localhost:1234"],
    ],
)
def test_processes_that_cannot_be(main, capsys, words):
    assert main(["--config-file", str(TINY["ocr"]), *words]) == BAD_INPUT
    assert " ".join(words) in one_line(capsys)


def test_a_broken_checkpoint_is_named(main, trained, tmp_path, capsys):
    path = tmp_path / "broken.pth"
    path.write_bytes((trained / "model_final.pth").read_bytes()[:5000])
    overrides = {"MODEL.WEIGHTS": path}
    assert main(arguments(tmp_path / "run", "--eval-only", overrides=overrides)) == BAD_INPUT
    assert f"MODEL.WEIGHTS: {path} is no checkpoint" in one_line(capsys)


def test_an_output_folder_that_is_a_file_is_named(main, datasets_root, tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("in the way")
    assert main(arguments(path)) == BAD_INPUT
    assert f"OUTPUT_DIR: {path}: File exists, expected a folder to write to" in one_line(capsys)


def test_more_gpus_than_there_are(main, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    argv = ["--config-file", str(TINY["ocr"]), "--num-gpus", "2", "MODEL.DEVICE", "cuda"]
    assert main(argv) == BAD_INPUT
    assert "--num-gpus 2: this machine has 1" in one_line(capsys)


def test_several_machines_need_an_address(main, capsys):
    argv = ["--config-file", str(TINY["ocr"]), "--num-machines", "2"]
    assert main(argv) == BAD_INPUT
    assert "--dist-url auto with --num-machines 2" in one_line(capsys)


def run_in_subprocess(datasets_root, argv):
    return subprocess.run(
        [sys.executable, "tools/train_net.py", *argv],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_two_processes_train(datasets_root, tmp_path):
    names = {f"{s}": f"shapes_easy_{s}_panoptic_separated" for s in ("train", "val")}
    norm = {"MODEL.SEM_SEG_HEAD.OCR.NORM": "SyncBN"}
    done = run_in_subprocess(
        datasets_root, arguments(tmp_path, "--num-gpus", "2", **names, overrides=norm)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "SEM_SEG_HEAD.OCR.NORM: SyncBN needs CUDA between processes" in done.stdout
    assert (tmp_path / "model_final.pth").is_file()


@pytest.mark.slow
def test_a_mistake_found_by_one_of_two_processes_is_one_line(datasets_root, tmp_path):
    shutil.copytree(datasets_root, tmp_path / "datasets")
    for path in (tmp_path / "datasets/shapes_easy/panoptic_stuff_train").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    names = {f"{s}": f"shapes_easy_{s}_panoptic_separated" for s in ("train", "val")}
    argv = arguments(tmp_path / "run", "--num-gpus", "2", **names)
    done = run_in_subprocess(tmp_path / "datasets", argv)
    assert done.returncode == BAD_INPUT
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "panoptic_stuff_train" in last
