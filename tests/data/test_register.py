"""One panoptic json in: metadata, derived data, its cache, and every kind of image."""

import json
import os
import random
import re
import shutil
import tempfile
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.detection_utils import read_image
from panopticapi.utils import id2rgb
from PIL import Image

from ocr_panoptic.data import derived, register_coco_panoptic
from ocr_panoptic.data.checks import check_dataset_files
from ocr_panoptic.data.register import (
    NO_THINGS,
    derive_dataset,
    is_registered,
    panoptic_metadata,
    panoptic_names,
)
from ocr_panoptic.errors import InputError

from ..panoptic_sets import STUFF, THINGS, PanopticSet

NAME = "register_test"


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """No cache of the user's, and no data set left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users_cache"))
    monkeypatch.delenv(derived.CACHE_VARIABLE, raising=False)
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def register(data, name=NAME, **more):
    register_coco_panoptic(name, *data.arguments, num_processes=1, **more)
    return MetadataCatalog.get(name)


def error_of(data, **more):
    """Return the one-line error of a refused data set, which leaves nothing half-made."""
    with pytest.raises(InputError) as caught:
        register(data, **more)
    message = str(caught.value)
    assert "\n" not in message
    assert [path.name for path in data.json.parent.iterdir()] == [data.json.name]
    return message


def caches(data):
    return sorted(path for path in data.json.parent.iterdir() if path != data.json)


def test_metadata_of_sparse_ids(tmp_path):
    metadata = register(PanopticSet(tmp_path))
    assert metadata.thing_classes == ["dog", "cat"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.stuff_classes == ["things", "grass", "sky"]
    # The id 0, that of the merged things in COCO, is taken.
    assert metadata.stuff_dataset_id_to_contiguous_id == {91: 0, 0: 1, 90: 2}
    assert metadata.thing_colors[0] == [200, 100, 0]
    assert metadata.stuff_colors[2] == [1, 2, 3]
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert metadata.ignore_label == 255


def test_colours_are_fixed_and_differ():
    categories = [{"id": i, "name": str(i), "isthing": i % 2} for i in range(150)]
    metadata = panoptic_metadata(categories)
    colors = [*metadata["thing_colors"], *metadata["stuff_colors"][1:]]
    assert len({tuple(color) for color in colors}) == 150
    assert all(0 <= channel <= 255 for color in colors for channel in color)
    assert panoptic_metadata(list(reversed(categories))) == metadata


@pytest.mark.parametrize("color", [[1, 2], "red", [0, 0, 256], [0.5, 0, 0], [True, 0, 0]])
def test_a_colour_that_is_none(color):
    categories = [{"id": 4, "name": "x", "isthing": 1, "color": color}]
    with pytest.raises(InputError, match=r"set\.json: category id 4: 'color' is .*; expected \["):
        panoptic_metadata(categories, "set.json")


def test_no_categories():
    with pytest.raises(InputError, match=r"set\.json: 'categories' is empty"):
        panoptic_metadata([], "set.json")


def test_what_is_loaded_is_the_ground_truth(tmp_path):
    data = PanopticSet(tmp_path)
    register(data)
    check_dataset_files(NAME)
    dicts = DatasetCatalog.get(NAME)
    assert [Path(row["file_name"]).name for row in dicts] == ["a.jpg", "b.jpg"]
    contiguous_things, stuff_labels = {3: 0, 7: 1}, {0: 1, 90: 2}
    for row, annotation in zip(dicts, data.data["annotations"], strict=True):
        ids = data.id_maps[annotation["file_name"]]
        assert row["image_id"] == annotation["image_id"]
        label = read_image(row["sem_seg_file_name"], "L")[:, :, 0]
        category = {s["id"]: s["category_id"] for s in annotation["segments_info"]}
        for segment_id in np.unique(ids):
            expected = 255 if segment_id == 0 else stuff_labels.get(category[segment_id], 0)
            assert (label[ids == segment_id] == expected).all()
        things = [c for c in category.values() if c in contiguous_things]
        found = [instance["category_id"] for instance in row["annotations"]]
        assert found == [contiguous_things[c] for c in things]


def test_every_task_has_its_name(tmp_path):
    data = PanopticSet(tmp_path, names=["a.jpg", "deep/b.PNG"])
    # Of another split, in the same folder.
    data.write_image("other.jpg", np.zeros((4, 4, 3), np.uint8))
    register(data)
    kinds = {name: MetadataCatalog.get(name).evaluator_type for name in panoptic_names(NAME)}
    assert kinds == {
        NAME: "coco_panoptic_seg",
        f"{NAME}_instances": "coco",
        f"{NAME}_stuffonly": "sem_seg",
    }
    for name in kinds:
        check_dataset_files(name)
        assert len(DatasetCatalog.get(name)) == 2
    assert "sem_seg_file_name" not in DatasetCatalog.get(f"{NAME}_instances")[0]
    assert "annotations" not in DatasetCatalog.get(f"{NAME}_stuffonly")[0]


def test_without_things(tmp_path):
    metadata = register(PanopticSet(tmp_path, STUFF))
    assert metadata.thing_classes == [NO_THINGS]
    assert metadata.stuff_classes == ["things", "grass", "sky"]
    ids = metadata.thing_dataset_id_to_contiguous_id
    assert list(ids.values()) == [0]
    assert not ids.keys() & metadata.stuff_dataset_id_to_contiguous_id.keys()
    assert not is_registered(f"{NAME}_instances")
    # Detectron2 counts instances by class here; it cannot with no class.
    rows = get_detection_dataset_dicts([NAME], filter_empty=False)
    assert [row["annotations"] for row in rows] == [[], []]


def test_without_stuff(tmp_path):
    metadata = register(PanopticSet(tmp_path, THINGS))
    assert metadata.stuff_classes == ["things"]
    assert metadata.stuff_dataset_id_to_contiguous_id == {0: 0}
    label = read_image(DatasetCatalog.get(NAME)[0]["sem_seg_file_name"], "L")
    assert set(np.unique(label)) == {0, 255}


def test_the_panoptic_json_gets_what_panopticapi_needs(tmp_path):
    data = PanopticSet(tmp_path)
    segments = data.data["annotations"][0]["segments_info"]
    segments[0]["area"], segments[1]["area"] = 768, 9
    segments[1]["iscrowd"] = 1
    segments.reverse()
    data.save()
    metadata = register(data)
    (completed, _) = json.loads(Path(metadata.panoptic_json).read_text())["annotations"]
    # In the order of the json: panopticapi remembers the last crowd of a class.
    assert [row["id"] for row in completed["segments_info"]] == [900, 600, 300]
    assert [row["area"] for row in completed["segments_info"]] == [768, 768, 768]
    assert [row["iscrowd"] for row in completed["segments_info"]] == [0, 1, 0]
    assert derive_dataset(NAME).num_wrong_areas == 1


# What a photo may be; sub-folders, upper-case suffixes.
KINDS = {
    "RGB.jpg": lambda image: image,
    "deep/er/x.PNG": lambda image: image,
    "L.JPG": lambda image: image.convert("L"),
    "P.png": lambda image: image.convert("P"),
    "1.png": lambda image: image.convert("1"),
    "LA.png": lambda image: image.convert("LA"),
    "RGBA.png": lambda image: image.convert("RGBA"),
    "CMYK.jpeg": lambda image: image.convert("CMYK"),
    "dot.ted.bmp": lambda image: image,
    "x.tif": lambda image: image,
}


def test_every_kind_of_image_is_there(tmp_path):
    data = PanopticSet(tmp_path, names=list(KINDS))
    for name, convert in KINDS.items():
        path = data.image_root / name
        with Image.open(path) as image:
            converted = convert(image.copy())
        converted.save(path)
    register(data)
    check_dataset_files(NAME)
    dicts = DatasetCatalog.get(NAME)
    assert [str(Path(d["file_name"]).relative_to(data.image_root)) for d in dicts] == list(KINDS)
    for row in dicts:
        assert read_image(row["file_name"], "BGR").shape == (48, 64, 3)
        assert read_image(row["sem_seg_file_name"], "L").shape == (48, 64, 1)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_of_more_than_8_bits_are_refused(tmp_path, mode):
    data = PanopticSet(tmp_path, names=["a.tif", "b.jpg"])
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    Image.fromarray(np.full((48, 64), 700, dtype)).save(data.image_root / "a.tif")
    assert error_of(data).startswith(
        f"{data.image_root / 'a.tif'}: image of Pillow's mode {mode}; expected 8 bits per channel"
    )


def save_turned(path, size, orientation):
    image = Image.new("RGB", size)
    exif = image.getexif()
    exif[274] = orientation
    image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_turned_image(tmp_path, orientation):
    stored = (64, 48) if orientation < 5 else (48, 64)
    data = PanopticSet(tmp_path)
    path = data.image_root / "a.jpg"
    save_turned(path, stored, orientation)
    register(data)
    # As Detectron2 reads it.
    assert read_image(path, "RGB").shape == (48, 64, 3)
    save_turned(path, stored[::-1], orientation)
    turned = f", turned as its EXIF orientation {orientation} says" if orientation > 4 else ""
    with pytest.raises(InputError) as caught:
        register(data)
    assert str(caught.value) == (
        f"{path}: image of 48x64 pixels{turned}; expected 64x48, as its annotation says"
    )


def test_an_image_that_is_none(tmp_path):
    data = PanopticSet(tmp_path)
    (data.image_root / "b.jpg").write_text("no image")
    assert error_of(data).startswith(f"{data.image_root / 'b.jpg'}: no image (cannot identify")


@pytest.mark.parametrize(
    ("root", "name", "kind"),
    [("image_root", "a.jpg", "image"), ("panoptic_root", "b.png", "panoptic PNG")],
)
def test_missing_files(tmp_path, root, name, kind):
    data = PanopticSet(tmp_path)
    path = getattr(data, root) / name
    path.unlink()
    path.mkdir()  # not a file either
    assert error_of(data) == f"{path}: missing; expected each {kind} that the json names"
    shutil.rmtree(getattr(data, root))
    assert error_of(data) == (
        f"{getattr(data, root)}: No such file or directory; expected the folder of a {kind}"
    )


def test_names_that_cannot_be(tmp_path):
    data = PanopticSet(tmp_path)
    for name in ("../up", "", "-a", "a/b", "a b", 3, ".", "a\n"):
        assert "expected letters, digits" in error_of(data, name=name)
    message = error_of(data, name="coco_2017_val_panoptic_separated")
    assert "is the name of another data set" in message
    register(data, "register_test_x")
    with pytest.raises(InputError, match="is the name of another data set"):
        register(data, "register_test_x_stuffonly")
    assert is_registered("register_test_x_instances")


def test_registering_again_replaces(tmp_path):
    data = PanopticSet(tmp_path)
    register(data)
    other = PanopticSet(tmp_path / "other", STUFF, names=["c.png"])
    metadata = register(other)
    assert metadata.thing_classes == [NO_THINGS]
    assert len(DatasetCatalog.get(NAME)) == 1
    assert f"{NAME}_instances" not in DatasetCatalog.list()
    # Somebody else took it away.
    DatasetCatalog.remove(NAME)
    assert not is_registered(NAME)
    register(data)
    assert len(DatasetCatalog.get(NAME)) == 2


def test_what_was_derived_is_found_again(tmp_path, monkeypatch):
    data = PanopticSet(tmp_path)
    register(data)
    (folder,) = caches(data)
    assert re.fullmatch(r"panoptic\.derived-[0-9a-f]{16}", folder.name)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("instances.json", "panoptic.json", "semantic", "summary.json")
    ]

    def fail(*args, **kwargs):
        raise AssertionError("derived again")

    monkeypatch.setattr(derived, "prepare_coco_panoptic", fail)
    register(data)
    assert not derive_dataset(NAME).is_new
    # Moved with its times of change, it is found too.
    shutil.copytree(tmp_path, tmp_path.parent / "moved", copy_function=shutil.copy2)
    moved = PanopticSet.__new__(PanopticSet)
    moved.image_root = tmp_path.parent / "moved" / "images"
    moved.panoptic_root = tmp_path.parent / "moved" / "pngs"
    moved.json = tmp_path.parent / "moved" / "truth" / "panoptic.json"
    metadata = register(moved)
    assert Path(metadata.json_file).is_relative_to(tmp_path.parent / "moved")
    shutil.rmtree(tmp_path.parent / "moved")


@pytest.mark.parametrize("change", ["json", "png", "png time", "image"])
def test_a_change_is_seen(tmp_path, change):
    data = PanopticSet(tmp_path)
    register(data)
    png = data.panoptic_root / "a.png"
    if change == "json":
        data.data["annotations"][0]["segments_info"][0]["category_id"] = 3
        data.json.write_text(json.dumps(data.data))
    elif change == "png":
        ids = data.id_maps["a.png"].copy()
        ids[:3] = 600
        Image.fromarray(id2rgb(ids)).save(png, compress_level=0)
    elif change == "png time":
        os.utime(png, ns=(0, png.stat().st_mtime_ns + 1))
    else:
        data.write_image("a.jpg", np.zeros((48, 64, 3), np.uint8))
    register(data)
    assert derive_dataset(NAME).is_new
    # The older one may be in use by a run.
    assert len(caches(data)) == 2
    if change == "png":
        label = read_image(DatasetCatalog.get(NAME)[0]["sem_seg_file_name"], "L")
        category = data.data["annotations"][0]["segments_info"][1]["category_id"]
        assert (label[:3] == {0: 1, 90: 2}.get(category, 0)).all()


def test_a_json_that_was_only_touched_is_no_change(tmp_path):
    data = PanopticSet(tmp_path)
    register(data)
    os.utime(data.json, ns=(0, 0))
    register(data)
    assert not derive_dataset(NAME).is_new


def test_where_it_is_kept(tmp_path, monkeypatch):
    data = PanopticSet(tmp_path / "data")
    register(data, cache_root=tmp_path / "given")
    assert len(list((tmp_path / "given").iterdir())) == 1
    monkeypatch.setenv(derived.CACHE_VARIABLE, str(tmp_path / "variable"))
    register(data)
    assert len(list((tmp_path / "variable").iterdir())) == 1
    assert caches(data) == []


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    data = PanopticSet(tmp_path)
    require_folder = derived.require_folder

    def read_only(path, name):
        if Path(path) == data.json.parent:
            raise InputError(f"{path}: Read-only file system")
        require_folder(path, name)

    monkeypatch.setattr(derived, "require_folder", read_only)
    metadata = register(data)
    assert Path(metadata.json_file).is_relative_to(tmp_path / "users_cache/ocr_panoptic")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"folder for derived data \(DATASETS\.CACHE or \$OCR"):
        register(data, cache_root=tmp_path / "file")


def test_what_lies_beside_read_only_data_is_used(tmp_path, monkeypatch):
    data = PanopticSet(tmp_path)
    register(data)

    def read_only(path, name):
        raise InputError(f"{path}: Read-only file system")

    monkeypatch.setattr(derived, "require_folder", read_only)
    register(data)
    assert not derive_dataset(NAME).is_new


def test_processes_that_start_at_once_do_not_collide(tmp_path, monkeypatch):
    data = PanopticSet(tmp_path)
    source = derived.PanopticSource(*data.arguments)
    # As between hosts, where no lock holds: both build.
    monkeypatch.setattr(derived, "file_lock", lambda path: (_ for _ in ()).throw(OSError()))
    prepare, both = derived.prepare_coco_panoptic, threading.Barrier(2, timeout=60)

    def together(*args, **kwargs):
        both.wait()
        made = prepare(*args, **kwargs)
        both.wait()
        return made

    monkeypatch.setattr(derived, "prepare_coco_panoptic", together)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(derived.derive(source, 1))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0].folder == results[1].folder
    assert caches(data) == [results[0].folder]


def test_one_waits_for_the_other(tmp_path, monkeypatch):
    data = PanopticSet(tmp_path)
    source = derived.PanopticSource(*data.arguments)
    prepare, calls, inside = derived.prepare_coco_panoptic, [], threading.Event()

    def slow(*args, **kwargs):
        calls.append(args)
        inside.set()
        return prepare(*args, **kwargs)

    monkeypatch.setattr(derived, "prepare_coco_panoptic", slow)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(derived.derive(source, 1))) for _ in range(2)
    ]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert len(calls) == 1
    # The lock is gone too.
    fingerprint = results[0].folder.name.rpartition("-")[2]
    assert not list(Path(tempfile.gettempdir()).glob(f"*{fingerprint}*"))


def test_a_change_while_it_is_read(tmp_path, monkeypatch):
    data = PanopticSet(tmp_path)
    prepare = derived.prepare_coco_panoptic

    def changing(*args, **kwargs):
        made = prepare(*args, **kwargs)
        os.utime(data.panoptic_root / "a.png", ns=(0, 0))
        return made

    monkeypatch.setattr(derived, "prepare_coco_panoptic", changing)
    assert "was changed while it was read; expected files at rest" in error_of(data)


def test_a_process_that_was_ended(tmp_path, monkeypatch):
    data = PanopticSet(tmp_path)

    def broken(*args, **kwargs):
        raise BrokenProcessPool

    monkeypatch.setattr(derived, "prepare_coco_panoptic", broken)
    assert "expected fewer processes, or the call under 'if __name__ ==" in error_of(data)


def test_a_full_disk_and_an_interrupt_leave_nothing(tmp_path, monkeypatch):
    data = PanopticSet(tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(derived, "write_text", full)
    assert "No space left on device; expected to write what is derived" in error_of(data)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(derived, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        register(data)
    assert caches(data) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"num_images": 1}'])
def test_a_spoilt_summary(tmp_path, content):
    data = PanopticSet(tmp_path)
    register(data)
    (folder,) = caches(data)
    (folder / "summary.json").write_text(content)
    with pytest.raises(InputError) as caught:
        register(data)
    assert str(caught.value).startswith(f"{folder}: its summary.json was changed (")


def test_an_incomplete_folder_of_the_name_is_named(tmp_path):
    data = PanopticSet(tmp_path)
    register(data)
    (folder,) = caches(data)
    (folder / "summary.json").unlink()
    with pytest.raises(InputError, match="Directory not empty; expected to write what is derived"):
        register(data)
    assert caches(data) == [folder]


VALUES = [
    *(None, True, 0, -1, 1.5, 10**30, float("nan"), "", "x", "../x", "/x", "a\0b", "\ud800", "a/b"),
    *("x" * 300, [], {}, [1], {"id": 1}, [[]], "a.jpg/b.jpg"),
]


def mutate(value, rng):
    """Return a json value with one thing in it replaced, removed or doubled."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        copy = dict(value) if isinstance(value, dict) else list(value)
        action = rng.random()
        if action < 0.75:
            copy[key] = mutate(copy[key], rng)
        elif action < 0.9:
            del copy[key]
        elif isinstance(copy, list):
            copy.append(copy[key])
        return copy
    return rng.choice(VALUES)


def spoil(path, rng):
    """Damage a file."""
    content = path.read_bytes()
    place = rng.randrange(len(content))
    kind = rng.randrange(4)
    if kind == 0:
        path.write_bytes(content[:place])
    elif kind == 1:
        path.write_bytes(content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :])
    elif kind == 2:
        size = rng.choice([(64, 48), (48, 64)])
        image = Image.new(rng.choice(["RGB", "L", "P", "RGBA", "I;16"]), size)
        image.save(path, format="PNG")
    else:
        ids = np.random.default_rng(place).choice([0, 300, 600, 5], (48, 64))
        Image.fromarray(id2rgb(ids)).save(path)


@pytest.mark.parametrize("seed", range(10))
def test_no_mistake_has_a_traceback(tmp_path, seed):
    rng = random.Random(seed)
    taken = 0
    for number in range(25):
        data = PanopticSet(tmp_path / str(number))
        if number % 3 == 0:
            spoil(rng.choice(sorted(data.panoptic_root.iterdir())), rng)
        elif number % 3 == 1:
            spoil(rng.choice(sorted(data.image_root.iterdir())), rng)
        else:
            data.json.write_text(json.dumps(mutate(data.data, rng)))
        message = None
        try:
            register(data)
        except InputError as error:
            message = str(error)
        if message is None:
            # What was taken can be loaded.
            check_dataset_files(NAME)
            assert all(Path(d["sem_seg_file_name"]).is_file() for d in DatasetCatalog.get(NAME))
            taken += 1
        else:
            assert message.isprintable()
            assert caches(data) == []
    # Most damage is seen.
    assert taken < 20
    assert not list(tmp_path.rglob("*.partial-*"))
