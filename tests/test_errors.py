"""How a user's mistake travels to stderr, and what is printed to a reader that has gone."""

import os
import sys

import pytest
import torch

from ocr_panoptic.errors import (
    BAD_INPUT,
    INTERRUPTED,
    ArgumentParser,
    InputError,
    command_line,
)

from .conftest import REPOSITORY, load_tool

TOOLS = [
    str(path.relative_to(REPOSITORY))
    for folder in ("tools", "datasets")
    for path in sorted((REPOSITORY / folder).glob("*.py"))
]


class Failing(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise InputError("a.png: label 77, expected 0 to 6")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_survives_a_loader_worker_as_one_line(num_workers):
    loader = torch.utils.data.DataLoader(Failing(), num_workers=num_workers)
    with pytest.raises(InputError) as caught:
        next(iter(loader))
    assert str(caught.value) == "a.png: label 77, expected 0 to 6"


def test_command_line_answers_with_status_and_one_line(capsys):
    @command_line
    def main(argv):
        if argv == "bad":
            raise InputError("x: 1, expected 2")
        if argv == "Ctrl-C":
            raise KeyboardInterrupt
        if argv == "bug":
            raise RuntimeError("ours")
        return {"done": None, "other": 7}[argv]

    assert (main("done"), main("other"), main("bad")) == (0, 7, BAD_INPUT)
    assert capsys.readouterr().err == "error: x: 1, expected 2\n"
    assert main("Ctrl-C") == INTERRUPTED == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(RuntimeError, match="ours"):
        main("bug")


def test_a_message_is_one_line_whatever_it_names(capsys):
    @command_line
    def main():
        raise InputError("a\nb\x1b[31m\udcff\u202e.png: caf\xe9, expected another")

    assert main() == BAD_INPUT
    line = "error: a\\nb\\x1b[31m\\udcff\\u202e.png: caf\xe9, expected another\n"
    assert capsys.readouterr().err == line


def test_a_name_that_is_too_long_is_a_users(capsys, tmp_path):
    path = tmp_path / ("\n" + "x" * 300)
    assert command_line(path.is_file)() == BAD_INPUT
    line = f"error: {tmp_path}/\\n{'x' * 300}: File name too long, expected a shorter one\n"
    assert capsys.readouterr().err == line
    with pytest.raises(FileNotFoundError):
        command_line((tmp_path / "missing").read_bytes)()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_read_enough_ends_nothing(monkeypatch, tmp_path, stream):
    done = []

    @command_line
    def main(*, fails):
        print("first", file=getattr(sys, stream), flush=True)
        print("second" * 10_000, file=getattr(sys, stream))
        done.append(fails)
        if fails:
            raise InputError("x")
        return 7

    for fails, status in ((False, 7), (True, BAD_INPUT)):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w", encoding="ascii") as closed:
            monkeypatch.setattr(sys, stream, closed)
            assert main(fails=fails) == status
            assert getattr(sys, stream) is closed
    assert done == [False, True]


def test_printed_letters_that_an_encoding_lacks_are_escapes(monkeypatch, tmp_path):
    @command_line
    def main():
        print("caf\xe9 \udcff")

    with open(tmp_path / "out", "w", encoding="ascii") as stdout:
        stdout.write("before ")
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main() == 0
        stdout.write("after")
    assert (tmp_path / "out").read_text() == "before caf\\xe9 \\udcff\nafter"


def test_a_closed_stdout_is_no_mistake(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert command_line(lambda: print("x"))() == 0


@pytest.mark.parametrize("path", TOOLS)
def test_every_command_line_answers_so(path, capsys):
    main = load_tool(path).main
    assert main(["--no-such-option"]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_overrides_without_opts_are_told_where_they_belong():
    parser = ArgumentParser()
    parser.add_argument("--opts", nargs="*")
    with pytest.raises(InputError, match=r"arguments: MODEL\.WEIGHTS x; expected KEY VALUE behind"):
        parser.parse_args(["MODEL.WEIGHTS", "x"])
    with pytest.raises(InputError) as caught:
        parser.parse_args(["--colour", "x"])
    assert str(caught.value) == "unrecognized arguments: --colour x"
    with pytest.raises(InputError) as caught:
        ArgumentParser().parse_args(["MODEL.WEIGHTS", "x"])
    assert str(caught.value) == "unrecognized arguments: MODEL.WEIGHTS x"
    assert parser.parse_args(["--opts", "a", "b"]).opts == ["a", "b"]
