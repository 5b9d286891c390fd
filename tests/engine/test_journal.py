"""The journal: what is whole is kept, what is half is cut off, another run's is refused."""

import json

import pytest

from ocr_panoptic.engine.journal import Journal
from ocr_panoptic.errors import InputError

ORIGIN = {"config": "c", "weights": "w", "images": "i"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def start(path, **changes):
    return Journal(path, {**ORIGIN, **changes}, "--output DIR")


def test_records_are_read_back(path):
    with start(path) as journal:
        assert not journal.has("a", [1, 2])
        journal.add("a", [1, 2], {"n": 1})
        journal.add("b", None, {"n": [2.5, None, "\n\u00e9"]})
        assert journal["a"] == {"n": 1}
    for _ in range(2):
        with start(path) as journal:
            assert journal.has("a", [1, 2])
            # Its source has changed.
            assert not journal.has("a", [1, 3])
            assert journal["b"] == {"n": [2.5, None, "\n\u00e9"]}
            with pytest.raises(KeyError):
                journal["c"]
    with start(path) as journal:
        journal.add("a", [1, 3], {"n": 3})
        assert journal["a"] == {"n": 3}
    with start(path) as journal:
        assert journal.has("a", [1, 3])
        assert journal["a"] == {"n": 3}


def test_cut_off_at_any_byte_it_loses_that_line_only(path):
    with start(path) as journal:
        for n in range(3):
            journal.add(str(n), n, {"n": n})
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        expected = max(0, sum(len(b"".join(lines[:n])) <= length for n in range(1, 5)) - 1)
        with start(path) as journal:
            assert [journal.has(str(n), n) for n in range(3)] == [n < expected for n in range(3)]
            for n in range(expected, 3):
                journal.add(str(n), n, {"n": n})
            assert [journal[str(n)]["n"] for n in range(3)] == [0, 1, 2]
        # Nothing is there twice.
        assert path.read_bytes() == whole


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_half_a_record_is_taken_back(path, error):
    with start(path) as journal:
        journal.add("a", 1, {"n": 1})
        before = path.read_bytes()
        file = journal._file

        class Full:
            def write(self, content):
                if len(content) < 30:
                    raise error
                return file.write(content[:10])

            def __getattr__(self, name):
                return getattr(file, name)

        journal._file = Full()
        with pytest.raises(type(error)):
            journal.add("b", 1, {"n": 1})
        assert path.read_bytes() == before
        assert not journal.has("b", 1)
        journal._file = file
        journal.add("b", 1, {"n": 2})
        assert journal["b"] == {"n": 2}


def test_another_run_is_refused(path):
    with start(path) as journal:
        journal.add("a", 1, {})
    before = path.read_bytes()
    message = (
        "--output DIR: holds a run with other config and other images, expected the same to go on "
        r"with it, or a new folder \(journal.jsonl says so\)"
    )
    with pytest.raises(InputError, match=message):
        start(path, config="d", images="j")
    assert path.read_bytes() == before


def test_a_run_that_finished_nothing_gives_way(path):
    start(path).close()
    with start(path, config="d") as journal:
        journal.add("a", 1, {})
    assert json.loads(path.read_text().splitlines()[0]) == {"origin": {**ORIGIN, "config": "d"}}


def test_two_at_once_are_refused(path):
    with start(path) as journal:
        with pytest.raises(InputError, match="--output DIR: another process is writing to it"):
            start(path)
        journal.add("a", 1, {})
    with start(path) as journal:
        assert journal.has("a", 1)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("no json\n", 1),
        ("[]\n", 1),
        ('{"name": "a"}\n', 1),
        ('{"origin": {}}\n{"name": "a"}\n', 2),
        ('{"origin": {}}\n\n', 2),
        ('{"origin": 1}\n', 1),
        ('{"origin": {}}\n{"name": [], "source": 1, "content": 1}\n', 2),
    ],
)
def test_what_is_no_journal_is_refused(path, content, line):
    path.write_text(content)
    with pytest.raises(InputError, match=f"journal.jsonl: line {line} is no record, expected the"):
        start(path)
    assert path.read_text() == content
