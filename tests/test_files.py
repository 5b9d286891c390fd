"""Nothing half-written looks complete."""

import pytest

from ocr_panoptic.files import replacing, write_text


def test_writes_and_makes_parents(tmp_path):
    write_text(tmp_path / "a/b.txt", "déjà")
    assert (tmp_path / "a/b.txt").read_text(encoding="utf-8") == "déjà"


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("before")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
