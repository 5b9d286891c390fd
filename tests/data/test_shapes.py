import importlib.util
import itertools
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from panopticapi.evaluation import pq_compute
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as coco_mask

from ocr_panoptic.data.shapes import (
    annotations,
    register_all_shapes,
    register_shapes,
    register_shapes_instances,
    shapes_metadata,
    write_shapes,
    writer,
)
from ocr_panoptic.data.shapes.categories import LookAlikePair, look_alike_answer
from ocr_panoptic.data.shapes.difficulty import EASY, HARD
from ocr_panoptic.data.shapes.outlines import outline, rasterize
from ocr_panoptic.data.shapes.polygons import mask_to_polygons
from ocr_panoptic.data.shapes.scene import generate_scene
from ocr_panoptic.errors import InputError

_SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_shapes.py"
_SIZE, _SEED = 128, 5
_CROP = 32


def _generate(difficulty, split, count, size=_SIZE):
    return [generate_scene(difficulty, size, _SEED, split, index) for index in range(count)]


@pytest.fixture(scope="module")
def easy_train():
    return _generate(EASY, "train", 300)


@pytest.fixture(scope="module")
def easy_val():
    return _generate(EASY, "val", 300)


@pytest.fixture(scope="module")
def hard_train():
    return _generate(HARD, "train", 60, size=192)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "set"
    return write_shapes(folder, train=24, val=4, size=_SIZE, seed=_SEED, processes=1)


@pytest.fixture(scope="module")
def prepare_shapes():
    spec = importlib.util.spec_from_file_location("prepare_shapes", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def catalog():
    """Forget, after a test, the data sets that it registers."""
    before = DatasetCatalog.list()
    yield DatasetCatalog
    for name in set(DatasetCatalog.list()) - set(before):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _load(root, kind, split):
    return json.loads((root / "annotations" / f"{kind}_{split}.json").read_text())


def _panoptic_ids(root, split, annotation):
    return rgb2id(np.array(Image.open(root / f"panoptic_{split}" / annotation["file_name"])))


def _files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def _rasterize_polygons(polygons, shape):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *shape))).astype(bool)


# Files


def test_layout(root):
    names = [f"{number:012d}" for number in range(1, 5)]
    for folder, suffix in (("val", "jpg"), ("panoptic_val", "png"), ("panoptic_stuff_val", "png")):
        assert sorted(p.name for p in (root / folder).iterdir()) == [f"{n}.{suffix}" for n in names]
    assert sorted(p.name for p in (root / "annotations").iterdir()) == [
        "instances_train.json",
        "instances_val.json",
        "panoptic_train.json",
        "panoptic_val.json",
    ]
    assert [p.name for p in root.parent.iterdir()] == [root.name]


def test_same_files_from_other_number_of_processes_and_pictures(root, tmp_path):
    again = write_shapes(tmp_path / "a", train=9, val=4, size=_SIZE, seed=_SEED, processes=2)
    expected = _files(root)
    found = _files(again)
    changed = {name for name in found if found[name] != expected[name]}
    # The number of training pictures differs, and only the json files may tell.
    assert changed == {"annotations/panoptic_train.json", "annotations/instances_train.json"}
    for kind in ("panoptic", "instances"):
        few, many = (_load(r, kind, "train")["annotations"] for r in (again, root))
        assert few == many[: len(few)]


def test_same_seed_same_bytes_other_seed_other_pictures(root, tmp_path):
    same = write_shapes(tmp_path / "same", train=24, val=4, size=_SIZE, seed=_SEED)
    assert _files(same) == _files(root)
    other = write_shapes(tmp_path / "other", train=1, val=1, size=_SIZE, seed=_SEED + 1)
    pictures = [
        (r / split / "000000000001.jpg").read_bytes()
        for r in (root, other)
        for split in ("train", "val")
    ]
    assert len(set(pictures)) == 4


def test_panoptic_json_agrees_with_pngs(root):
    data = _load(root, "panoptic", "train")
    assert {image["id"] for image in data["images"]} == {a["image_id"] for a in data["annotations"]}
    assert len(data["annotations"]) == 24
    categories = {category["id"] for category in data["categories"]}
    for annotation in data["annotations"]:
        ids = _panoptic_ids(root, "train", annotation)
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert len(segments) == len(annotation["segments_info"])
        assert set(np.unique(ids)) - {0} == set(segments)
        for segment in segments.values():
            rows, columns = np.nonzero(ids == segment["id"])
            left, top = columns.min(), rows.min()
            assert segment["area"] == len(rows)
            assert segment["bbox"] == [
                left,
                top,
                columns.max() - left + 1,
                rows.max() - top + 1,
            ]
            assert segment["category_id"] in categories


def test_categories_are_sparse_and_sorted_as_in_coco():
    for difficulty in (EASY, HARD):
        ids = [category.id for category in difficulty.categories]
        assert ids == sorted(set(ids))
        assert max(c.id for c in difficulty.things) < min(c.id for c in difficulty.stuff)
        assert len(ids) < ids[-1] - ids[0]
        assert len({category.color for category in difficulty.categories}) == len(ids)
    assert (len(EASY.things), len(EASY.stuff)) == (6, 6)
    assert (len(HARD.things), len(HARD.stuff), len(HARD.pairs)) == (12, 16, 4)


def test_semantic_pngs_agree_with_panoptic(root):
    data = _load(root, "panoptic", "train")
    stuff = sorted(c["id"] for c in data["categories"] if not c["isthing"])
    label = {c["id"]: 0 for c in data["categories"]} | {s: k for k, s in enumerate(stuff, 1)}
    for annotation in data["annotations"]:
        ids = _panoptic_ids(root, "train", annotation)
        expected = np.full(ids.shape, 255)
        for segment in annotation["segments_info"]:
            expected[ids == segment["id"]] = label[segment["category_id"]]
        found = np.array(Image.open(root / "panoptic_stuff_train" / annotation["file_name"]))
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected)


def test_instances_agree_with_panoptic(root):
    panoptic = _load(root, "panoptic", "train")
    instances = _load(root, "instances", "train")
    things = {c["id"] for c in panoptic["categories"] if c["isthing"]}
    assert {c["id"] for c in instances["categories"]} == things
    ids = [annotation["id"] for annotation in instances["annotations"]]
    assert len(set(ids)) == len(ids)
    of_image = {a["image_id"]: [] for a in panoptic["annotations"]}
    for annotation in instances["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    for annotation in panoptic["annotations"]:
        png = _panoptic_ids(root, "train", annotation)
        segments = [s for s in annotation["segments_info"] if s["category_id"] in things]
        found = of_image[annotation["image_id"]]
        assert len(segments) == len(found)
        for segment, instance in zip(segments, found, strict=True):
            for key in ("category_id", "area", "bbox", "iscrowd"):
                assert segment[key] == instance[key]
            assert isinstance(instance["segmentation"], dict if instance["iscrowd"] else list)
            if not instance["iscrowd"]:
                mask = _rasterize_polygons(instance["segmentation"], png.shape)
                assert np.array_equal(mask, png == segment["id"])


def test_ground_truth_as_prediction_has_pq_100(root):
    json_file = str(root / "annotations" / "panoptic_train.json")
    folder = str(root / "panoptic_train")
    result = pq_compute(json_file, json_file, folder, folder)
    assert result["All"]["pq"] == 1.0
    assert result["All"]["n"] == 12


def test_crowds_are_run_lengths_of_the_mask(easy_train):
    crowds = 0
    for scene in easy_train:
        if not any(segment.iscrowd for segment in scene.segments):
            continue
        things = [s for s in scene.segments if EASY.category(s.category).isthing]
        records = annotations.annotate(scene, EASY, 7).instances
        for segment, record in zip(things, records, strict=True):
            if record["iscrowd"]:
                crowds += 1
                rle = coco_mask.frPyObjects(record["segmentation"], _SIZE, _SIZE)
                assert np.array_equal(coco_mask.decode(rle).astype(bool), segment.mask)
    assert crowds > 0


# Polygons


def _disc(diameter):
    y, x = np.mgrid[:40, :40] + 0.5
    return (x - 20) ** 2 + (y - 20) ** 2 <= (diameter / 2) ** 2


def _nested_rings():
    return _disc(36) & ~_disc(28) | _disc(20) & ~_disc(10) | _disc(4)


def _two_holes():
    mask = np.ones((20, 30), bool)
    mask[5:9, 4:9] = mask[3:15, 17:20] = False
    return mask


def _pixels_touching_at_corners():
    return np.indices((9, 9)).sum(axis=0) % 2 == 0


@pytest.mark.parametrize(
    "mask",
    [
        _disc(12),
        _disc(1.5),
        _disc(12) & ~_disc(5),
        _nested_rings(),
        _two_holes(),
        _pixels_touching_at_corners(),
        np.ones((5, 7), bool),
        np.eye(6, dtype=bool),
        np.random.default_rng(0).random((30, 20)) < 0.5,
    ],
    ids=[
        "disc 12 px",
        "dot",
        "ring",
        "nested",
        "holes",
        "corners",
        "whole",
        "diagonal",
        "random",
    ],
)
def test_polygons_rasterize_to_the_very_mask(mask):
    polygons = mask_to_polygons(mask)
    assert np.array_equal(_rasterize_polygons(polygons, mask.shape), mask)
    # Detectron2 and pycocotools drop polygons of fewer than three points.
    assert all(len(polygon) >= 6 for polygon in polygons)


def test_polygons_of_nothing_and_what_centres_of_pixels_would_give():
    assert mask_to_polygons(np.zeros((4, 4), bool)) == []
    mask = _disc(12)
    (contour,), _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    naive = _rasterize_polygons([contour.ravel().astype(float).tolist()], mask.shape)
    assert (naive & mask).sum() / (naive | mask).sum() < 0.9


def test_segment_ids_are_unique_with_many_objects_of_a_class():
    used = {0}
    ids = [annotations._unused_color((250, 20, 30), used) for _ in range(300)]
    assert len(set(ids)) == 300
    assert ids[0] == 250 + 256 * 20 + 65536 * 30
    assert all(0 < segment_id < 2**24 for segment_id in ids)


# Outlines


@pytest.mark.parametrize("name", [category.name for category in HARD.things])
def test_sprite_has_the_area_of_its_outline(name):
    sprite = rasterize(name, 200, (100.0, 100.0), 40.0, 0.7, 1.2)
    contours = [points.astype(np.float32) for points in outline(name)]
    areas = [cv2.contourArea(points) * 40**2 for points in contours]
    expected = areas[0] - sum(areas[1:])
    assert sprite.full_area == pytest.approx(expected, rel=1e-3)
    assert sprite.coverage.sum() == pytest.approx(expected, rel=0.04)
    assert sprite.mask.sum() == pytest.approx(expected, rel=0.04)


def test_sprite_is_cut_by_the_border_and_none_outside():
    whole = rasterize("ball", 100, (50.0, 50.0), 10.0, 0.0, 1.0)
    half = rasterize("ball", 100, (0.0, 50.0), 10.0, 0.0, 1.0)
    assert half.mask.sum() == pytest.approx(whole.mask.sum() / 2, rel=0.1)
    assert rasterize("ball", 100, (-20.0, 50.0), 10.0, 0.0, 1.0) is None


# Pictures


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_segments_are_disjoint_and_no_slivers(name, request):
    difficulty = {"easy": EASY, "hard": HARD}[name]
    for scene in request.getfixturevalue(f"{name}_train"):
        masks = np.array([segment.mask for segment in scene.segments])
        assert masks.sum(axis=0).max() == 1
        for segment in scene.segments:
            isthing = difficulty.category(segment.category).isthing
            least = difficulty.min_thing_area if isthing else difficulty.min_stuff_area
            assert segment.mask.mean() >= least
        assert scene.image.dtype == np.uint8
        assert scene.image.std() > 10


def test_every_category_border_cuts_occlusion_void_and_sizes_occur(easy_train):
    seen, cut, touching, void, areas = set(), 0, 0, 0, []
    for scene in easy_train:
        seen |= {segment.category for segment in scene.segments}
        things = [s.mask for s in scene.segments if EASY.category(s.category).isthing]
        areas += [mask.sum() for mask in things]
        cut += any(np.r_[m[0], m[-1], m[:, 0], m[:, -1]].any() for m in things)
        grown = [cv2.dilate(m.astype(np.uint8), np.ones((3, 3))) > 0 for m in things]
        touching += any((a & b).any() for a, b in itertools.combinations(grown, 2))
        void += not np.any([s.mask for s in scene.segments], axis=0).all()
    assert seen == {category.name for category in EASY.categories}
    assert cut > 0.3 * len(easy_train)
    assert touching > 0.3 * len(easy_train)
    assert 0.2 * len(easy_train) < void < len(easy_train)
    assert np.percentile(areas, 90) > 5 * np.percentile(areas, 10)


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_crowds_occur_and_at_most_one_per_class_and_picture(name, request):
    total = 0
    for scene in request.getfixturevalue(f"{name}_train"):
        crowds = [segment.category for segment in scene.segments if segment.iscrowd]
        assert len(set(crowds)) == len(crowds)
        total += len(crowds)
    assert total > 0


# Look-alikes


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_cues_decide_every_look_alike(name, request):
    difficulty = {"easy": EASY, "hard": HARD}[name]
    answers = {member: 0 for pair in difficulty.pairs for member in pair.members}
    for scene in request.getfixturevalue(f"{name}_train"):
        present = {segment.category for segment in scene.segments}
        for pair in difficulty.pairs:
            members = present & set(pair.members)
            if members:
                assert members == {look_alike_answer(pair, present - members)}
                answers[members.pop()] += 1
    assert min(answers.values()) > 0


def test_look_alike_answer_refuses_pictures_without_a_cue_or_with_both():
    pair = LookAlikePair(("lake", "ice"), ("sand", "snow"))
    assert look_alike_answer(pair, {"snow", "grass"}) == "ice"
    for present in ({"grass"}, {"sand", "snow"}):
        with pytest.raises(ValueError, match="exactly one"):
            look_alike_answer(pair, present)


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_look_alikes_share_of_stuff(name, request):
    difficulty = {"easy": EASY, "hard": HARD}[name]
    members = {member for pair in difficulty.pairs for member in pair.members}
    area = {True: 0, False: 0}
    for scene in request.getfixturevalue(f"{name}_train"):
        for segment in scene.segments:
            if not difficulty.category(segment.category).isthing:
                area[segment.category in members] += segment.mask.sum()
    share = area[True] / sum(area.values())
    assert share >= 0.15
    if name == "easy":
        assert share <= 0.25


def test_look_alikes_have_one_texture():
    for difficulty in (EASY, HARD):
        for pair in difficulty.pairs:
            first, second = (difficulty.category(member) for member in pair.members)
            assert first.texture == second.texture


def test_hard_cues_are_small_and_mostly_far(hard_train):
    distances = []
    for scene in hard_train:
        masks = {}
        for segment in scene.segments:
            masks[segment.category] = masks.get(segment.category, False) | segment.mask
        for pair in HARD.pairs:
            for member, cue in zip(pair.members, pair.cues, strict=True):
                if member in masks:
                    assert masks[cue].mean() < 0.02
                    away = cv2.distanceTransform((~masks[member]).astype(np.uint8), 2, 3)
                    distances.append(away[masks[cue]].mean() / len(scene.image))
    assert np.mean(np.array(distances) > 0.15) > 0.8


def _texture_features(crop):
    crop = crop.astype(np.float32)
    grey = crop.mean(axis=2)
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    power = np.abs(np.fft.fftshift(np.fft.fft2(grey - grey.mean()))) ** 2
    y, x = np.mgrid[-_CROP // 2 : _CROP // 2, -_CROP // 2 : _CROP // 2]
    radius = np.hypot(x, y)
    bands = [
        (radius >= low) & (radius < high) for low, high in itertools.pairwise((1, 2, 4, 7, 16))
    ]
    return np.concatenate(
        [
            crop.mean(axis=(0, 1)),
            crop.std(axis=(0, 1)),
            [gradient.mean(), gradient.std()],
            [np.log(power[band].mean() + 1) for band in bands],
        ]
    )


def _texture_crops(scenes):
    """Return the features and category of one 32x32 crop inside every stuff segment with room."""
    rng = np.random.default_rng(0)
    features, names = [], []
    for scene in scenes:
        for segment in scene.segments:
            if EASY.category(segment.category).isthing:
                continue
            inside = cv2.erode(
                segment.mask.astype(np.uint8),
                np.ones((_CROP + 1, _CROP + 1), np.uint8),
                borderType=cv2.BORDER_CONSTANT,
                borderValue=0,
            )
            places = np.argwhere(inside)
            if len(places):
                y, x = places[rng.integers(len(places))] - _CROP // 2
                features.append(_texture_features(scene.image[y : y + _CROP, x : x + _CROP]))
                names.append(segment.category)
    return np.array(features), np.array(names)


def _nearest_texture_accuracy(train, test, names):
    """Return the balanced accuracy of the nearest class mean in Mahalanobis distance."""
    (features, labels), (test_features, test_labels) = train, test
    means = np.array([features[labels == name].mean(axis=0) for name in names])
    within = np.concatenate([features[labels == name] - means[k] for k, name in enumerate(names)])
    precision = np.linalg.inv(np.cov(within.T))
    away = test_features[:, None] - means[None]
    answers = np.einsum("ncf,fg,ncg->nc", away, precision, away).argmin(axis=1)
    return np.mean([np.mean(answers[test_labels == name] == k) for k, name in enumerate(names)])


def test_texture_tells_unrelated_classes_apart_and_look_alikes_by_chance(easy_train, easy_val):
    train, test = _texture_crops(easy_train), _texture_crops(easy_val)
    unrelated = ["grass", "pavement", "sand", "snow", "lake"]
    assert _nearest_texture_accuracy(train, test, unrelated) > 0.9
    for pair in EASY.pairs:
        assert np.isin(test[1], pair.members).sum() > 100
        assert 0.4 < _nearest_texture_accuracy(train, test, list(pair.members)) < 0.6


# Detectron2


def test_loads_through_detectron2(root, catalog):
    register_shapes("shapes_test", root, "train", "easy")
    register_shapes_instances("shapes_test_things", root, "train", "easy")
    panoptic = catalog.get("shapes_test_separated")
    assert len(panoptic) == len(catalog.get("shapes_test_stuffonly")) == 24
    assert len(catalog.get("shapes_test_things")) == 24
    metadata = MetadataCatalog.get("shapes_test_separated")
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert metadata.stuff_classes[0] == "things"
    assert metadata.stuff_dataset_id_to_contiguous_id[0] == 0
    assert os.path.isdir(metadata.image_root)
    assert MetadataCatalog.get("shapes_test_things").evaluator_type == "coco"
    mapper = DatasetMapper(get_cfg(), is_train=True)
    for entry in panoptic[:4]:
        example = mapper(entry)
        assert set(example["sem_seg"].unique().tolist()) <= {*range(len(EASY.stuff) + 1), 255}
        ordinary = [a for a in entry["annotations"] if not a["iscrowd"]]
        assert len(example["instances"]) == len(ordinary)


def test_metadata_is_contiguous():
    for difficulty in (EASY, HARD):
        metadata = shapes_metadata(difficulty.name)
        for kind, first in (("thing", 0), ("stuff", 0)):
            labels = metadata[f"{kind}_dataset_id_to_contiguous_id"]
            assert sorted(labels.values()) == list(range(first, len(labels)))
            assert len(labels) == len(metadata[f"{kind}_classes"])
            assert len(labels) == len(metadata[f"{kind}_colors"])
    with pytest.raises(InputError, match="unknown"):
        shapes_metadata("medium")


def test_register_all_shapes_names(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(DatasetCatalog, "register", lambda name, loader: names.append(name))
    monkeypatch.setattr(MetadataCatalog, "get", lambda name: _AnyMetadata())
    register_all_shapes(tmp_path)
    assert sorted(names) == sorted(
        f"shapes_{difficulty}_{split}{suffix}"
        for difficulty in ("easy", "hard")
        for split in ("train", "val")
        for suffix in ("", "_panoptic_separated", "_panoptic_stuffonly")
    )


class _AnyMetadata:
    def set(self, **fields):
        return self


# Command line


def _argv(output, *extra):
    required = ["--output", str(output), "--train", "2", "--val", "1", "--size", "96"]
    return [*required, "--seed", "0", *extra]


def test_command_writes_hard(prepare_shapes, tmp_path, capsys):
    assert prepare_shapes.main(_argv(tmp_path / "set", "--difficulty", "hard")) == 0
    assert "2 training and 1 validation" in capsys.readouterr().out
    categories = _load(tmp_path / "set", "panoptic", "val")["categories"]
    assert categories == [category.to_json() for category in HARD.categories]


def test_command_accepts_an_empty_folder_and_a_link_to_one(prepare_shapes, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert prepare_shapes.main(_argv(tmp_path / "link")) == 0
    assert (tmp_path / "empty" / "annotations" / "panoptic_val.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "link"}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--size", "95"], "--size 95: expected 96 to 2048 pixels"),
        (["--size", "4000"], "--size 4000: expected 96 to 2048 pixels"),
        (["--train", "-1"], "--train -1: expected 1 picture or more"),
        (["--val", "0"], "--val 0: expected 1 picture or more"),
        (["--seed", "-3"], "--seed -3: expected 0 or more"),
        (["--difficulty", "medium"], "--difficulty medium: unknown, expected easy or hard"),
        (["--train", "many"], "argument --train: invalid int value: 'many'"),
    ],
)
def test_command_refuses_bad_arguments(prepare_shapes, tmp_path, capsys, extra, message):
    assert prepare_shapes.main(_argv(tmp_path / "set", *extra)) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not list(tmp_path.iterdir())


def test_command_refuses_outputs_it_cannot_make(prepare_shapes, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for output, message in (
        (tmp_path, "exists, expected a new or empty folder"),
        (file, "exists, expected a new or empty folder"),
        (file / "set", "Not a directory"),
    ):
        assert prepare_shapes.main(_argv(output)) == 2
        assert capsys.readouterr().err == f"error: --output {output}: {message}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_of_an_interrupted_run(tmp_path, monkeypatch, error):
    done = []

    def generate_one(*args):
        if done:
            raise error
        done.append(generate_scene(*args))
        return done[0]

    monkeypatch.setattr(writer, "generate_scene", generate_one)
    expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_shapes(tmp_path / "set", train=3, val=1, size=96, seed=0)
    assert len(done) == 1
    assert not list(tmp_path.iterdir())


def test_processes_must_be_positive(tmp_path):
    with pytest.raises(InputError, match="processes 0"):
        write_shapes(tmp_path / "set", train=1, val=1, size=96, seed=0, processes=0)
