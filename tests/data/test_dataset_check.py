"""Checking a data set: each kind of problem by itself, several at once, and clean data."""

import os
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from ocr_panoptic.data.coco_panoptic import prepare_coco_panoptic
from ocr_panoptic.data.dataset_check import check_panoptic_dataset
from ocr_panoptic.data.dataset_report import format_report
from ocr_panoptic.data.panoptic_json import load_panoptic_json, write_panoptic_png
from ocr_panoptic.data.problems import KINDS
from ocr_panoptic.errors import InputError

from .panoptic_set import PanopticSet

LARGEST = 256**3 - 1
JSON, PNG, IMAGE = "panoptic_val.json", "panoptic_val/8.png", "val/8.jpg"
SEM_SEG = "panoptic_stuff_val/8.png"
ORIENTATION = 274


@pytest.fixture
def panoptic_set(tmp_path):
    return PanopticSet(tmp_path)


def check(panoptic_set, **options):
    panoptic_set.save()
    return check_panoptic_dataset(*panoptic_set.paths, num_processes=1, **options)


def derive(panoptic_set):
    """Make the semantic PNGs, and have them checked."""
    panoptic_set.save()
    prepare_coco_panoptic(panoptic_set.json_path, panoptic_set.panoptic_root, num_processes=1)
    return panoptic_set.folder / "panoptic_stuff_val"


SPOILERS = []


def spoiler(function):
    SPOILERS.append(function)
    return function


# Each spoils a data set and returns what is to be told of it: kind, file, id, value and expected,
# and the other kinds that come with it.


@spoiler
def spoil_entry(s):
    s.data["images"].append("8.jpg")
    return "entry-not-object", JSON, None, "8.jpg", "an object"


@spoiler
def spoil_segment_entry(s):
    s.segments.append(None)
    return "entry-not-object", PNG, None, None, "an object"


@spoiler
def spoil_image_id(s):
    s.data["images"].append({**s.data["images"][0], "id": "9", "file_name": "9.jpg"})
    shutil.copy(s.image(8), s.image(9))
    return "bad-id", JSON, None, "9", "an integer"


@spoiler
def spoil_segment_id(s):
    s.segments[1]["id"] = 5.0
    return "bad-id", PNG, None, 5.0, "an integer", {"unknown-segment-id"}


@spoiler
def spoil_boolean_id(s):
    s.data["categories"].append({"id": True, "name": "true", "isthing": 1})
    return "bad-id", JSON, None, True, "an integer"


@spoiler
def duplicate_category(s):
    s.data["categories"].append({"id": 7, "name": "lion", "isthing": 1})
    return "duplicate-category-id", JSON, 7, 7, "unique ids"


@spoiler
def spoil_isthing(s):
    del s.data["categories"][2]["isthing"]
    return "bad-isthing", JSON, 90, None, "0 or 1 (a panoptic json, not an instances or"


@spoiler
def spoil_category_name(s):
    del s.data["categories"][1]["name"]
    return "bad-category-name", JSON, 3, None, "text"


@spoiler
def duplicate_category_name(s):
    s.data["categories"][1]["name"] = "cat"
    return "duplicate-category-name", JSON, 3, "cat", "unique names"


@spoiler
def add_stuff(s):
    s.data["categories"] += [
        {"id": 1000 + i, "name": f"stuff {i}", "isthing": 0} for i in range(253)
    ]
    return "too-many-stuff", JSON, None, 255, "at most 254"


@spoiler
def duplicate_image(s):
    s.data["images"].append({**s.data["images"][0], "file_name": "9.jpg"})
    shutil.copy(s.image(8), s.image(9))
    return "duplicate-image-id", JSON, 8, 8, "unique ids"


@spoiler
def spoil_file_name(s):
    s.data["images"][0]["file_name"] = 8
    return "bad-file-name", JSON, 8, 8, "text"


@spoiler
def null_in_file_name(s):
    s.data["images"][0]["file_name"] = "8\0.jpg"
    return "bad-file-name", JSON, 8, "8\0.jpg", "a name that a file can have"


@spoiler
def surrogate_in_file_name(s):
    s.data["annotations"][0]["file_name"] = "\ud800.png"
    return "bad-file-name", JSON, 8, "\ud800.png", "a name that a file can have"


@spoiler
def leave_image_root(s):
    s.data["images"][0]["file_name"] = "../val/8.jpg"
    return "file-name-outside", JSON, 8, "../val/8.jpg", "a path within its folder"


@spoiler
def leave_panoptic_root(s):
    s.data["annotations"][0]["file_name"] = str(s.png(8))
    return "file-name-outside", JSON, 8, str(s.png(8)), "a path within its folder"


@spoiler
def duplicate_stem(s):
    s.data["images"][1]["file_name"] = "8.jpeg"
    shutil.move(s.image(2), s.image_root / "8.jpeg")
    return "duplicate-file-name", JSON, 2, "8.jpeg", "unique names"


@spoiler
def duplicate_png(s):
    s.data["annotations"][1]["file_name"] = "./8.png"
    unknown = {"unknown-segment-id", "segment-without-pixels", "png-size"}
    return "duplicate-png", JSON, 2, "./8.png", "a PNG of its own", unknown


@spoiler
def spoil_size(s):
    s.data["images"][0]["height"] = 16.0
    return "bad-size", JSON, 8, 16.0, "pixels, at least 1"


@spoiler
def no_width(s):
    s.data["images"][0]["width"] = 0
    return "bad-size", JSON, 8, 0, "pixels, at least 1"


@spoiler
def duplicate_annotation(s):
    shutil.copy(s.png(8), s.panoptic_root / "9.png")
    s.data["annotations"].append({**s.data["annotations"][0], "file_name": "9.png"})
    return "duplicate-annotation", JSON, 8, 8, "unique ids"


@spoiler
def annotate_no_image(s):
    shutil.copy(s.png(8), s.panoptic_root / "9.png")
    row = {**s.data["annotations"][0], "file_name": "9.png", "image_id": 10**30}
    s.data["annotations"].append(row)
    return "annotation-without-image", JSON, str(10**30), str(10**30), "an id in 'images'"


@spoiler
def remove_annotation(s):
    del s.data["annotations"][1]
    return "image-without-annotation", JSON, 2, None, "one for each image"


@spoiler
def remove_annotations(s):
    s.data["annotations"] = []
    return "no-annotations", JSON, None, None, "one for each image", {"image-without-annotation"}


@spoiler
def spoil_segments_info(s):
    s.data["annotations"][0]["segments_info"] = {"5": {}}
    return "bad-segments-info", PNG, 8, "{'5': {}}", "a list of objects"


@spoiler
def duplicate_segment(s):
    s.segments.append(s.segments[0])
    return "duplicate-segment-id", PNG, 70000, 70000, "unique ids"


@spoiler
def void_segment(s):
    s.segments.append({**s.segments[0], "id": 0})
    return "segment-id-range", PNG, 0, 0, f"1 to {LARGEST} (0 is void)"


@spoiler
def large_segment(s):
    s.segments.append({**s.segments[0], "id": 256**3})
    return "segment-id-range", PNG, 256**3, 256**3, f"1 to {LARGEST} (0 is void)"


@spoiler
def spoil_category(s):
    s.segments[0]["category_id"] = 999
    return "unknown-category", PNG, 70000, 999, "one of the 4 ids in 'categories'"


@spoiler
def listed_category(s):
    s.segments[0]["category_id"] = [7]
    return "unknown-category", PNG, 70000, [7], "one of the 4 ids in 'categories'"


@spoiler
def remove_iscrowd(s):
    del s.segments[0]["iscrowd"]
    return "missing-iscrowd", PNG, 70000, None, "0 or 1"


@spoiler
def spoil_iscrowd(s):
    s.segments[0]["iscrowd"] = "no"
    return "bad-iscrowd", PNG, 70000, "no", "0 or 1"


@spoiler
def crowd_of_stuff(s):
    s.segments[1]["iscrowd"] = 1
    return "crowd-stuff", PNG, 5, 1, "'iscrowd' 0, as things alone are crowds"


@spoiler
def two_crowds(s):
    s.segments[0].update(iscrowd=1, category_id=3)
    return "crowds-of-one-category", PNG, LARGEST, 3, "one in an image"


@spoiler
def remove_area(s):
    del s.segments[0]["area"]
    return "missing-area", PNG, 70000, None, "a number of pixels"


@spoiler
def spoil_area(s):
    area = s.segments[0]["area"]
    s.segments[0]["area"] = area + 1
    return "wrong-area", PNG, 70000, area + 1, area


@spoiler
def crowd_area(s):
    area = s.segments[2]["area"]
    s.segments[2]["area"] = 10**40
    return "wrong-area", PNG, LARGEST, str(10**40), area


@spoiler
def infinite_area(s):
    s.segments[0]["area"] = float("inf")
    return "wrong-area", PNG, 70000, "inf", "a number of pixels"


@spoiler
def text_area(s):
    s.segments[0]["area"] = "many"
    return "wrong-area", PNG, 70000, "many", "a number of pixels"


@spoiler
def remove_bbox(s):
    del s.segments[2]["bbox"]
    return "missing-bbox", PNG, LARGEST, None, "[x, y, width, height]"


@spoiler
def spoil_bbox(s):
    x, y, width, height = s.segments[2]["bbox"]
    s.segments[2]["bbox"] = [x, y, x + width, y + height + 1]
    box = [x, y, x + width, y + height + 1]
    return "wrong-bbox", PNG, LARGEST, box, [x, y, width, height]


@spoiler
def short_bbox(s):
    s.segments[0]["bbox"] = [1, 2, None]
    return "wrong-bbox", PNG, 70000, "[1, 2, None]", "[x, y, width, height]"


@spoiler
def remove_image(s):
    s.image(8).unlink()
    return "missing-image", IMAGE, 8, None, "the image of image id 8"


@spoiler
def image_is_a_folder(s):
    s.image(8).unlink()
    s.image(8).mkdir()
    return "missing-image", IMAGE, 8, None, "the image of image id 8"


@spoiler
def image_is_a_pipe(s):
    s.image(8).unlink()
    os.mkfifo(s.image(8))
    return "missing-image", IMAGE, 8, None, "the image of image id 8"


@spoiler
def image_of_another_format(s):
    s.image(8).write_bytes(b"RIFF" + bytes(1000))
    return "not-an-image", IMAGE, 8, None, "a JPEG or PNG"


@spoiler
def empty_image(s):
    s.image(8).write_bytes(b"")
    return "not-an-image", IMAGE, 8, None, "a JPEG or PNG"


@spoiler
def truncate_image(s):
    s.image(8).write_bytes(s.image(8).read_bytes()[:-100])
    return "broken-image", IMAGE, 8, None, "a whole file"


@spoiler
def deep_image(s):
    Image.fromarray(np.zeros((16, 24), np.uint16)).save(s.image(8), format="PNG")
    return "image-mode", IMAGE, 8, "I;16", "8 bits a channel, as grey or RGB"


@spoiler
def turn_image(s):
    Image.new("RGB", (16, 24)).save(s.image(8))
    return "image-size", IMAGE, 8, "16x24", "24x16, as image id 8 has in the json"


@spoiler
def image_on_its_side(s):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (24, 16)).save(s.image(8), exif=exif)
    return "image-rotation", IMAGE, 8, "16x24", "24x16, as image id 8 has in the json"


@spoiler
def image_upside_down(s):
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    Image.new("RGB", (24, 16)).save(s.image(8), exif=exif)
    return "exif-orientation", IMAGE, 8, 3, "none or 1, or labels of the image as it is turned"


@spoiler
def png_image_on_its_side(s):
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    Image.new("RGB", (24, 16)).save(s.image(8), format="PNG", exif=exif)
    return "image-rotation", IMAGE, 8, "16x24", "24x16, as image id 8 has in the json"


@spoiler
def another_suffix(s):
    s.data["images"][0]["file_name"] = "8.png"
    shutil.move(s.image(8), s.image_root / "8.png")
    return "image-suffix", "val", None, ".png", ".jpg"


@spoiler
def unnamed_image(s):
    shutil.copy(s.image(8), s.image(9))
    return "unnamed-image", "val/9.jpg", None, None, "only files of the json"


@spoiler
def remove_png(s):
    s.png(8).unlink()
    return "missing-png", PNG, 8, None, "the panoptic PNG of image_id 8"


@spoiler
def jpeg_for_png(s):
    Image.new("RGB", (24, 16)).save(s.png(8), format="JPEG")
    return "not-a-png", PNG, 8, None, "an 8-bit RGB PNG"


@spoiler
def grey_png(s):
    Image.new("L", (24, 16)).save(s.png(8))
    return "png-mode", PNG, 8, None, "8-bit RGB"


@spoiler
def truncate_png(s):
    s.png(8).write_bytes(s.png(8).read_bytes()[:-1])
    return "broken-png", PNG, 8, None, "a whole file"


@spoiler
def flip_a_bit(s):
    content = bytearray(s.png(8).read_bytes())
    content[len(content) // 2] ^= 4
    s.png(8).write_bytes(content)
    return "broken-png", PNG, 8, None, "a whole file"


@spoiler
def png_without_last_rows(s):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 24, 16, 8, 2, 0, 0, 0)
    # Pillow reads the missing rows as void.
    rows = zlib.compress(bytes(15 * (1 + 3 * 24)))
    s.png(8).write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return "broken-png", PNG, 8, None, "a whole file"


@spoiler
def enormous_png(s):
    content = bytearray(s.png(8).read_bytes())
    content[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    s.png(8).write_bytes(content)
    return "broken-png", PNG, 8, None, "a whole file"


@spoiler
def crop_png(s):
    write_panoptic_png(s.png(8), s.id_maps[8][:, :-1])
    return "png-size", PNG, 8, "23x16", "24x16, as image id 8 has in the json"


@spoiler
def stray_pixel(s):
    id_map = s.id_maps[8].copy()
    id_map[3, 3] = 77
    write_panoptic_png(s.png(8), id_map)
    others = {"wrong-area", "wrong-bbox"}
    return "unknown-segment-id", PNG, 77, 1, "0 or an id in segments_info of image_id 8", others


@spoiler
def photo_for_png(s):
    ids = np.arange(1, 1 + 16 * 24).reshape(16, 24) * 1000
    write_panoptic_png(s.png(8), ids)
    others = {"segment-without-pixels", "wrong-area", "wrong-bbox"}
    return "unknown-segment-id", PNG, None, 283, "0 or an id in segments_info", others


@spoiler
def unpainted_segment(s):
    id_map = s.id_maps[8].copy()
    id_map[id_map == 5] = 0
    write_panoptic_png(s.png(8), id_map)
    return "segment-without-pixels", PNG, 5, None, "at least one, as segments_info of image_id 8"


@spoiler
def unnamed_png(s):
    shutil.copy(s.png(8), s.png(9))
    return "unnamed-png", "panoptic_val/9.png", None, None, "only files of the json"


@spoiler
def remove_sem_seg(s):
    (derive(s) / "8.png").unlink()
    return "missing-sem-seg", SEM_SEG, 8, None, "the semantic PNG of image id 8"


@spoiler
def rgb_sem_seg(s):
    shutil.copy(s.png(8), derive(s) / "8.png")
    return "sem-seg-mode", SEM_SEG, 8, None, "8-bit greyscale"


@spoiler
def truncate_sem_seg(s):
    path = derive(s) / "8.png"
    path.write_bytes(path.read_bytes()[:-20])
    return "broken-sem-seg", SEM_SEG, 8, None, "a whole file"


@spoiler
def crop_sem_seg(s):
    Image.new("L", (3, 5)).save(derive(s) / "8.png")
    return "sem-seg-size", SEM_SEG, 8, "3x5", "24x16, as image id 8 has in the json"


@spoiler
def crop_sem_seg_of_unknown_size(s):
    Image.new("L", (3, 5)).save(derive(s) / "8.png")
    s.data["images"][0]["width"] = None
    return "sem-seg-size", SEM_SEG, 8, "3x5", "24x16, as the panoptic PNG has", {"bad-size"}


@spoiler
def value_in_sem_seg(s):
    path = derive(s) / "8.png"
    labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    labels[2, 2:5] = 3
    Image.fromarray(labels).save(path)
    expected = "0 to 2, or 255 for unlabelled"
    return "sem-seg-value", SEM_SEG, 8, 3, expected, {"sem-seg-differs"}


@spoiler
def differing_sem_seg(s):
    path = derive(s) / "8.png"
    labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    labels[0, :2] = np.where(labels[0, :2] == 1, 2, 1)
    Image.fromarray(labels).save(path)
    return "sem-seg-differs", SEM_SEG, 8, 2, "things 0, stuff 1 to n"


# Their number grows with what a spoiler leaves in the folders.
STRAYS = {"unnamed-image", "unnamed-png", "image-suffix"}


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_each_problem_is_told(panoptic_set, spoil):
    kind, file, row_id, value, expected, *others = spoil(panoptic_set)
    sem_seg_root = panoptic_set.folder / "panoptic_stuff_val"
    report = check(
        panoptic_set, deep=True, sem_seg_root=sem_seg_root if sem_seg_root.exists() else None
    )
    told, silent = report.problems, report.notes
    if KINDS[kind].is_note:
        told, silent = silent, told
    kinds = {problem.kind for problem in (*told, *silent)}
    assert kinds - STRAYS - set(*others) == {kind} - STRAYS
    path = str(panoptic_set.folder / file)
    rows = [p.to_json() for p in told if (p.kind, p.id) == (kind, row_id) or p.id == 10**30]
    (row,) = rows
    text = row.pop("expected")
    assert row == {"kind": kind, "file": path, "id": row_id, "value": value}
    assert str(text).startswith(expected) if isinstance(expected, str) else text == expected
    assert not [p for p in (*told, *silent) if not p.message.isprintable()]


def test_each_kind_has_a_test(tmp_path):
    kinds = set()
    for spoil in SPOILERS:
        kinds.add(spoil(PanopticSet(tmp_path / spoil.__name__))[0])
    assert kinds == set(KINDS)
    assert len(kinds) >= 40


def test_clean_data_has_no_problem(panoptic_set):
    for deep in (False, True):
        report = check(panoptic_set, deep=deep)
        assert (report.images, report.segments) == (2, 4)
        assert report.problems == report.notes == report.labels == []
    assert format_report(report) == "2 images, 4 segments: no problems, no notes"


def test_shapes_are_clean(datasets_root):
    root = datasets_root / "shapes_easy"
    for split in ("train", "val"):
        report = check_panoptic_dataset(
            root / "annotations" / f"panoptic_{split}.json",
            root / f"panoptic_{split}",
            root / split,
            sem_seg_root=root / f"panoptic_stuff_{split}",
            deep=True,
            num_processes=1,
        )
        assert report.problems == report.notes == []
        assert sum(label.pixels for label in report.labels) == 96 * 96 * report.images


def test_all_problems_at_once(panoptic_set):
    remove_iscrowd(panoptic_set)
    area = spoil_area(panoptic_set)[3]
    remove_image(panoptic_set)
    flip_a_bit(panoptic_set)
    panoptic_set.png(2).unlink()
    report = check(panoptic_set)
    assert [problem.kind for problem in report.problems] == [
        "missing-iscrowd",
        "missing-image",
        "missing-png",
        "broken-png",
    ]
    write_panoptic_png(panoptic_set.png(8), panoptic_set.id_maps[8])
    report = check(panoptic_set)
    lines = format_report(report).splitlines()
    json_path, root, _ = panoptic_set.paths
    meaning = {kind: KINDS[kind].meaning for kind in KINDS}
    assert lines == [
        f"1  missing-iscrowd  {meaning['missing-iscrowd']}",
        f"1  wrong-area       {meaning['wrong-area']}",
        f"1  missing-image    {meaning['missing-image']}",
        f"1  missing-png      {meaning['missing-png']}",
        "",
        f"missing-iscrowd: {KINDS['missing-iscrowd'].cure}",
        f"  {json_path}: annotation of image_id 8: segment id 70000: 'iscrowd' is missing;"
        " expected 0 or 1",
        "",
        f"wrong-area: {KINDS['wrong-area'].cure}",
        f"  {root / '8.png'}: segment id 70000: 'area' is {area}; expected {area - 1}",
        "",
        f"missing-image: {KINDS['missing-image'].cure}",
        f"  {panoptic_set.image(8)}: No such file or directory; expected the image of image id 8",
        "",
        f"missing-png: {KINDS['missing-png'].cure}",
        f"  {root / '2.png'}: No such file or directory; expected the panoptic PNG of image_id 2",
        "",
        "2 images, 4 segments: 4 problems, no notes",
    ]


def test_many_problems_of_a_kind_are_counted(panoptic_set):
    panoptic_set.data["annotations"] = [
        {"image_id": 8, "file_name": "8.png", "segments_info": [{"id": i} for i in range(1, 14)]}
    ]
    report = check(panoptic_set)
    lines = format_report(report, limit=10).splitlines()
    start = lines.index(f"missing-area: {KINDS['missing-area'].cure}")
    assert len(lines[start + 1].split("segment id 1: ")) == 2
    assert lines[start + 11 : start + 13] == ["  and 3 more", ""]
    assert "and 3 more" not in format_report(report, limit=None)
    assert lines[0].startswith(f"{len(report.problems) and 1:>2}  image-without-annotation")


def test_a_truncated_image_needs_a_deep_check(panoptic_set):
    truncate_image(panoptic_set)
    assert check(panoptic_set).problems == []
    (problem,) = check(panoptic_set, deep=True).problems
    assert problem.message.startswith(f"{panoptic_set.image(8)}: broken image (image file is trun")


def test_names_cannot_write_on_the_terminal(panoptic_set):
    panoptic_set.data["images"][0]["file_name"] = "\x1b[31m\n8.jpg"
    report = check(panoptic_set)
    (problem,) = report.problems
    assert problem.message.startswith(f"{panoptic_set.image_root}/\\x1b[31m\\n8.jpg: No such file")


def test_histogram_of_the_labels(panoptic_set):
    root = derive(panoptic_set)
    labels = cv2.imread(str(root / "2.png"), cv2.IMREAD_GRAYSCALE)
    labels[0, 0] = 9
    Image.fromarray(labels).save(root / "2.png")
    report = check(panoptic_set, sem_seg_root=root)
    maps = [np.asarray(Image.open(root / f"{i}.png")).ravel() for i in (8, 2)]
    counts = np.bincount(np.concatenate(maps), minlength=256)
    assert [(row.label, row.name, row.pixels, row.images) for row in report.labels] == [
        (0, "things", counts[0], 1),
        (1, "grass", counts[1], 1),
        (2, "sky", counts[2], 1),
        (9, None, 1, 1),
        (255, "unlabelled", counts[255], 2),
    ]
    lines = format_report(report).splitlines()
    start = lines.index(next(line for line in lines if line.split()[:2] == ["label", "class"]))
    assert lines[start + 2].split()[:3] == ["0", "things", str(counts[0])]
    assert lines[start + 5].split()[:4] == ["9", "no", "class", "1"]


def test_result_does_not_depend_on_the_number_of_processes(panoptic_set):
    spoil_area(panoptic_set)
    panoptic_set.png(2).unlink()
    panoptic_set.save()
    one, two = (
        check_panoptic_dataset(*panoptic_set.paths, num_processes=n).to_json() for n in (1, 2)
    )
    assert one == two
    assert len(one["problems"]) == 2


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_what_training_refuses_is_told(panoptic_set, spoil):
    # The strict reader stops at the first of these problems, with the same words.
    spoil(panoptic_set)
    panoptic_set.save()
    refused = None
    try:
        load_panoptic_json(panoptic_set.json_path)
    except InputError as error:
        refused = str(error)
    problems = check(panoptic_set).problems
    if refused is None:
        of_json = {p.kind for p in problems if p.file == str(panoptic_set.json_path)}
        assert of_json <= {"duplicate-png", "too-many-stuff"}
    elif "is no list of objects" in refused:
        assert "entry-not-object" in {problem.kind for problem in problems}
    else:
        assert refused in [problem.message for problem in problems]


def test_what_has_no_report_is_one_line(panoptic_set, tmp_path):
    def error_of(*paths, **options):
        with pytest.raises(InputError) as caught:
            check_panoptic_dataset(*paths, **options)
        return str(caught.value)

    json_path, png_root, image_root = panoptic_set.paths
    nowhere = tmp_path / "nowhere"
    assert error_of(json_path, nowhere, image_root) == (
        f"{nowhere}: no such folder; expected the panoptic PNGs"
    )
    assert error_of(json_path, png_root, json_path) == (
        f"{json_path}: no such folder; expected the images"
    )
    assert error_of(*panoptic_set.paths, sem_seg_root=nowhere) == (
        f"{nowhere}: no such folder; expected the semantic PNGs"
    )
    assert error_of(*panoptic_set.paths, num_processes=0) == (
        "number of processes is 0; expected at least 1"
    )
    for content, message in (
        (b"[]", "a json list; expected an object with images, annotations, categories"),
        (b"{}", "'images' is missing; expected the COCO lists images, annotations, categories"),
        (b'{"images": 3}', "'images' is no list of objects; expected the COCO lists images,"),
        (b'{"images": ["\xff"]}', "broken json ('utf-8' codec can't decode byte 0xff"),
        (b"[" * 100000, "broken json (maximum recursion depth exceeded"),
        (b'{"images": [', "broken json ("),
        (b"1" * 5000, "broken json (Exceeds the limit"),
    ):
        json_path.write_bytes(content)
        assert error_of(*panoptic_set.paths).startswith(f"{json_path}: {message}")


def test_data_without_images(panoptic_set):
    panoptic_set.data.update(images=[], annotations=[], categories=[])
    report = check(panoptic_set)
    assert (report.images, report.segments) == (0, 0)
    assert [problem.kind for problem in report.problems] == ["no-annotations"]
