"""Nothing half-written looks complete."""

import pytest

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import replacing, replacing_folder, require_folder, write_text


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


def test_require_folder(tmp_path):
    require_folder(tmp_path / "a/b", "--output")
    require_folder(tmp_path / "a/b", "--output")
    assert list((tmp_path / "a/b").iterdir()) == []
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path / "file", "File exists"), ("/dev/null/x", "Not a directory")):
        with pytest.raises(InputError) as caught:
            require_folder(path, "--output")
        assert str(caught.value) == f"--output: {path}: {reason}, expected a folder to write to"
    with pytest.raises(InputError, match=r"OUTPUT_DIR: : no name, expected a folder"):
        require_folder("", "OUTPUT_DIR")


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "a" / "folder"
    with replacing_folder(path) as partial:
        (partial / "first").touch()
        assert not path.exists()
    with replacing_folder(path) as partial:
        (partial / "second").touch()
    assert [file.name for file in path.iterdir()] == ["second"]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "folder"
    with replacing_folder(path) as partial:
        (partial / "first").touch()

    def fail():
        with replacing_folder(path):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert [file.name for file in path.iterdir()] == ["first"]
    assert list(tmp_path.iterdir()) == [path]
