"""tools/confusion.py on what an evaluation of Shapes wrote."""

import json
import subprocess
import sys

import pytest

from ..conftest import REPOSITORY, load_tool
from .test_evaluate import VAL, evaluate
from .test_train_net import arguments, one_line


@pytest.fixture(scope="module")
def evaluated(datasets_root, tmp_path_factory):
    """Evaluate a model of random weights; return the command line of what comes after it."""
    output = tmp_path_factory.mktemp("evaluated")
    assert evaluate(load_tool("tools/train_net.py").main, output) == 0
    return output, arguments(output, overrides={"DATASETS.TEST": (VAL,)})


def split(words):
    """Return the config file's option, and --opts, of train_net's arguments."""
    at = words.index("--config-file")
    rest = words[:at] + words[at + 2 :]
    return words[at : at + 2], ["--opts", *rest]


@pytest.fixture
def main():
    return load_tool("tools/confusion.py").main


def test_prints_pairs_and_writes_them(main, evaluated, tmp_path, capsys):
    config, opts = split(evaluated[1])
    path = tmp_path / "pairs.json"
    assert main([*config, "--pairs", "lake,ice", "sand,snow", "--json", str(path), *opts]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{VAL}\n\n| classes")
    (rows,) = json.loads(path.read_text()).values()
    assert [(row["first"], row["second"]) for row in rows] == [("lake", "ice"), ("sand", "snow")]
    for row in rows:
        assert row["pixels"] > 0
        assert row["correct"] + row["swapped"] + row["elsewhere"] == pytest.approx(100)
        assert f"{row['first']}, {row['second']}" in printed


def test_the_most_confused_pairs(main, evaluated, capsys):
    config, opts = split(evaluated[1])
    assert main([*config, "--top", "2", *opts]) == 0
    title, _, *table = capsys.readouterr().out.splitlines()
    assert title == VAL
    assert len(table) == 4  # header, rule, two pairs


def test_in_a_process_of_its_own(evaluated):
    config, opts = split(evaluated[1])
    finished = subprocess.run(
        [sys.executable, "tools/confusion.py", *config, "--top", "0", *opts],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 2
    assert finished.stderr == "error: --top 0: expected 1 or more\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", "0"], "--top 0: expected 1 or more"),
        (["--pairs", "lake,fog"], "--pairs lake,fog: expected two of things"),
        (["--json", "."], "--json .: is a folder"),
    ],
)
def test_bad_arguments(main, evaluated, capsys, words, message):
    config, opts = split(evaluated[1])
    assert main([*config, *words, *opts]) == 2
    assert message in one_line(capsys)


def test_before_any_evaluation(main, evaluated, tmp_path, capsys):
    config, opts = split(arguments(tmp_path, overrides={"DATASETS.TEST": (VAL,)}))
    assert main([*config, *opts]) == 2
    assert "sem_seg_predictions.json: No such file" in one_line(capsys)
