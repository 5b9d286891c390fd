"""Nothing half-written looks complete."""

import os

import pytest

from ocr_panoptic.errors import InputError
from ocr_panoptic.files import (
    read_bytes,
    replacing,
    replacing_folder,
    require_folder,
    require_output_file,
    write_text,
)


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


def test_a_folder_whose_name_no_system_takes():
    with pytest.raises(InputError, match=r"--output: a\\x00b: embedded null byte, expected"):
        require_folder("a\0b", "--output")


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


def test_a_name_as_long_as_it_can_be(tmp_path):
    name = "\N{GRINNING FACE}" * 63 + "abc"  # 255 bytes
    write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    assert read_bytes(tmp_path / "file") == read_bytes(str(tmp_path / "link")) == b"content"
    for name, reason in (
        ("pipe", "no regular file"),
        ("device", "no regular file"),
        (".", "Is a directory"),
        ("missing", "No such file or directory"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(OSError, match=reason) as caught:
            read_bytes(tmp_path / name)
        assert caught.value.strerror == reason


def test_an_output_replaces_no_input(tmp_path):
    path = tmp_path / "new" / "out.json"
    require_output_file(path, "--json", tmp_path / "in.json", None)
    assert list(path.parent.iterdir()) == []
    (tmp_path / "in.json").write_text("precious")
    path.symlink_to("../in.json")
    for output, message in (
        (tmp_path, f"--json {tmp_path}: is a folder, expected a file"),
        (path, f"--json {path}: is read too, expected another file"),
    ):
        with pytest.raises(InputError) as caught:
            require_output_file(output, "--json", None, tmp_path / "in.json")
        assert str(caught.value) == message
    with pytest.raises(InputError, match=r"--json: /dev/null: .*expected a folder to write to"):
        require_output_file("/dev/null/x", "--json")


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    for path in (pipe, tmp_path / "link"):
        with pytest.raises(InputError) as caught:
            require_output_file(path, "--json")
        assert str(caught.value) == f"--json {path}: is a pipe or a device, expected a file"
        with pytest.raises(OSError, match="no regular file"):
            write_text(path, "x")
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "link", pipe]
