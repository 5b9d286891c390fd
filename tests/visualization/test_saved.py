"""Pictures of saved results: their colours, their PQ, and what is said of files that are wrong."""

import contextlib
import copy
import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image

from ocr_panoptic.errors import InputError
from ocr_panoptic.visualization import saved_pictures
from ocr_panoptic.visualization.saved import SavedFiles, Style, draw_saved
from ocr_panoptic.visualization.saved_jobs import list_jobs
from ocr_panoptic.visualization.saved_json import (
    Category,
    class_metadata,
    list_categories,
    load_categories,
    load_saved,
)

from ..panoptic_sets import SPARSE, PanopticSet

MARGIN, TOP = 28, 104


@pytest.fixture
def truth(tmp_path):
    return PanopticSet(tmp_path / "truth")


@pytest.fixture
def results(tmp_path, truth):
    """Return predictions as in COCO's result format: without images and categories."""
    data = PanopticSet(tmp_path / "results")
    del data.data["images"], data.data["categories"]
    # The cat is a dog, and half of the sky is void.
    first, second = data.data["annotations"]
    first["segments_info"][0]["category_id"] = 3
    second["segments_info"][2]["score"] = 0.75
    data.id_maps["b.png"][24:36, :32] = 0
    data.save()
    return data


def files_of(data, truth=None, **others):
    if truth is not None:
        others |= {"ground_truth_json": truth.json, "ground_truth_root": truth.panoptic_root}
    return SavedFiles(data.json, data.panoptic_root, (truth or data).image_root, **others)


def draw(data, output, truth=None, style=None, files=None, **options):
    return list(draw_saved(files or files_of(data, truth), output, style, **options))


def panels(path, width=64, height=48):
    """Return the panels of a picture, at the size of the image, which is a divisor of theirs."""
    page = np.asarray(Image.open(path))
    scale = 480 / max(width, height)
    w, h = round(width * scale), round(height * scale)
    count = (page.shape[1] - 2 * MARGIN + 24) // (w + 24)
    starts = [MARGIN + index * (w + 24) for index in range(count)]
    return [page[TOP : TOP + h, start : start + w] for start in starts]


def middle(panel, row, column):
    """Return the colour in the middle of a quarter of a panel."""
    h, w = panel.shape[:2]
    return panel[h // 4 + row * h // 2, w // 4 + column * w // 2].tolist()


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_picture_shows_input_truth_and_prediction(truth, results, tmp_path):
    paths = draw(results, tmp_path / "out", truth, Style(alpha=1, text=False))
    assert paths == [tmp_path / "out" / "a.png", tmp_path / "out" / "b.png"]
    colors = {category.id: list(category.color) for category in load_saved(truth.json).categories}
    image, expected, predicted = panels(paths[0])
    photo = np.asarray(Image.open(truth.image_root / "a.jpg"))
    # Enlarged 7.5 times: smooth, so compared by what is large.
    assert abs(image.mean() - photo.mean()) < 2
    assert middle(expected, 0, 0) == colors[7]
    assert middle(predicted, 0, 0) == colors[3]
    # Stuff has exactly the colour of its class in both.
    assert middle(expected, 0, 1) == middle(predicted, 0, 1) == colors[0]
    # The json's own colour.
    assert middle(expected, 1, 0) == colors[3] == [200, 100, 0]
    assert middle(panels(paths[1])[1], 1, 0) == [1, 2, 3]


def test_void_is_grey_and_without_ground_truth_there_are_two_panels(truth, tmp_path):
    (path, _) = draw(truth, tmp_path / "out", style=Style(alpha=1, text=False))
    image, segments = panels(path)
    assert image.shape == segments.shape == (360, 480, 3)
    void = segments[190:350, 250:470].astype(int)
    assert (void.max(axis=2) == void.min(axis=2)).all()
    assert not (image.max(axis=2) == image.min(axis=2)).all()


def test_the_classes_of_both_are_listed(truth, results, tmp_path, monkeypatch):
    legends = []
    drawn = saved_pictures.draw_page

    def page(*args, legend, **options):
        legends.append(dict(legend))
        without = drawn(*args, **options)
        picture = drawn(*args, legend=legend, **options)
        # Below the panels, in the colours of the classes.
        assert picture.shape[0] > without.shape[0]
        below = {tuple(color) for color in picture[-60:].reshape(-1, 3).tolist()}
        assert below >= {color for _, color in legend}
        return picture

    monkeypatch.setattr(saved_pictures, "draw_page", page)
    draw(results, tmp_path / "out", truth)
    assert [list(names) for names in legends] == [["dog", "cat", "grass"], ["dog", "grass", "sky"]]
    assert legends[1]["sky"] == (1, 2, 3)


def test_pq_is_panopticapis(truth, results, tmp_path):
    """Of each image, of each class in it, and of all images together."""
    for annotation in results.data["annotations"]:
        for segment in annotation["segments_info"]:
            segment["iscrowd"] = 0
    data = copy.deepcopy(truth.data)
    for annotation in data["annotations"]:
        ids = truth.id_maps[annotation["file_name"]]
        for segment in annotation["segments_info"]:
            segment.update(area=int((ids == segment["id"]).sum()), iscrowd=0)
    by_id = {row["id"]: row for row in SPARSE}
    pairs = list(zip(data["annotations"], results.data["annotations"], strict=True))
    expected = []
    for chosen in (pairs[:1], pairs[1:], pairs):
        with contextlib.redirect_stdout(io.StringIO()):
            stat = pq_compute_single_core(
                0, copy.deepcopy(chosen), truth.panoptic_root, results.panoptic_root, by_id
            )
        expected.append(100 * stat.pq_average(by_id, None)[0]["pq"])
    assert 0 < expected[2] < expected[0] < expected[1] < 100
    # Panopticapi would believe these.
    truth.data["annotations"][0]["segments_info"][0]["area"] = 10**6
    truth.save()
    draw(results, tmp_path / "out", truth, Style(gallery=True))
    page = (tmp_path / "out" / "index.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [row["pq"] for row in data["images"]] == [round(value, 1) for value in expected[:2]]
    assert f"<dd>{expected[2]:.1f}</dd>" in page
    names = [name for name, _ in data["classes"]]
    first = {names[index]: value for index, value in data["images"][0]["classes"]}
    assert first == {"dog": pytest.approx(100 / 1.5, abs=0.06), "cat": 0, "grass": 100}


def test_a_missed_segment_without_pixels_counts_and_a_predicted_one_does_not(truth, tmp_path):
    """A json may name segments whose pixels are covered; panopticapi stops at predicted ones."""
    results = PanopticSet(tmp_path / "results")
    ghost = {"id": 77, "category_id": 90}
    results.data["annotations"][0]["segments_info"].append(ghost)
    results.save()
    draw(results, tmp_path / "one", truth, Style(gallery=True))
    assert '"pq": 100.0' in (tmp_path / "one" / "index.html").read_text()
    truth.data["annotations"][0]["segments_info"].append(ghost)
    truth.save()
    draw(results, tmp_path / "two", truth, Style(gallery=True))
    assert '"pq": 75.0' in (tmp_path / "two" / "index.html").read_text()


def test_nothing_to_count_has_no_pq(truth, tmp_path):
    for annotation in truth.data["annotations"]:
        annotation["segments_info"] = []
    truth.id_maps = {name: np.zeros_like(ids) for name, ids in truth.id_maps.items()}
    truth.save()
    assert len(draw(truth, tmp_path / "out", truth, Style(gallery=True))) == 3
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('"pq": null') == 2
    assert "PQ of these images" not in page


def test_instances_differ_in_shade_and_stuff_does_not(tmp_path):
    data = PanopticSet(tmp_path / "set", names=("a.jpg",))
    (annotation,) = data.data["annotations"]
    for category, differ in ((7, True), (0, False)):
        for segment in annotation["segments_info"]:
            segment["category_id"] = category
        data.save()
        (path,) = draw(data, tmp_path / f"out{category}", style=Style(alpha=1, text=False))
        _, panel = panels(path)
        colors = {tuple(middle(panel, *place)) for place in ((0, 0), (0, 1), (1, 0))}
        assert len(colors) == (3 if differ else 1)


def test_a_crowd_is_striped(truth, tmp_path):
    truth.data["annotations"][0]["segments_info"][0]["iscrowd"] = 1
    truth.save()
    path = draw(truth, tmp_path / "out", style=Style(alpha=1, text=False))[0]
    image, panel = (panel[20:160, 20:220] for panel in panels(path))
    colors = load_saved(truth.json).categories
    (cat,) = (category.color for category in colors if category.id == 7)
    filled = (panel == cat).all(axis=2)
    seen = (panel == image).all(axis=2)
    assert 0.4 < filled.mean() < 0.6
    assert (filled | seen).all()


def test_text_and_alpha(truth, tmp_path):
    plain, named, faint = (
        draw(truth, tmp_path / f"{index}", style=style)[0].read_bytes()
        for index, style in enumerate((Style(text=False), Style(), Style(alpha=0.1, text=False)))
    )
    assert len({plain, named, faint}) == 3
    path = draw(truth, tmp_path / "none", style=Style(alpha=0, text=False))[0]
    image, segments = panels(path)
    assert middle(image, 0, 0) == middle(segments, 0, 0)


def test_the_same_bytes_with_any_number_of_processes(truth, results, tmp_path):
    runs = []
    for index, num_processes in enumerate((1, 1, 2)):
        output = tmp_path / f"{index}"
        style = Style(gallery=True)
        paths = draw(results, output, truth, style, num_processes=num_processes)
        assert [path.name for path in paths] == ["a.png", "b.png", "index.html"]
        runs.append(content(output))
    assert runs[0] == runs[1] == runs[2]
    assert len(runs[0]) == 2 + 1 + 6


def test_a_limit(truth, tmp_path):
    assert [path.name for path in draw(truth, tmp_path / "out", limit=1)] == ["a.png"]


def test_large_images_are_reduced_and_small_ones_enlarged(tmp_path):
    names = ("a.png", "b.png", "c.png")
    data = PanopticSet(tmp_path / "set", names=names)
    sizes = ((4, 3), (700, 500), (3000, 6))
    for name, (width, height) in zip(names, sizes, strict=True):
        data.write_image(name, np.zeros((height, width, 3), np.uint8))
        data.id_maps[name] = np.full((height, width), 300)
    for annotation in data.data["annotations"]:
        del annotation["segments_info"][1:]
    data.save()
    draw(data, tmp_path / "out", style=Style(gallery=True))
    folder = tmp_path / "out" / "index_files"
    shown = [Image.open(folder / f"{name[0]}.panoptic.jpg").size for name in names]
    assert shown == [(480, 360), (700, 500), (2048, 4)]


# Names of classes.


def test_classes_without_categories(results, truth, tmp_path, caplog):
    for row in truth.data["categories"]:
        row["name"] = f"{row['name']} of the truth"
    truth.save()
    named = tmp_path / "named.json"
    named.write_text(json.dumps([{"id": 7, "name": "tiger", "isthing": 1}]))
    files = files_of(results, truth, categories=named)
    for chosen, expected in (
        (files_of(results, truth), {"dog of the truth", "cat of the truth", "grass of the truth"}),
        (files, {"tiger", "id 3", "id 0"}),
    ):
        draw(results, tmp_path / "out", files=chosen, style=Style(gallery=True), limit=1)
        page = (tmp_path / "out" / "index.html").read_text()
        data = json.loads(page.split('id="data">')[1].split("</script>")[0])
        assert {name for name, _ in data["classes"]} == expected
    assert not caplog.records
    alone = SavedFiles(results.json, results.panoptic_root, truth.image_root)
    with caplog.at_level(logging.WARNING):
        assert len(draw(results, tmp_path / "out", files=alone)) == 2
    assert "no 'categories', classes are named by their ids; see --categories" in caplog.text


def test_names_that_the_font_cannot_write_are_ids_in_pictures(tmp_path, recwarn):
    names = ["Straße", "кошка", "猫", "🐈 cat", "two\nlines", "$x^", "\u200b", "\ud800"]
    rows = [{"id": i, "name": name, "isthing": 1} for i, name in enumerate(names)]
    path = tmp_path / "names.json"
    path.write_text(json.dumps(rows))
    categories = load_categories(path)
    assert [category.name for category in categories] == names
    labels = [category.label for category in categories]
    assert labels == ["Straße", "кошка", "id 2", "id 3", "two lines", "$x^", "id 6", "id 7"]
    data = PanopticSet(tmp_path / "set", categories=rows, names=("ä ö.jpg", "猫#%.jpg"))
    outputs = draw(data, tmp_path / "out", style=Style(gallery=True))
    assert [path.name for path in outputs] == ["ä ö.png", "猫#%.png", "index.html"]
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_coco_has_detectron2s_colors(tmp_path):
    path = tmp_path / "coco.json"
    rows = [{key: row[key] for key in ("id", "name", "isthing")} for row in COCO_CATEGORIES]
    rows[0]["name"] = "human"
    path.write_text(json.dumps({"categories": rows}))
    colors = [list(category.color) for category in load_categories(path)]
    assert colors[1:] == [row["color"] for row in COCO_CATEGORIES[1:]]
    assert colors[0] != COCO_CATEGORIES[0]["color"]


def test_unknown_categories_come_last_and_have_names():
    known = [
        Category(5, "sky", "sky", False, (1, 1, 1)),
        Category(2, "cat", "cat", True, (2, 2, 2)),
    ]
    segments = [{"category_id": 9}, {"category_id": 2}, {"category_id": -4}, {}, 7]
    rows = list_categories(known, [{"segments_info": segments}, {}, {"segments_info": None}])
    assert [(row.id, row.name) for row in rows] == [
        *((2, "cat"), (5, "sky")),
        *((-4, "id -4"), (9, "id 9")),
    ]
    metadata = class_metadata(rows)
    assert metadata.thing_classes == ["cat"]
    assert metadata.stuff_classes == ["sky", "id -4", "id 9"]
    assert metadata.stuff_dataset_id_to_contiguous_id == {5: 0, -4: 1, 9: 2}


@settings(deadline=None, max_examples=50)
@given(st.sets(st.integers(-(10**400), 10**400), max_size=20))
def test_an_id_has_one_color_whatever_the_others(ids):
    def colors(ids):
        annotation = {"segments_info": [{"category_id": number} for number in ids]}
        return {row.id: row.color for row in list_categories([], [annotation])}

    together = colors(ids)
    assert together == {number: colors([number])[number] for number in ids}
    assert all(0 <= part <= 255 for color in together.values() for part in color)


def test_ids_close_to_each_other_have_unlike_colors():
    rows = list_categories([], [{"segments_info": [{"category_id": n} for n in range(1, 41)]}])
    colors = np.array([row.color for row in rows], float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=2)
    assert distances[np.triu_indices(40, 1)].min() > 30


# Images.


def test_images_are_found_by_id_then_by_name(truth, results, tmp_path):
    image_root = truth.image_root
    (image_root / "a.jpg").rename(image_root / "other.jpg")
    with_images = PanopticSet(tmp_path / "named")
    with_images.data["images"][0]["file_name"] = "other.jpg"
    with_images.save()
    for data, other in ((with_images, None), (results, with_images)):
        saved, truths = load_saved(data.json), other and load_saved(other.json)
        root = {"panoptic_root": data.panoptic_root, "image_root": image_root}
        if other:
            root |= {"ground_truth_json": other.json, "ground_truth_root": other.panoptic_root}
        jobs = list_jobs(SavedFiles(data.json, **root), saved, truths, tmp_path / "out", None)
        assert [job.image.name for job in jobs] == ["other.jpg", "b.jpg"]
    files = SavedFiles(results.json, results.panoptic_root, image_root)
    first, second = list_jobs(files, load_saved(results.json), None, tmp_path / "out", None)
    assert str(first) == f"{image_root / 'a.*'}: no such file, expected an image"
    assert second.image == image_root / "b.jpg"


def test_a_png_beside_its_image_is_not_the_image(truth, results, tmp_path):
    for path in results.panoptic_root.iterdir():
        path.rename(truth.image_root / path.name)
    files = SavedFiles(results.json, truth.image_root, truth.image_root)
    assert [job.name for job in draw(results, tmp_path / "out", files=files)] == ["a.png", "b.png"]
    Image.open(truth.image_root / "a.jpg").save(truth.image_root / "a.webp")
    error, _ = draw(results, tmp_path / "out", files=files)
    assert f"{truth.image_root / 'a.jpg'} and a.webp: expected one image of that name" in str(error)


def test_folders_below_the_root_are_kept(tmp_path):
    data = PanopticSet(tmp_path / "set", names=("x/a.b.jpg", "y/a.b.jpg"))
    del data.data["images"]
    data.save()
    paths = draw(data, tmp_path / "out", style=Style(gallery=True))
    assert [path.relative_to(tmp_path / "out").as_posix() for path in paths] == [
        *("x/a.b.png", "y/a.b.png", "index.html"),
    ]
    assert (tmp_path / "out" / "index_files" / "y" / "a.b.panoptic.jpg").is_file()


# Mistakes.


def test_a_file_that_is_read_is_not_replaced(truth):
    before = content(truth.folder)
    with pytest.raises(InputError, match=r"a\.png would be replaced, expected another"):
        draw(truth, truth.panoptic_root)
    assert content(truth.folder) == before


def spoil_png(data):
    path = data.panoptic_root / "a.png"
    path.write_bytes(path.read_bytes()[:-20])


def spoil_ids(data):
    data.id_maps["a.png"][0, 0] = 5
    Image.fromarray(id2rgb(data.id_maps["a.png"])).save(data.panoptic_root / "a.png")


def spoil_field(*keys, value):
    def spoil(data):
        row = data.data["annotations"][0]
        for key in keys[:-1]:
            row = row[key]
        row[keys[-1]] = value
        data.json.write_text(json.dumps(data.data))

    return spoil


def spoil_image_name(data):
    data.data["images"][0]["file_name"] = "../a.jpg"
    data.json.write_text(json.dumps(data.data))


FIRST = ("segments_info", 0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_png, "{png}: truncated or broken PNG ("),
        (lambda data: (data.panoptic_root / "a.png").unlink(), "{png}: No such file or directory"),
        (
            lambda data: Image.new("L", (64, 48)).save(data.panoptic_root / "a.png"),
            "{png}: 8-bit greyscale PNG; expected 8-bit RGB",
        ),
        (spoil_ids, "{png}: pixels with id 5, expected 0 or an id of its segments in {json}"),
        (lambda data: (data.image_root / "a.jpg").unlink(), "{image}: no such file, expected an"),
        (
            lambda data: (data.image_root / "a.jpg").write_text("x"),
            "{image}: truncated or no image",
        ),
        (
            lambda data: data.write_image("a.jpg", np.zeros((47, 64, 3), np.uint8)),
            "{png}: 64x48 pixels, expected 64x47 as {image} has",
        ),
        (spoil_image_name, "{json}: image id 5: 'file_name' is '../a.jpg'; expected a path within"),
        (spoil_field("file_name", value="../b.png"), "{row}: 'file_name' is '../b.png'; expected"),
        (spoil_field("file_name", value="/b.png"), "{row}: 'file_name' is '/b.png'; expected"),
        (spoil_field("file_name", value="a\0.png"), "{row}: 'file_name' is 'a\\x00.png'; expected"),
        (spoil_field("file_name", value=None), "{row}: 'file_name' is None; expected a path"),
        (spoil_field("image_id", value=None), "annotation of image_id None: expected an image id"),
        (spoil_field("segments_info", value={}), "{row}: no 'segments_info'; expected a list"),
        (spoil_field(*FIRST, "id", value=0), "{row}: segment id 0; expected 1 to 16777215"),
        (spoil_field(*FIRST, "id", value=600), "{row}: segment id 600 occurs twice"),
        (
            spoil_field(*FIRST, "category_id", value="7"),
            "{row}: segment id 300: 'category_id' is '7'; expected an integer",
        ),
        (
            spoil_field(*FIRST, "iscrowd", value=2),
            "{row}: segment id 300: 'iscrowd' is 2; expected 0 or 1",
        ),
        (
            spoil_field(*FIRST, "score", value=10**400),
            "{row}: segment id 300: 'score' is 10",
        ),
    ],
)
def test_one_bad_image_does_not_lose_the_others(truth, tmp_path, spoil, message):
    spoil(truth)
    error, path, page = draw(truth, tmp_path / "out", style=Style(gallery=True))
    assert isinstance(error, InputError)
    assert "\n" not in str(error)
    places = {
        "png": truth.panoptic_root / "a.png",
        "image": truth.image_root / "a.jpg",
        "json": truth.json,
        "row": f"{truth.json}: annotation of image_id 5",
    }
    assert message.format(**places) in str(error)
    assert path == tmp_path / "out" / "b.png"
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {"b.png", "index.html", "b.input.jpg", "b.panoptic.jpg"}
    assert "<dt>Not drawn</dt><dd>1</dd>" in page.read_text()


def test_two_annotations_of_one_name_and_a_missing_truth(truth, results, tmp_path):
    results.data["annotations"].append({**results.data["annotations"][0], "image_id": 6})
    results.data["annotations"].append({**results.data["annotations"][0], "image_id": 99})
    results.save()
    *_, twice, missing = draw(results, tmp_path / "out", truth)
    where = f"{results.json}: annotation of image_id 6: 'file_name' a.png occurs twice, expected"
    assert where in str(twice)
    expected = f"{truth.json}: no annotation of image_id 99, expected one for each of"
    assert str(missing) == (
        f"{expected} {results.json} (predict.py --image-info gives images the ids that a json has)"
    )


def test_an_id_of_two_images_is_not_compared(truth, results, tmp_path):
    # As predict.py numbers them, in the order of the names of other images.
    names = {5: "b.jpg", 6: "other/b.png"}
    results.data["images"] = [{"id": key, "file_name": name} for key, name in names.items()]
    results.save()
    results.write_image("other/b.png", np.zeros((48, 64, 3), np.uint8))
    files = replace(files_of(results, truth), image_root=results.image_root)
    error, path = draw(results, tmp_path / "out", files=files)
    assert str(error) == (
        f"{results.json}: image id 5 is b.jpg, but a.jpg in {truth.json}, expected one image"
        " (predict.py --image-info gives images the ids that a json has)"
    )
    # One name has a folder and another suffix.
    assert path.name == "b.png"


def test_a_page_is_not_written_without_a_picture(truth, tmp_path):
    for path in truth.panoptic_root.iterdir():
        path.unlink()
    found = draw(truth, tmp_path / "out", style=Style(gallery=True))
    assert [type(error) for error in found] == [InputError, InputError]
    assert not list((tmp_path / "out").iterdir())


def test_a_picture_that_cannot_be_written_is_told(truth, tmp_path):
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    error, path = draw(truth, tmp_path / "out")
    assert str(error) == f"{tmp_path / 'out' / 'a.png'}: cannot be written (Is a directory)"
    assert path.name == "b.png"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "b.png"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (5, "'categories' is no list of objects"),
        ([5], "'categories' is no list of objects"),
        ([{"id": "1"}], "categories[0]: 'id' is '1'; expected an integer"),
        ([SPARSE[0], SPARSE[0]], "categories[1]: 'id' 90 occurs twice"),
        ([{"id": 1}], "categories[0]: 'name' is None; expected text"),
        ([{"id": 1, "name": "a"}], "'isthing' is None; expected 0 or 1, as in a panoptic json"),
        ([{**SPARSE[0], "color": [1, 2]}], "'color' is [1, 2]; expected three integers from 0"),
        ([{**SPARSE[0], "color": [1, 2, 256]}], "'color' is [1, 2, 256]; expected three"),
    ],
)
def test_wrong_categories(truth, tmp_path, rows, message):
    truth.data["categories"] = rows
    truth.save()
    with pytest.raises(InputError) as error:
        draw(truth, tmp_path / "out")
    assert str(error.value).startswith(f"{truth.json}: ")
    assert message in str(error.value)


def test_a_json_that_cannot_be_read(truth, tmp_path):
    for text, message in (
        ("[]", "a json list; expected an object with annotations"),
        ("{", "broken json ("),
        ('{"annotations": []}', "'annotations' is empty; expected one for each image"),
        ('{"annotations": [{}], "images": 5}', "'images' is no list of objects"),
    ):
        truth.json.write_text(text)
        with pytest.raises(InputError) as error:
            draw(truth, tmp_path / "out")
        assert str(error.value).startswith(f"{truth.json}: {message}")
    for text, message in (("{}", "'categories' is missing"), ("[1", "broken json (")):
        truth.json.write_text(text)
        with pytest.raises(InputError) as error:
            load_categories(truth.json)
        assert str(error.value).startswith(f"{truth.json}: {message}")
    missing = Path(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"none\.json: No such file or directory"):
        load_categories(missing)
