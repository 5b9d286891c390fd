"""The check of result files: every cause of a rejection is found and told."""

import io
import json
import stat
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from ocr_panoptic.errors import InputError
from ocr_panoptic.evaluation.submission import check, json_stream, report
from ocr_panoptic.evaluation.submission.build import build_submission
from ocr_panoptic.evaluation.submission.check import check_submission
from ocr_panoptic.evaluation.submission.problems import Problems

from .submissions import CATEGORIES, IMAGES, NAMES, read_zip, rle, write_data, write_zip

LIST = "panoptic_val2017.json"
PANOPTIC, DETECTIONS = NAMES["panoptic"], NAMES["segm"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the list of images, and a right zip in a folder for each task."""
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    for task in NAMES:
        source = root / "predictions"
        build_submission(task, source, "val2017", "ocr", root / LIST, root / task)
    return root


def found(data, tmp_path, task, change=None, *, name=None, image_info=None, asked=None):
    """Check a right zip after ``change``, and return kind -> problems."""
    entries = read_zip(data / task / f"{NAMES[task]}.zip")
    if change is not None:
        entries = change(entries) or entries
    path = write_zip(tmp_path / (name or f"{NAMES[task]}.zip"), entries)
    return problems_of(check_submission(path, image_info or data / LIST, task=asked))


def problems_of(result):
    kinds = {}
    for problem in result.problems.rows:
        assert "\n" not in problem.message
        kinds.setdefault(problem.kind, []).append(problem)
    # What is told can be written.
    json.dumps(result.as_dict(), allow_nan=False)
    return kinds


def only(kinds, kind):
    """Return the one problem there is."""
    assert list(kinds) == [kind]
    (problem,) = kinds[kind]
    return problem


def edited(change, name=DETECTIONS):
    """Return a change of entries by one of the rows of their json."""

    def edit(entries):
        content = json.loads(entries[f"{name}.json"])
        rows = content if isinstance(content, list) else content["annotations"]
        changed = change(rows)
        if changed is not None:
            content = changed if isinstance(content, list) else {"annotations": changed}
        entries[f"{name}.json"] = json.dumps(content).encode()

    return edit


def field(key, value, index=0):
    return lambda rows: rows[index].__setitem__(key, value)


def segment(key, value):
    return lambda rows: rows[0]["segments_info"][0].__setitem__(key, value)


def png(image, **options):
    """Return the bytes of an image as PNG."""
    with io.BytesIO() as file:
        image.save(file, "PNG", **options)
        return file.getvalue()


@pytest.mark.parametrize("task", NAMES)
def test_right_zips_have_no_problem(data, tmp_path, task):
    assert not found(data, tmp_path, task)
    assert not found(data, tmp_path, task, asked=task)


# The zip.


@pytest.mark.parametrize(
    "name",
    [
        "results.zip",
        "detections_val2014_ocr_results.zip",
        "detections_val2017_ocr.zip",
        "detections_val2017__results.zip",
        "detections_val2017_a b_results.zip",
        "segm_val2017_ocr_results.zip",
        "detections_val2017_ocr_results.ZIP",
    ],
)
def test_wrong_names_of_the_zip(data, tmp_path, name):
    kinds = found(data, tmp_path, "segm", name=name)
    (problem,) = kinds.pop("zip-name")
    expected = "a name such as detections_val2017_NAME_results.zip"
    assert problem.message == f"{name}: zip name; expected {expected}"
    assert problem.to_json() == {
        "kind": "zip-name",
        "file": name,
        "id": None,
        "value": None,
        "expected": expected,
    }
    # The json has the name that the zip should have.
    assert set(kinds) <= {"json-name"}


def test_a_zip_of_another_type_than_asked_for(data, tmp_path):
    kinds = found(data, tmp_path, "segm", asked="panoptic")
    assert kinds["zip-name"][0].expected == "a name such as panoptic_val2017_NAME_results.zip"
    assert "json-layout" in kinds
    kinds = found(data, tmp_path, "panoptic", asked="bbox")
    assert {"zip-name", "json-layout", "directory"} <= set(kinds)


def test_a_list_of_another_split(data, tmp_path):
    path = tmp_path / "image_info_test-dev2017.json"
    path.write_bytes((data / LIST).read_bytes())
    problem = only(found(data, tmp_path, "segm", image_info=path), "split")
    assert problem.message == (
        f"{DETECTIONS}.zip: split: val2017; expected test-dev2017, as in {path.name}"
    )


def test_files_that_are_no_zip(data, tmp_path):
    for content in (b"", b"PK", b"no zip at all" * 100):
        path = tmp_path / f"{DETECTIONS}.zip"
        path.write_bytes(content)
        result = check_submission(path, data / LIST)
        problem = only(problems_of(result), "broken-zip")
        assert problem.message == (
            f"{path.name}: broken zip: File is not a zip file; expected a whole zip"
        )
        with pytest.raises(InputError, match=r"results.zip: 1 problem; expected none"):
            result.raise_for_problems()
    for path in (tmp_path / "none.zip", tmp_path):
        with pytest.raises(InputError, match="no such file; expected a zip of results"):
            check_submission(path, data / LIST)


def test_a_changed_byte_of_an_entry(data, tmp_path):
    path = tmp_path / f"{PANOPTIC}.zip"
    entries = read_zip(data / "panoptic" / path.name)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    place = path.read_bytes().index(entries[f"{PANOPTIC}/000000000030.png"]) + 60
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    problem = only(problems_of(check_submission(path, data / LIST)), "broken-entry")
    assert problem.id == 30
    assert "Bad CRC-32 for file" in problem.message


def test_an_encrypted_zip(data, tmp_path):
    path = tmp_path / f"{DETECTIONS}.zip"
    content = bytearray((data / "segm" / path.name).read_bytes())
    # The bit of the flags, in the header of the entry and in the list of entries.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    kinds = problems_of(check_submission(path, data / LIST))
    assert kinds["encrypted"][0].expected == "no password"
    assert "encrypted" in kinds["broken-entry"][0].message


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression(data, tmp_path, method):
    path = tmp_path / f"{DETECTIONS}.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{DETECTIONS}.json", read_zip(data / "segm" / path.name).popitem()[1])
    problem = only(problems_of(check_submission(path, data / LIST)), "compression")
    assert (problem.value, problem.expected) == (method, "stored (0) or deflated (8)")


@pytest.mark.parametrize(
    "name", ["../x.json", "/x.json", "a/../../x.txt", "C:/x.txt", "a\\..\\x.txt"]
)
def test_names_that_leave_the_folder(data, tmp_path, name):
    for task in ("segm", "panoptic"):
        kinds = found(data, tmp_path, task, lambda entries: {**entries, name: b"x"})
        assert [problem.file for problem in kinds["unsafe-name"]] == [name]
    assert {path.name for path in tmp_path.iterdir()} == {f"{DETECTIONS}.zip", f"{PANOPTIC}.zip"}


@pytest.mark.parametrize(
    "name", ["__MACOSX/._x.json", "__MACOSX/x/._0.png", ".DS_Store", "sub/.DS_Store", "Thumbs.db"]
)
def test_files_of_operating_systems(data, tmp_path, name):
    for task in ("segm", "panoptic"):
        kinds = found(data, tmp_path, task, lambda entries: {name: b"x", **entries})
        assert kinds["junk-file"][0].file == name
        assert set(kinds) <= {"junk-file", "directory", "extra-file"}


def test_links_and_double_entries(data, tmp_path):
    link = zipfile.ZipInfo(f"{PANOPTIC}/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    kinds = found(data, tmp_path, "panoptic", lambda entries: {**entries, link: b"/etc/hosts"})
    assert kinds["link"][0].file == f"{PANOPTIC}/link.png"
    path = tmp_path / f"{DETECTIONS}.zip"
    content = read_zip(data / "segm" / path.name).popitem()[1]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr(f"{DETECTIONS}.json", content)
    problem = only(problems_of(check_submission(path, data / LIST)), "duplicate-entry")
    assert problem.message == f"{DETECTIONS}.json: duplicate entry: 2; expected each name once"


# What is in it.


def test_a_json_in_a_folder(data, tmp_path):
    kinds = found(
        data,
        tmp_path,
        "segm",
        lambda entries: {f"x/{name}": content for name, content in entries.items()},
    )
    assert kinds["directory"][0].message == (
        f"x/{DETECTIONS}.json: directory; expected only {DETECTIONS}.json, no folder"
    )
    assert kinds["json-name"][0].file == f"x/{DETECTIONS}.json"
    assert set(kinds) == {"directory", "json-name"}


def test_a_panoptic_zip_in_a_folder(data, tmp_path):
    kinds = found(
        data,
        tmp_path,
        "panoptic",
        lambda entries: {f"x/{name}": content for name, content in entries.items()},
    )
    assert set(kinds) == {"json-name", "png-folder"}
    assert kinds["png-folder"][0].message == (
        f"{PANOPTIC}.zip: png folder: x/{PANOPTIC}; expected {PANOPTIC}/"
    )


@pytest.mark.parametrize("folder", ["panoptic/", ""])
def test_pngs_in_the_wrong_folder(data, tmp_path, folder):
    kinds = found(
        data,
        tmp_path,
        "panoptic",
        lambda entries: {
            name.replace(f"{PANOPTIC}/", folder): content for name, content in entries.items()
        },
    )
    assert only(kinds, "png-folder").value == (folder.strip("/") or "no folder")


def test_directories_and_extra_files(data, tmp_path):
    kinds = found(data, tmp_path, "segm", lambda entries: {**entries, "x/": b"", "readme": b"x"})
    assert [kinds["directory"][0].file, kinds["extra-file"][0].file] == ["x/", "readme"]
    # zip -r adds the folder itself.
    add = {f"{PANOPTIC}/": b""}
    assert not found(data, tmp_path, "panoptic", lambda entries: {**entries, **add})
    add = {"x/": b"", "readme": b"x", f"{PANOPTIC}/x/0.png": b"x", f"{PANOPTIC}/1.png": b"x"}
    kinds = found(data, tmp_path, "panoptic", lambda entries: {**entries, **add})
    assert [problem.file for problem in kinds["directory"]] == ["x/"]
    assert [p.file for p in kinds["extra-file"]] == ["readme", f"{PANOPTIC}/x/0.png"]
    assert [problem.file for problem in kinds["extra-png"]] == [f"{PANOPTIC}/1.png"]


def test_another_name_of_the_json(data, tmp_path):
    kinds = found(data, tmp_path, "bbox", lambda entries: {"results.json": entries.popitem()[1]})
    assert kinds["json-name"][0].message == (f"results.json: json name; expected {DETECTIONS}.json")
    assert set(kinds) == {"json-name"}
    for task in ("segm", "panoptic"):
        kinds = found(data, tmp_path, task, lambda entries: {"readme": b""})
        assert kinds["no-json"][0].expected == f"{NAMES[task]}.json"


# The json.


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "json-layout", ": json layout; expected a list of objects"),
        (b"{}", "json-layout", ": json layout; expected a list of objects"),
        (b"[]", "no-detections", ": no detections: 0; expected detections"),
        (b"[", "broken-json", ": broken json: Expecting value at character 1; expected a whole"),
        (b'[{"a": 1', "broken-json", "Expecting ',' delimiter at character 8"),
        (b"[1] 2", "broken-json", "text after the end, at character 4"),
        (b"[1 2]", "broken-json", "'2' at character 3, expected , or ]"),
        (b"[" * 100_000, "broken-json", "RecursionError in what begins at character 1"),
        (b"[" + b"9" * 5000 + b"]", "broken-json", "ValueError in what begins at character 1"),
        (b'["\xff"]', "non-ascii", ": non ascii: byte 2; expected ASCII only"),
        (b"\xef\xbb\xbf[1]", "non-ascii", "byte 0; expected ASCII only"),
    ],
)
def test_broken_jsons(data, tmp_path, content, kind, message):
    kinds = found(data, tmp_path, "segm", lambda entries: {f"{DETECTIONS}.json": content})
    (problem,) = kinds[kind]
    assert message in problem.message


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"[]", "json-layout", ": json layout; expected an object with 'annotations'"),
        (b"{}", "broken-json", ": broken json: there is no 'annotations'; expected a whole"),
        (b'{"annotations": {}}', "broken-json", "'annotations' is no list"),
        (b'{"annotations": [], 1}', "broken-json", "'1' at character 20, expected \""),
        (b'{"annotations" []}', "broken-json", "'[' at character 15, expected :"),
        (b'{"annotations": []', "broken-json", "the end at character 18, expected , or }"),
        (b'"annotations"', "broken-json", "neither a list nor an object"),
    ],
)
def test_broken_panoptic_jsons(data, tmp_path, content, kind, message):
    kinds = found(
        data, tmp_path, "panoptic", lambda entries: {**entries, f"{PANOPTIC}.json": content}
    )
    (problem,) = kinds[kind]
    assert message in problem.message
    # Of what could not be read it is not said that it is missing.
    assert "missing-image" not in kinds


def test_large_jsons(data, tmp_path, monkeypatch):
    path = data / "segm" / f"{DETECTIONS}.zip"
    monkeypatch.setattr(report, "LARGE_JSON", 1000)
    result = check_submission(path, data / LIST)
    assert not result.problems.rows
    assert "servers ran out of memory above 1 GB" in result.warnings[0]
    assert f"warning: {result.warnings[0]}" in list(result.lines())
    # A zip may hold a thousand times its size.
    monkeypatch.setattr(check, "LARGEST_JSON", 1000)
    problem = only(problems_of(check_submission(path, data / LIST)), "broken-json")
    assert problem.value == "more than 1000 bytes"


def test_a_row_without_end(data, tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream.JsonStream, "LARGEST_ROW", 1 << 20)
    content = b'[{"a": "' + b" " * (5 << 20)
    kinds = found(data, tmp_path, "segm", lambda entries: {f"{DETECTIONS}.json": content})
    assert "Unterminated string" in only(kinds, "broken-json").value


# Detections.


@pytest.mark.parametrize(
    ("task", "change", "kind", "message"),
    [
        ("bbox", field("image_id", "7"), "image-id", ": image id: '7'; expected an integer"),
        ("bbox", field("image_id", 7.0), "image-id", ": image id: 7.0; expected an integer"),
        ("bbox", field("image_id", 10**30), "foreign-image", ": foreign image: 1000000000000"),
        ("bbox", field("image_id", 6), "foreign-image", "image_id 6: foreign image: 6; expected"),
        ("bbox", field("category_id", 0), "category-id", "category id: 0; expected one of the 3"),
        ("bbox", field("category_id", 2), "category-id", "of the data set, not contiguous ones"),
        ("bbox", field("category_id", "1"), "category-id", "category id: '1'; expected one of"),
        ("bbox", field("category_id", 200), "category-id", "category id: 200; expected one of"),
        ("bbox", field("score", -0.1), "score", "image_id 7: score: -0.1; expected a number from"),
        ("segm", field("score", 10**400), "score", "expected a number from 0 to 1"),
        ("segm", field("score", None), "score", "score; expected a number from 0 to 1"),
        ("bbox", lambda rows: rows[0].pop("score") and None, "score", "score: missing; expected"),
        ("bbox", field("bbox", "1,2,3,4"), "bbox", "bbox: '1,2,3,4'; expected x, y, width"),
        ("bbox", field("bbox", [1, 2, 3, True]), "bbox", "bbox: [1, 2, 3, True]; expected x, y"),
        ("segm", field("bbox", [1, 2, 3, 4]), "box-in-segm-file", "expected segmentation only"),
        ("segm", field("segmentation", [[1, 2, 3, 4, 5, 6]]), "segmentation", "a compressed RLE"),
        ("segm", field("segmentation", {"size": [1, 1], "counts": [1]}), "segmentation", "text"),
        ("segm", field("segmentation", {"counts": "1"}), "rle-size", "rle size: missing; expect"),
        (
            "segm",
            field("segmentation", {"size": [33, 20], "counts": "1"}),
            "rle-size",
            "rle size: [33, 20]; expected [20, 33], the image's height and width",
        ),
        (
            "segm",
            field("segmentation", {"size": [20.0, 33.0], "counts": "1"}),
            "rle-size",
            "rle size: [20.0, 33.0]; expected [20, 33]",
        ),
        (
            "segm",
            field("segmentation", {"size": [20, 33], "counts": "hallo"}),
            "rle-counts",
            "rle counts: 'hallo'; expected an RLE that can be decoded",
        ),
        (
            "segm",
            field("segmentation", {"size": [20, 33], "counts": "\u00e9\ud800"}),
            "rle-counts",
            "expected an RLE that can be decoded",
        ),
        (
            "segm",
            field("segmentation", {"size": [20, 33], "counts": ""}),
            "rle-counts",
            "rle counts: runs of 0 pixels; expected 660, the image's",
        ),
        ("bbox", lambda rows: [*rows, 5], "no-object", "]: no object: 5; expected an object with"),
    ],
)
def test_bad_detections(data, tmp_path, task, change, kind, message):
    problem = only(found(data, tmp_path, task, edited(change)), kind)
    assert problem.file.startswith(f"{DETECTIONS}.json[")
    assert message in problem.message


def test_constants_that_no_json_has(data, tmp_path):
    for value in ("NaN", "Infinity", "-Infinity"):
        kinds = found(data, tmp_path, "bbox", edited(field("score", float(value))))
        assert set(kinds) == {"not-finite", "score"}
        assert kinds["not-finite"][0].message == (
            f"{DETECTIONS}.json[0]: image_id 7: not finite: {value}; expected plain json"
        )
    kinds = found(
        data,
        tmp_path,
        "bbox",
        lambda entries: {
            name: content.replace(b'"score":', b'"score":1e999, "was":', 1)
            for name, content in entries.items()
        },
    )
    assert only(kinds, "score").to_json()["value"] == "inf"


def test_every_problem_is_told(data, tmp_path, monkeypatch):
    def contiguous(rows):
        for row in rows:
            row["category_id"] = {1: 0, 44: 1, 90: 2}[row["category_id"]]
            row["image_id"] = str(row["image_id"])

    kinds = found(data, tmp_path, "bbox", edited(contiguous))
    count = len(kinds["image-id"])
    rows = json.loads(read_zip(data / "bbox" / f"{DETECTIONS}.zip").popitem()[1])
    assert count == len(rows)
    assert len(kinds["category-id"]) == sum(row["category_id"] != 44 for row in rows)
    monkeypatch.setattr(Problems, "MOST_OF_A_KIND", 3)
    result = check_submission(tmp_path / f"{DETECTIONS}.zip", data / LIST)
    assert len(problems_of(result)["image-id"]) == 3
    assert result.as_dict()["left_out"]["image-id"] == count - 3
    assert f"... and {count - 3} more: image id" in list(result.lines())
    with pytest.raises(InputError, match=f"{count + len(kinds['category-id'])} problems; expect"):
        result.raise_for_problems()


def test_more_than_a_hundred_detections(data, tmp_path):
    def repeat(rows):
        row = next(row for row in rows if row["image_id"] == 9)
        return [dict(row) for _ in range(101)]

    problem = only(found(data, tmp_path, "segm", edited(repeat)), "too-many-detections")
    assert problem.message == (
        f"{DETECTIONS}.json: image_id 9: too many detections: 101; expected at most 100 detections"
        " of an image"
    )


def test_images_out_of_order(data, tmp_path):
    kinds = found(data, tmp_path, "segm", edited(lambda rows: rows[::-1]))
    problem = only(kinds, "unsorted")
    assert problem.expected == "detections sorted by image_id"


def test_masks_in_a_file_of_boxes(data, tmp_path):
    edit = edited(field("segmentation", rle_of(IMAGES[1]), index=1))
    problem = only(found(data, tmp_path, "bbox", edit), "mask-in-bbox-file")
    assert problem.file == f"{DETECTIONS}.json[1]"
    kinds = found(data, tmp_path, "segm", asked="bbox")
    assert set(kinds) == {"mask-in-bbox-file", "bbox"}


def rle_of(image):
    return rle(np.ones((image["height"], image["width"])))


# Panoptic annotations and PNGs.


def set_png(stem, content):
    return lambda entries: entries.__setitem__(f"{PANOPTIC}/{stem}.png", content)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (segment("id", 0), "segment-id", "segment id: 0; expected an integer from 1 to 16777215"),
        (segment("id", 2**24), "segment-id", "segment id: 16777216; expected an integer from 1"),
        (segment("id", "3"), "segment-id", "segment id: '3'; expected an integer"),
        (segment("id", 3), "duplicate-segment", "duplicate segment: 3; expected each id once"),
        (segment("category_id", 0), "category-id", "category id: 0; expected one of the 4 categ"),
        (segment("category_id", 91), "category-id", "category id: 91; expected one of the 4"),
        (field("file_name", "x.png"), "file-name", "file name: 'x.png'; expected 000000000007"),
        (field("file_name", "../../x.png"), "file-name", "file name: '../../x.png'; expected"),
        (field("file_name", None), "file-name", "file name; expected 000000000007.png"),
        (field("segments_info", {}), "segments-info", "segments info: {}; expected a list of"),
        (field("segments_info", [1]), "no-object", "no object: 1; expected a segment with id"),
        (field("image_id", "7"), "image-id", "image id: '7'; expected an integer"),
        (field("image_id", 8), "foreign-image", "foreign image: 8; expected one of the 4 ids"),
        (lambda rows: [*rows, rows[0]], "duplicate-image", "duplicate image: 7; expected each"),
        (lambda rows: [*rows, 1], "no-object", "no object: 1; expected an object with image_id"),
        (lambda rows: rows[1:], "missing-image", "missing image; expected an annotation of each"),
    ],
)
def test_bad_annotations(data, tmp_path, change, kind, message):
    kinds = found(data, tmp_path, "panoptic", edited(change, PANOPTIC))
    (problem,) = kinds[kind]
    assert problem.file.startswith(f"{PANOPTIC}.json")
    assert message in problem.message
    # What follows from it may be told too, nothing else.
    consequences = {"segment-not-in-json", "missing-image", "missing-png", "extra-png"}
    assert set(kinds) <= {kind} | consequences


def test_a_json_as_detectron2_writes_it_is_taken(data, tmp_path):
    def add(entries):
        content = json.loads(entries[f"{PANOPTIC}.json"])
        content = {"info": {"a": [1.5]}, "images": IMAGES, **content, "categories": CATEGORIES}
        entries[f"{PANOPTIC}.json"] = json.dumps(content, indent=1).encode()

    assert not found(data, tmp_path, "panoptic", add)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (png(Image.new("L", (33, 20))), "png", "8-bit greyscale PNG; expected 8-bit RGB"),
        (png(Image.new("RGBA", (33, 20))), "png", "8-bit RGBA PNG; expected 8-bit RGB"),
        (png(Image.new("P", (33, 20))), "png", "1-bit palette PNG; expected 8-bit RGB"),
        (png(Image.new("I;16", (33, 20))), "png", "16-bit greyscale PNG; expected 8-bit RGB"),
        (png(Image.new("RGB", (20, 33))), "png-size", "png size: 20x33; expected 33x20"),
        (png(Image.new("RGB", (33, 20)))[:-20], "png", "truncated or broken PNG"),
        (b"", "png", "not a PNG; expected an 8-bit RGB PNG"),
        (b"\xff\xd8\xff\xe0JFIF" * 9, "png", "not a PNG; expected an 8-bit RGB PNG"),
    ],
)
def test_bad_pngs(data, tmp_path, content, kind, message):
    kinds = found(data, tmp_path, "panoptic", set_png("000000000007", content))
    problem = only(kinds, kind)
    assert (problem.id, problem.file) == (7, f"{PANOPTIC}/000000000007.png")
    assert message in problem.message


def test_ids_of_the_png_and_of_the_json(data, tmp_path):
    kinds = found(
        data,
        tmp_path,
        "panoptic",
        set_png("000000000007", png(Image.new("RGB", (33, 20), (0, 1, 2)))),
    )
    assert set(kinds) == {"segment-not-in-json", "segment-without-pixels"}
    assert [problem.value for problem in kinds["segment-not-in-json"]] == [256 + 2 * 65536]
    without = [problem.value for problem in kinds["segment-without-pixels"]]
    assert without == sorted(without)
    assert {3, 2_700_000} <= set(without)


def test_missing_and_extra_pngs(data, tmp_path):
    def rename(entries):
        entries[f"{PANOPTIC}/7.png"] = entries.pop(f"{PANOPTIC}/000000000007.png")

    kinds = found(data, tmp_path, "panoptic", rename)
    assert set(kinds) == {"missing-png", "extra-png"}
    assert kinds["missing-png"][0].message == (
        f"{PANOPTIC}/000000000007.png: image_id 7: missing png; expected a PNG for each image"
    )
    assert kinds["extra-png"][0].file == f"{PANOPTIC}/7.png"


def test_a_png_that_is_far_too_large(data, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "_PNG_OVERHEAD", 0)
    kinds = found(data, tmp_path, "panoptic", set_png("000000000007", b"\0" * 10**6))
    assert only(kinds, "broken-entry").value == f"more than {4 * 20 * 33} bytes"


# The list of images.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "'images' is empty; expected a list of images"),
        ({"images": [{**IMAGES[0], "id": "1"}]}, "images[0]: 'id' is '1'; expected an integer"),
        ({"images": [IMAGES[0], IMAGES[0]]}, "images: 'id' 30 occurs twice; expected unique ids"),
        (
            {"images": [IMAGES[0], {**IMAGES[0], "id": 1}]},
            "image id 1: 'file_name' 000000000030.jpg occurs twice, but for its suffix; expected",
        ),
        (
            {"images": [IMAGES[0], {**IMAGES[0], "id": 1, "file_name": "a/000000000030.jpg"}]},
            "another image has the PNG 000000000030.png too; expected different names",
        ),
        (
            {"images": [{**IMAGES[0], "file_name": "\udcff.jpg"}]},
            r"image id 30: 'file_name' \udcff.jpg; expected text, as a zip names its files by it",
        ),
        ({"images": [{**IMAGES[0], "height": 0}]}, "image id 30: 'height' is 0; expected pixels"),
        ({"images": [{**IMAGES[0], "file_name": "../x"}]}, "'file_name' is '../x'; expected a pa"),
        ({"categories": 1}, "'categories' is no list of objects with an integer 'id'; expected"),
        ({"categories": [{"id": "1"}]}, "'categories' is no list of objects with an integer"),
    ],
)
def test_bad_lists_of_images(data, tmp_path, change, message):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({**json.loads((data / LIST).read_text()), **change}))
    with pytest.raises(InputError) as caught:
        check_submission(data / "segm" / f"{DETECTIONS}.zip", path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
