"""Files of any content: the check answers with problems, never with a traceback."""

import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as mask_api

from ocr_panoptic.evaluation.submission import json_stream
from ocr_panoptic.evaluation.submission.build import build_submission
from ocr_panoptic.evaluation.submission.check import check_submission
from ocr_panoptic.evaluation.submission.findings import run_lengths
from ocr_panoptic.evaluation.submission.json_stream import JsonError, JsonStream

from .submissions import NAMES, read_zip, rle, write_data, write_zip

LIST = "panoptic_val2017.json"
FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    for task in NAMES:
        build_submission(task, root / "predictions", "val2017", "ocr", root / LIST, root / task)
    return root


def check(path, data):
    """Check a zip; whatever is told can be printed and written."""
    result = check_submission(path, data / LIST)
    assert all("\n" not in line for line in result.lines())
    "\n".join(result.lines()).encode()
    json.dumps(result.as_dict(), allow_nan=False)
    return result


def spoil(content, changes):
    """Change bytes of ``content``: (place from 0 to 1, new value)."""
    content = bytearray(content)
    for place, value in changes:
        content[int(place * len(content))] = value
    return bytes(content)


CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6
)


@pytest.mark.parametrize("task", ["panoptic", "segm"])
@given(changes=CHANGES, in_list=st.booleans())
@FUZZ
def test_zips_with_wrong_bytes(data, tmp_path, task, changes, in_list):
    right = data / task / f"{NAMES[task]}.zip"
    content = right.read_bytes()
    # Half of the time in the list of entries, which is short and full of numbers.
    start = content.index(b"PK\x01\x02") if in_list else 0
    path = tmp_path / right.name
    path.write_bytes(content[:start] + spoil(content[start:], changes))
    if not check(path, data).problems.rows:
        assert read_zip(path) == read_zip(right)


@pytest.mark.parametrize("task", ["panoptic", "segm"])
@given(length=st.floats(0, 1, exclude_max=True), start=st.floats(0, 1) | st.just(0.0))
@FUZZ
def test_zips_that_are_cut(data, tmp_path, task, length, start):
    content = (data / task / f"{NAMES[task]}.zip").read_bytes()
    path = tmp_path / f"{NAMES[task]}.zip"
    path.write_bytes(content[: int(length * len(content))])
    assert check(path, data).problems.rows
    # zipfile allows for something in front; cut there it finds the wrong places.
    path.write_bytes(content[max(1, int(start * len(content))) :])
    assert check(path, data).problems.rows


@pytest.mark.parametrize("task", ["panoptic", "segm", "bbox"])
@given(changes=CHANGES)
@FUZZ
def test_jsons_with_wrong_bytes(data, tmp_path, task, changes):
    entries = read_zip(data / task / f"{NAMES[task]}.zip")
    name = f"{NAMES[task]}.json"
    entries[name] = spoil(entries[name], changes)
    result = check(write_zip(tmp_path / f"{NAMES[task]}.zip", entries), data)
    try:
        json.loads(entries[name])
    except ValueError:
        assert result.problems.rows


@given(changes=CHANGES)
@FUZZ
def test_pngs_with_wrong_bytes(data, tmp_path, changes):
    entries = read_zip(data / "panoptic" / f"{NAMES['panoptic']}.zip")
    name = f"{NAMES['panoptic']}/000000000030.png"
    right, entries[name] = entries[name], spoil(entries[name], changes)
    result = check(write_zip(tmp_path / f"{NAMES['panoptic']}.zip", entries), data)
    # Every byte of a PNG is in its signature or in a checksum.
    assert bool(result.problems.rows) == (entries[name] != right)
    assert all(problem.id == 30 for problem in result.problems.rows)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["image_id", "category_id", "bbox", "segmentation", "size", "counts", "score", "id"]
                + ["annotations", "segments_info", "file_name"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("task", ["panoptic", "segm", "bbox"])
@given(rows=st.lists(VALUES, max_size=4))
@FUZZ
def test_jsons_of_any_values(data, tmp_path, task, rows):
    entries = read_zip(data / task / f"{NAMES[task]}.zip")
    content = {"annotations": rows} if task == "panoptic" else rows
    entries[f"{NAMES[task]}.json"] = json.dumps(content).encode()
    # None of it is a result.
    assert check(write_zip(tmp_path / f"{NAMES[task]}.zip", entries), data).problems.rows


@given(rows=st.lists(VALUES, max_size=6), chunk=st.integers(1, 9), as_list=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_stream_reads_what_json_reads(rows, chunk, as_list):
    content = rows if as_list else {"a": VALUE_OF_A, "rows": rows, "b": [1, 2.5]}
    text = json.dumps(content, ensure_ascii=False, indent=chunk % 3 or None)
    expected = json.loads(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        encoded = text.encode("utf-8", "surrogatepass")
        stream = JsonStream(io.BytesIO(encoded), len(encoded))
        assert stream.is_list() == as_list
        found = list(stream.rows("rows"))
    if b"\xed" not in encoded:
        assert repr(found) == repr(expected if as_list else expected["rows"])
    assert (stream.non_ascii is None) == encoded.isascii()


VALUE_OF_A = {"info": [1, {"x": None}], "score": 12.25}


@given(
    text=st.binary(max_size=20) | st.text('[]{},:"\\0123.eE-naN tr', max_size=20).map(str.encode)
)
@settings(max_examples=100, deadline=None)
def test_a_stream_of_anything(text):
    stream = JsonStream(io.BytesIO(text), 1000)
    try:
        found = list(stream.rows("a"))
    except JsonError:
        # Rightly: it is no json, or has no such list.
        with pytest.raises((ValueError, KeyError, TypeError)):
            list_of(json.loads(text.decode("utf-8-sig", "replace")))
    else:
        content = list_of(json.loads(text.decode("utf-8-sig", "replace")))
        assert repr(found) == repr(content)


def list_of(content):
    rows = content if isinstance(content, list) else content["a"]
    if not isinstance(rows, list):
        raise TypeError
    return rows


MASKS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)
)


@given(mask=MASKS)
@settings(max_examples=100, deadline=None)
def test_runs_are_those_of_the_mask(mask):
    runs = run_lengths(rle(mask)["counts"])
    values = np.repeat(np.arange(runs.size) % 2, runs)
    assert np.array_equal(values.reshape(mask.shape, order="F"), mask)


@given(
    text=st.text(max_size=30) | st.text([chr(code) for code in range(48, 112)], max_size=30),
    size=st.integers(1, 50),
)
@settings(max_examples=100, deadline=None)
def test_runs_of_any_text(text, size):
    try:
        runs = run_lengths(text)
    except ValueError:
        return
    assert (runs >= 0).all()
    # What is taken for right, pycocotools reads in the same way.
    if runs.sum() == size * size:
        mask = mask_api.decode({"size": [size, size], "counts": text})
        values = np.repeat(np.arange(runs.size) % 2, runs)
        assert np.array_equal(mask, values.reshape(size, size, order="F"))
