"""Spoilt jsons, images and zips through every command that reads them: it works, or one line says
what is wrong; and nothing is written but in the folder of the results.
"""

import itertools
import json
import os
import random
import shutil
import warnings
import zipfile

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from ocr_panoptic.data.coco_panoptic import prepare_coco_panoptic
from ocr_panoptic.data.derived import CACHE_VARIABLE
from ocr_panoptic.data.register import register_coco_panoptic
from ocr_panoptic.engine import predict
from ocr_panoptic.engine.inference import load_for_inference
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.errors import BAD_INPUT, command_line
from ocr_panoptic.evaluation.panoptic_truth import GroundTruth
from ocr_panoptic.evaluation.submission.build import build_submission

from .. import mutations
from ..conftest import load_tool
from ..data.panoptic_set import PanopticSet
from ..models import SMALL, TINY

NAME = "mutated_test"
OPTIONS = [*map(str, SMALL)]


class Case:
    """A panoptic data set, and predictions of it that are all right, in a folder of their own."""

    def __init__(self, folder, clean, seed):
        self.folder, self.is_spoilt, self.rng = folder, seed is not None, random.Random(seed or 0)
        shutil.copytree(clean, folder)
        self.json, self.pngs, self.photos = (
            folder / name for name in ("panoptic_val.json", "panoptic_val", "val")
        )
        self.predictions = folder / "predictions"
        self.results = self.predictions / "panoptic.json"
        self.instances = self.predictions / "instances.json"
        self.labels = self.predictions / "semantic"
        self.output = folder / "output"

    def mutate(self, jsons, *folders):
        images = [folder / name for folder in folders for name in os.listdir(folder)]
        if self.is_spoilt:
            mutations.mutate(jsons, sorted(images), self.rng)

    def is_drawn(self):
        return self.rng.random() < 0.5


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The data and predictions that are spoilt."""
    folder = tmp_path_factory.mktemp("clean") / "data"
    panoptic_set = PanopticSet(folder)
    predictions = folder / "predictions"
    shutil.copytree(panoptic_set.panoptic_root, predictions / "panoptic")
    shutil.copy(panoptic_set.json_path, predictions / "panoptic.json")
    paths = predictions / "semantic", predictions / "instances.json"
    prepare_coco_panoptic(*panoptic_set.paths[:2], *paths, num_processes=1)
    for label in paths[0].iterdir():
        # Of the derived labels 255 is void, of predicted ones there is none.
        pixels = mutations.Image.open(label).point(lambda value: value % 255)
        pixels.save(label)
    instances = json.loads(paths[1].read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox", "segmentation")
    paths[1].write_text(
        json.dumps([{**{key: row[key] for key in keys}, "score": 0.75} for row in instances])
    )
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config with the classes of the data; they are read from a copy that nobody spoils."""
    folder = tmp_path_factory.mktemp("config")
    json_path, panoptic_root, image_root = map(str, PanopticSet(folder / "set").paths)
    entry = {"NAME": NAME, "IMAGE_ROOT": image_root, "PANOPTIC_JSON": json_path}
    entry["PANOPTIC_ROOT"] = panoptic_root
    path = folder / "config.yaml"
    datasets = {"CUSTOM": [entry], "TRAIN": [NAME], "TEST": [NAME]}
    path.write_text(yaml.safe_dump({"_BASE_": str(TINY["ocr"]), "DATASETS": datasets}))
    yield path
    for name in [name for name in DatasetCatalog.list() if name.startswith(NAME)]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def model(config):
    return load_for_inference(load_config(str(config), OPTIONS))


@pytest.fixture
def predicting(config, model, monkeypatch):
    monkeypatch.setattr(predict, "load_for_inference", lambda cfg: model)
    main = load_tool("tools/predict.py").main

    def run(case):
        image_list = case.folder / "list.json"
        shutil.copy(case.json, image_list)
        case.mutate([image_list], case.photos)
        argv = ["--config-file", config, "--input", case.photos, "--image-info", image_list]
        argv += ["--output", case.output, *["--no-pictures"] * case.is_drawn(), "--opts", *OPTIONS]
        return main([*map(str, argv)])

    return run


@pytest.fixture
def visualizing():
    main = load_tool("tools/visualize.py").main

    def run(case):
        jsons, folders = [case.results], [case.predictions / "panoptic", case.photos]
        argv = ["--panoptic-json", case.results, "--panoptic-root", folders[0], "--num-procs", 1]
        argv += ["--image-root", case.photos, "--output", case.output]
        if case.is_drawn():
            argv += ["--ground-truth-json", case.json, "--ground-truth-root", case.pngs]
            jsons.append(case.json)
            folders.append(case.pngs)
        if case.is_drawn():
            argv.append("--gallery")
        if case.is_drawn():
            jsons.append(case.folder / "categories.json")
            jsons[-1].write_text(json.dumps(json.loads(case.json.read_text())["categories"]))
            argv += ["--categories", jsons[-1]]
        case.mutate(jsons, *folders)
        return main([*map(str, argv)])

    return run


@pytest.fixture
def building():
    main = load_tool("tools/submission.py").main

    def run(case):
        task = case.rng.choice(("panoptic", "segm", "bbox"))
        source = case.results if task == "panoptic" else case.instances
        folders = [case.predictions / "panoptic"] if task == "panoptic" else []
        argv = ["build", "--task", task, "--predictions", case.predictions, "--split", "val2017"]
        argv += ["--alg", "ocr", "--image-info", case.json, "--output", case.output]
        if case.is_drawn():
            argv += ["--categories", case.json]
        case.mutate([source, source, case.json], *folders)
        return main([*map(str, argv), "--json", str(case.output / "report.json")])

    return run


@pytest.fixture
def checking():
    main = load_tool("tools/submission.py").main

    def run(case):
        task = case.rng.choice(("panoptic", "segm", "bbox"))
        built = build_submission(
            *(task, case.predictions, "val2017", "ocr", case.json, case.folder / "zip")
        )
        if case.is_spoilt and case.rng.random() < 0.4:
            mutations.mutate_bytes(case.folder / built.zip, case.rng)
        elif case.is_spoilt:
            mutate_entries(case.folder / built.zip, case.rng)
        argv = ["check", built.zip, "--image-info", str(case.json)]
        argv += ["--task", task] if case.is_drawn() else []
        return main([*argv, "--json", str(case.output / "report.json")])

    return run


def mutate_entries(path, rng):
    """Spoil what is in a zip: files, names, sizes, kinds of compression, twins, links."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    temporary = path.with_suffix(".json")
    if rng.random() < 0.6:
        index = rng.randrange(len(entries))
        name, content = entries[index]
        temporary.write_bytes(content)
        mutators = [mutations.mutate_bytes, mutations.replace_image]
        if name.endswith(".json"):
            mutators = [mutations.mutate_fields, mutations.mutate_text]
        rng.choice(mutators)(temporary, rng)
        entries[index] = name, temporary.read_bytes()
        temporary.unlink()
    else:
        link = zipfile.ZipInfo(f"{path.stem}/link.png")
        link.external_attr = 0o120777 << 16
        bomb = b"[" + b" " * 10_000_000 + b"]"
        names = ["../evil.png", "/etc/evil", "..\\evil", "C:\\evil", "x/../../evil.png", "é.json"]
        names += ["a\nb.png", "\x1b[31m.png", "/", ".", "x" * 60_000, "a\0b", "__MACOSX/x"]
        names = [zipfile.ZipInfo(name) for name in names]
        entries += rng.choice(
            [[(link, b"/etc/passwd")], entries, [(f"{path.stem}.json", bomb)]]
            + [[(name, b"x")] for name in names]
        )
    methods = rng.choice([[8], [0, 8, 12, 14]])
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        # That a name occurs twice is what is wanted.
        warnings.simplefilter("ignore")
        for name, content in entries:
            archive.writestr(name, content, compress_type=rng.choice(methods))


@pytest.fixture
def sweeping(config):
    main = load_tool("tools/sweep.py").main

    def run(case):
        argv = ["--config-file", config, "--predictions", case.predictions, "--num-procs", 1]
        argv += ["--panoptic-json", case.json, "--panoptic-root", case.pngs, "--overlap", 0.3, 0.6]
        case.mutate([case.results, case.instances, case.instances, case.json], case.labels)
        return main([*map(str, argv), "--json", str(case.output / "rows.json"), "--opts", *OPTIONS])

    return run


@pytest.fixture
def preparing():
    main = load_tool("datasets/prepare_coco_panoptic.py").main

    def run(case):
        case.mutate([case.json], case.pngs)
        argv = ["--panoptic-json", case.json, "--panoptic-root", case.pngs, "--num-processes", 1]
        argv += ["--semantic-root", case.output / "labels"]
        return main([*map(str, argv), "--instances-json", str(case.output / "instances.json")])

    return run


@pytest.fixture
def registering(monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    numbers = itertools.count()

    @command_line
    def register(case):
        """What a run does with a data set of its own before its first image."""
        name = f"{NAME}_{next(numbers)}"
        paths = case.photos, case.json, case.pngs
        register_coco_panoptic(name, *paths, cache_root=case.output, num_processes=1)
        assert len(DatasetCatalog.get(name)) == len(json.loads(case.json.read_bytes())["images"])
        metadata = MetadataCatalog.get(name)
        GroundTruth(metadata.panoptic_json, metadata.panoptic_root).check(1)

    def run(case):
        case.mutate([case.json], case.pngs, case.photos)
        return register(case)

    yield run
    for name in [name for name in DatasetCatalog.list() if name.startswith(f"{NAME}_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def state(folder, without):
    """What is in a folder, but for one folder below it."""
    found = {}
    for path in folder.rglob("*"):
        if path != without and without not in path.parents:
            status = path.lstat()
            size = 0 if path.is_dir() else status.st_size
            found[str(path)] = size, status.st_mtime_ns if size else 0, status.st_mode
    return found


COMMANDS = (
    *("predicting", "visualizing", "building", "checking"),
    *("sweeping", "preparing", "registering"),
)


def check(run, clean, tmp_path, capsys, seeds):
    """Give spoilt input to a command, once with each seed; return how often it worked."""
    worked = 0
    for seed in seeds:
        # Deep enough that a name which leaves the folder is still seen.
        case = Case(tmp_path / f"{seed}" / "a" / "b" / "c", clean, seed)
        before = {}
        mutate = case.mutate

        def spoil(*arguments, case=case, mutate=mutate, before=before):
            mutate(*arguments)
            before.update(state(tmp_path, case.output))

        case.mutate = spoil
        status = run(case)
        out, err = capsys.readouterr()
        assert status in (0, BAD_INPUT), seed
        assert all(map(str.isprintable, (out + err).split("\n"))), seed
        lines = err.splitlines()
        assert all(line.startswith("error: ") for line in lines), (seed, err)
        # Where each image is an answer of its own, so is each that cannot be used.
        is_by_image = run.__qualname__.startswith(("predicting", "visualizing"))
        assert bool(lines) == (status == BAD_INPUT), (seed, err)
        assert is_by_image or len(lines) <= 1, (seed, err)
        if before:
            assert state(tmp_path, case.output) == before, seed
        left = [path for path in case.output.rglob("*") if {".tmp", ".partial"} & {*path.suffixes}]
        assert not left, seed
        worked += status == 0
        shutil.rmtree(tmp_path / f"{seed}")
    return worked


@pytest.mark.parametrize("command", COMMANDS)
def test_mutated_input(request, clean, tmp_path, capsys, command):
    run = request.getfixturevalue(command)
    # What is not spoilt works.
    assert check(run, clean, tmp_path, capsys, [None]) == 1
    assert check(run, clean, tmp_path, capsys, range(8)) < 8


@pytest.mark.soak
@pytest.mark.parametrize("command", COMMANDS)
def test_much_mutated_input(request, clean, tmp_path, capsys, command):
    worked = check(request.getfixturevalue(command), clean, tmp_path, capsys, range(1000, 1200))
    # Neither is the fuzzing too tame, nor is everything refused at once.
    assert 10 <= worked <= 150
