"""Predictions that go on after a kill: nothing lost, nothing twice, wherever it came."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ocr_panoptic.engine import predict as module
from ocr_panoptic.engine.inference import load_for_inference
from ocr_panoptic.engine.journal import Journal
from ocr_panoptic.engine.predict import Outputs, predict
from ocr_panoptic.errors import InputError

from ..conftest import REPOSITORY
from ..models import SMALL, TINY, small_config

# A random model finds stuff of some pixels and instances of no great score.
FOUND = [
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 1),
    *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0),
]


@pytest.fixture(scope="module")
def model():
    return load_for_inference(small_config("ocr", FOUND))


@pytest.fixture(autouse=True)
def _loaded_model(model, monkeypatch):
    # It takes longer to build than to use.
    monkeypatch.setattr(module, "load_for_inference", lambda cfg: model)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for seed, name in enumerate(("a.png", "b.jpg", "sub/a.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 30)).save(folder / name)
    return folder


def run(photos, output, *, overrides=(), **outputs):
    return predict(
        str(TINY["ocr"]),
        [*map(str, SMALL), *map(str, FOUND), *map(str, overrides)],
        [str(photos)],
        Outputs(output, **outputs),
    )


def content(folder):
    """All files, but for the journal: it tells of times, too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "journal.jsonl"
    }


def journal_names(folder):
    lines = (folder / "journal.jsonl").read_text().splitlines()
    return [json.loads(line)["name"] for line in lines[1:]]


@pytest.fixture(scope="module")
def reference(photos, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("reference") / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "load_for_inference", lambda cfg: model)
        run(photos, output, semantic=True)
    files = content(output)
    panoptic = json.loads(files["panoptic.json"])
    # So that there is something to lose.
    assert all(annotation["segments_info"] for annotation in panoptic["annotations"])
    assert len(json.loads(files["instances.json"])) > 3
    assert sorted(files) == sorted(
        [
            *("instances.json", "panoptic.json"),
            *(f"panoptic/{stem}.png" for stem in ("a", "b", "sub/a")),
            *(f"semantic/{stem}.png" for stem in ("a", "b", "sub/a")),
            *(f"visualizations/{stem}.jpg" for stem in ("a", "b", "sub/a")),
        ]
    )
    return files


class KilledError(BaseException):
    """No one catches it, as no one catches a kill."""


@pytest.fixture
def kill_at(monkeypatch):
    """A function that lets the process die at the n-th write, before, in the middle or after."""
    replace, unlink, append = Path.replace, Path.unlink, Journal._append
    state = {}

    def step():
        if next(state["steps"]) == state["at"]:
            state["dead"] = True
            raise KilledError

    def stepping_replace(path, target):
        step()
        replace(path, target)
        step()

    def stepping_unlink(path, missing_ok=False):
        # The dead do not tidy up.
        if not state["dead"]:
            unlink(path, missing_ok)

    def stepping_append(journal, record):
        step()
        try:
            step()
        except KilledError:
            journal._file.write(json.dumps(record).encode()[:-5])
            raise
        offset = append(journal, record)
        step()
        return offset

    def set_point(at):
        state.update(steps=itertools.count(), at=at, dead=False)
        monkeypatch.setattr(Path, "replace", stepping_replace)
        monkeypatch.setattr(Path, "unlink", stepping_unlink)
        monkeypatch.setattr(Journal, "_append", stepping_append)
        return state["steps"]

    return set_point


@pytest.mark.slow
def test_killed_anywhere_it_goes_on(photos, model, kill_at, tmp_path, monkeypatch):
    results = {}

    def remembering(inputs):
        key = inputs[0]["image"].numpy().tobytes()
        if key not in results:
            results[key] = model(inputs)
        return results[key]

    # Neither the model nor the picture is what dies here.
    monkeypatch.setattr(module, "load_for_inference", lambda cfg: remembering)
    monkeypatch.setattr(module, "draw_panoptic", lambda pixels, *args: pixels)
    steps = kill_at(None)
    run(photos, tmp_path / "whole", semantic=True)
    count, reference = next(steps), content(tmp_path / "whole")
    # Header; three files and a record for each image; two jsons.
    assert count == 3 + 3 * (3 * 2 + 3) + 2 * 2
    for at in range(count):
        output = tmp_path / str(at)
        kill_at(at)
        with pytest.raises(KilledError):
            run(photos, output, semantic=True)
        kill_at(None)
        assert run(photos, output, semantic=True)[1] == 0
        assert content(output) == reference, at
        # Each image once.
        assert journal_names(output) == ["a.png", "b.jpg", "sub/a.png"], at
        shutil.rmtree(output)


def test_killed_again_and_again_it_goes_on(photos, reference, kill_at, tmp_path):
    generator = np.random.default_rng(0)
    kills = 0
    while True:
        kill_at(int(generator.integers(1, 14)))
        try:
            run(photos, tmp_path, semantic=True)
            break
        except KilledError:
            kills += 1
    assert kills >= 3
    assert content(tmp_path) == reference


def test_only_what_is_missing_is_predicted(photos, reference, model, tmp_path, monkeypatch):
    calls = []

    def counting(inputs):
        calls.append((inputs[0]["height"], inputs[0]["width"]))
        return model(inputs)

    monkeypatch.setattr(module, "load_for_inference", lambda cfg: counting)
    run(photos, tmp_path, semantic=True)
    assert len(calls) == 3
    run(photos, tmp_path, semantic=True)
    assert len(calls) == 3
    for lost in ("panoptic/a.png", "visualizations/sub/a.jpg", "semantic/b.png"):
        (tmp_path / lost).unlink()
        calls.clear()
        run(photos, tmp_path, semantic=True)
        assert len(calls) == 1, lost
        assert content(tmp_path) == reference
    # Pictures that nobody asks for are not missing.
    (tmp_path / "visualizations/a.jpg").unlink()
    calls.clear()
    run(photos, tmp_path, pictures=False)
    assert calls == []


def test_an_image_that_changed_is_predicted_again(photos, tmp_path):
    images = shutil.copytree(photos, tmp_path / "images")
    run(images, tmp_path / "out")
    before = content(tmp_path / "out")
    Image.open(images / "b.jpg").rotate(180).crop((0, 0, 20, 30)).save(images / "b.jpg")
    run(images, tmp_path / "out")
    after = content(tmp_path / "out")
    assert sorted(before) == sorted(after)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {
        *("panoptic.json", "instances.json", "panoptic/b.png", "visualizations/b.jpg")
    }
    ids = [row["image_id"] for row in json.loads(after["panoptic.json"])["annotations"]]
    assert ids == [1, 2, 3]


def test_an_image_that_broke_is_left_out_until_it_is_mended(photos, tmp_path, capsys):
    images, output = shutil.copytree(photos, tmp_path / "images"), tmp_path / "out"
    run(images, output)
    whole = content(output)
    good = (images / "b.jpg").read_bytes()
    (images / "b.jpg").write_bytes(good[:100])
    files, failures = run(images, output)
    assert failures == 1
    assert files == [output / "panoptic.json", output / "instances.json"]
    assert f"error: {images}/b.jpg: truncated or no image" in capsys.readouterr().err
    panoptic = json.loads((output / "panoptic.json").read_text())
    assert [row["id"] for row in panoptic["images"]] == [1, 3]
    assert [row["image_id"] for row in panoptic["annotations"]] == [1, 3]
    instances = json.loads((output / "instances.json").read_text())
    assert {row["image_id"] for row in instances} == {1, 3}
    (images / "b.jpg").write_bytes(good)
    assert run(images, output)[1] == 0
    assert content(output) == whole


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH", 0.7], "other config"),
        (["INPUT.MIN_SIZE_TEST", 64], "other config"),
        (["DATASETS.TEST", ("coco_2017_val_panoptic_separated",)], "NUM_CLASSES"),
    ],
)
def test_another_run_is_refused(photos, reference, tmp_path, overrides, message):
    run(photos, tmp_path, semantic=True)
    with pytest.raises(InputError, match=message):
        run(photos, tmp_path, overrides=overrides, semantic=True)
    assert content(tmp_path) == reference


def test_other_weights_and_images_are_refused(photos, tmp_path):
    images = shutil.copytree(photos, tmp_path / "images")
    weights = tmp_path / "model.pth"
    for value in (b"one", b"two"):
        weights.write_bytes(value)
        if value == b"one":
            run(images, tmp_path / "out", overrides=["MODEL.WEIGHTS", weights])
            # By another name they are the same.
            weights.rename(tmp_path / "renamed.pth")
            renamed = ["MODEL.WEIGHTS", tmp_path / "renamed.pth"]
            run(images, tmp_path / "out", overrides=renamed)
    message = f"--output {tmp_path}/out: holds a run with other weights, expected the same"
    with pytest.raises(InputError, match=message):
        run(images, tmp_path / "out", overrides=["MODEL.WEIGHTS", weights])
    (images / "b.jpg").rename(images / "c.jpg")
    with pytest.raises(InputError, match="holds a run with other images"):
        run(images, tmp_path / "out", overrides=renamed)


@pytest.mark.parametrize("name", ["panoptic.json", "instances.json", "panoptic/", "semantic/"])
def test_results_of_others_are_not_written_over(photos, tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.write_text("precious")
    with pytest.raises(InputError, match=f"holds {name.strip('/')}, but no journal.jsonl to go on"):
        run(photos, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name.strip("/")]


def test_a_full_disk_is_one_line(photos, tmp_path, monkeypatch):
    calls = itertools.count()
    write = module.write_panoptic_png

    def full(path, segment_ids):
        if next(calls) == 1:
            raise OSError(28, "No space left on device", str(path))
        write(path, segment_ids)

    monkeypatch.setattr(module, "write_panoptic_png", full)
    message = f"--output {tmp_path}: .*panoptic/b.png: No space left on device, expected a folder"
    with pytest.raises(InputError, match=message):
        run(photos, tmp_path)
    assert journal_names(tmp_path) == ["a.png"]


def test_an_image_too_large_for_the_gpu_is_skipped(photos, model, tmp_path, monkeypatch, capsys):
    calls = itertools.count()

    def small(inputs):
        if next(calls) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return model(inputs)

    monkeypatch.setattr(module, "load_for_inference", lambda cfg: small)
    _, failures = run(photos, tmp_path)
    assert failures == 1
    message = f"error: {photos}/b.jpg: 40x30 pixels need more memory than the GPU has, expected a"
    assert message in capsys.readouterr().err
    assert journal_names(tmp_path) == ["a.png", "sub/a.png"]


def kill_and_go_on(photos, tmp_path, *, copies, kills):
    """Kill a run, go on with it as often as ``kills`` is long, then let it finish.

    Each number says how many images more are done before a kill.
    """
    images = tmp_path / "images"
    for copy in range(copies):
        shutil.copytree(photos, images / f"{copy:02d}")
    run(images, tmp_path / "whole", pictures=False)
    argv = [sys.executable, "tools/predict.py", "--config-file", str(TINY["ocr"])]
    argv += ["--input", str(images), "--output", str(tmp_path / "out"), "--no-pictures"]
    argv += ["--opts", *map(str, [*SMALL, *FOUND])]
    # As many threads as in this process: their number decides the last bits of scores.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    journal = tmp_path / "out/journal.jsonl"

    def lines():
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    for more in kills:
        # The first line is about the run.
        goal = max(1, lines()) + more
        process = subprocess.Popen(argv, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if lines() >= goal:
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.001)
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "out/panoptic.json").exists()
    done = subprocess.run(
        argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert journal_names(tmp_path / "out") == journal_names(tmp_path / "whole")


@pytest.mark.slow
def test_a_real_kill_loses_nothing(photos, tmp_path):
    kill_and_go_on(photos, tmp_path, copies=6, kills=[3])


@pytest.mark.soak
def test_ten_real_kills_lose_nothing(photos, tmp_path):
    kills = np.random.default_rng(0).integers(0, 6, 10).tolist()
    kill_and_go_on(photos, tmp_path, copies=40, kills=kills)
