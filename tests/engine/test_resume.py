"""A run that was stopped and resumed is, to the last bit, the run that was never stopped."""

import json
import re

import pytest
import torch
from detectron2.utils import comm

from ocr_panoptic.engine.resume import what_differs
from ocr_panoptic.errors import BAD_INPUT

from ..conftest import load_tool
from .processes import Command
from .runs import TRAIN, UNTESTED, VAL, arguments, assert_equal, differ, read, stopped_at

NOT_EXACT = "not bit for bit as a run that was never stopped"


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/train_net.py").main


@pytest.fixture(scope="module")
def finished(main, datasets_root, tmp_path_factory):
    """The output folder of a run that nobody stopped."""
    output = tmp_path_factory.mktemp("finished")
    assert main(arguments(output)) == 0
    return output


def warned(output):
    """Return the warnings of a resumed run that it is not exact."""
    return [line for line in (output / "log.txt").read_text().splitlines() if NOT_EXACT in line]


@pytest.mark.parametrize("iteration", [1, 3])
def test_a_resumed_run_ends_with_the_same_checkpoint(main, finished, tmp_path, iteration):
    output = stopped_at(tmp_path / "run", finished, iteration)
    assert main(arguments(output, "--resume")) == 0
    # Weights, momentum, schedule, random states, position in the data.
    assert_equal(read(output), read(finished))
    log = (output / "log.txt").read_text()
    assert f"resumed from {output}/model_{iteration:07d}.pth at iteration {iteration + 1}" in log
    assert not warned(output)


def test_a_checkpoint_holds_nothing_that_could_run_code(finished):
    torch.load(finished / "model_final.pth", weights_only=True)


def test_neither_workers_nor_evaluations_change_a_run(main, finished, tmp_path):
    # It has evaluated after four iterations, and without workers.
    overrides = {"DATALOADER.NUM_WORKERS": 2, **UNTESTED}
    assert main(arguments(tmp_path, overrides=overrides)) == 0
    assert_equal(read(tmp_path), read(finished))


def test_a_run_killed_between_its_last_two_checkpoints_is_completed(main, finished, tmp_path):
    output = stopped_at(tmp_path / "run", finished, 5)
    assert main(arguments(output, "--resume")) == 0
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert_equal(read(output), read(finished))
    metrics = f"inference/{VAL}/metrics.json"
    assert json.loads((output / metrics).read_text()) == json.loads(
        (finished / metrics).read_text()
    )
    # Another resume does nothing but evaluate.
    before = (output / "model_final.pth").stat().st_mtime_ns
    assert main(arguments(output, "--resume")) == 0
    assert (output / "model_final.pth").stat().st_mtime_ns == before


def test_a_seed_that_is_drawn_is_drawn_once(main, datasets_root, tmp_path):
    short = {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (1,), "SOLVER.CHECKPOINT_PERIOD": 1, **UNTESTED}
    drawn = {**short, "SEED": -1}
    assert main(arguments(tmp_path / "first", overrides=drawn)) == 0
    seed = re.search(r"SEED: -1, drawn: (\d+)", (tmp_path / "first/log.txt").read_text())[1]
    state = read(tmp_path / "first")
    assert state["trainer"]["data_loader"]["seed"] == int(seed)
    output = stopped_at(tmp_path / "resumed", tmp_path / "first", 0)
    assert main(arguments(output, "--resume", overrides=drawn)) == 0
    assert f"SEED: going on with {seed}, the checkpoint's" in (output / "log.txt").read_text()
    assert_equal(read(output), state)
    # The log says all that it takes to have the same run again, and the next one is another.
    for name, override in (("again", {**short, "SEED": seed}), ("next", drawn)):
        assert main(arguments(tmp_path / name, overrides=override)) == 0
    assert_equal(read(tmp_path / "again"), state)
    assert differ(read(tmp_path / "next"), state)


def test_precise_batch_norm_resumes_too(main, datasets_root, tmp_path):
    precise = {
        **{"TEST.PRECISE_BN.ENABLED": True, "TEST.PRECISE_BN.NUM_ITER": 2, "TEST.EVAL_PERIOD": 2},
        **{"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": (2,), **UNTESTED},
    }
    assert main(arguments(tmp_path / "whole", overrides=precise)) == 0
    output = stopped_at(tmp_path / "resumed", tmp_path / "whole", 1)
    assert main(arguments(output, "--resume", overrides=precise)) == 0
    assert_equal(read(output), read(tmp_path / "whole"))
    # It changes statistics, and nothing that is trained.
    without = {**precise, "TEST.PRECISE_BN.ENABLED": False}
    assert main(arguments(tmp_path / "without", overrides=without)) == 0
    assert_equal(read(tmp_path / "without")["trainer"], read(output)["trainer"])
    assert differ(read(tmp_path / "without"), read(output))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"SOLVER.IMS_PER_BATCH": 4}, "images per batch: 4, before 2"),
        (
            {"DATASETS.TRAIN": (TRAIN, VAL)},
            f"images: 13, before 8; DATASETS.TRAIN: {(TRAIN, VAL)}, before {(TRAIN,)}",
        ),
        ({"SEED": 8}, None),
        # Those that change where, how often and how long, or an evaluation.
        (
            {"SOLVER.CHECKPOINT_PERIOD": 3, "INPUT.MIN_SIZE_TEST": 80, "TEST.DTYPE": "bfloat16"},
            None,
        ),
        ({"SOLVER.STEPS": (5,)}, "SOLVER.STEPS: (5,), before (4,)"),
        (
            {"SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR"},
            "SOLVER.LR_SCHEDULER_NAME: WarmupCosineLR, before WarmupMultiStepLR",
        ),
        (
            {"INPUT.MIN_SIZE_TRAIN": (64,), "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 2.0},
            "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT: 2.0, before 0.25; INPUT.MIN_SIZE_TRAIN: (64,), before "
            "(64, 80, 96)",
        ),
    ],
)
def test_what_changed_is_one_line(main, finished, tmp_path, overrides, words):
    output = stopped_at(tmp_path / "run", finished, 3)
    assert main(arguments(output, "--resume", overrides={**UNTESTED, **overrides})) == 0
    if words is None:
        # The run's own seed goes on.
        assert not warned(output)
        log = (output / "log.txt").read_text()
        assert ("SEED: going on with 3, the checkpoint's" in log) == ("SEED" in overrides)
        assert_equal(read(output), read(finished))
    else:
        (line,) = warned(output)
        assert line.endswith(f"({words})")
    assert read(output)["iteration"] == 5


def test_another_length_of_the_same_schedule_is_no_difference(main, finished, tmp_path):
    output = stopped_at(tmp_path / "run", finished, 3)
    overrides = {"SOLVER.MAX_ITER": 5, **UNTESTED}
    assert main(arguments(output, "--resume", overrides=overrides)) == 0
    assert not warned(output)


def test_the_optimizers_settings_are_the_checkpoints(main, finished, tmp_path):
    output = stopped_at(tmp_path / "run", finished, 3)
    overrides = {
        **{"SOLVER.BASE_LR": 0.5, "SOLVER.WEIGHT_DECAY": 0.25, "SOLVER.MOMENTUM": 0.1},
        **{"SOLVER.NESTEROV": True, **UNTESTED},
    }
    assert main(arguments(output, "--resume", overrides=overrides)) == 0
    log = (output / "log.txt").read_text()
    for line in (
        "SOLVER.BASE_LR: 0.5 is not used: going on with 0.03, the checkpoint's",
        "SOLVER.WEIGHT_DECAY: 0.25 is not used: going on with 0.0001, the checkpoint's",
        "SOLVER.MOMENTUM: 0.1 is not used: going on with 0.9, the checkpoint's",
        "SOLVER.NESTEROV: True is not used: going on with False, the checkpoint's",
    ):
        assert line in log
    assert not warned(output)
    assert_equal(read(output), read(finished))


def test_a_checkpoint_without_its_config_says_nothing_of_it(main, finished, tmp_path):
    output = stopped_at(tmp_path / "run", finished, 3)
    content = read(output, "model_0000003")
    del content["trainer"]["circumstances"]["config"]
    torch.save(content, output / "model_0000003.pth")
    overrides = {"SOLVER.STEPS": (5,), **UNTESTED}
    assert main(arguments(output, "--resume", overrides=overrides)) == 0
    assert not warned(output)


def test_many_differences_are_counted():
    now = {"torch": "2", "config": {f"KEY{number}": 1 for number in range(8)}}
    before = {"torch": "1", "config": {f"KEY{number}": 0 for number in range(9)}}
    told = what_differs(before, now)
    assert told[:2] == ["torch: 2, before 1", "KEY0: 1, before 0"]
    assert told[-1] == "and 2 more keys of the config"
    assert len(told) == 8


def test_a_checkpoint_of_detectron2s_trainer_is_gone_on_with(main, finished, tmp_path):
    output = stopped_at(tmp_path / "run", finished, 3)
    content = read(output, "model_0000003")
    del content["trainer"]["data_loader"], content["trainer"]["circumstances"]
    del content["trainer"]["hooks"]["RandomStates"]
    torch.save(content, output / "model_0000003.pth")
    assert main(arguments(output, "--resume", overrides=UNTESTED)) == 0
    (line,) = warned(output)
    assert line.endswith("(the checkpoint does not say how it was trained)")
    # It goes on behind the samples of four iterations of two images.
    assert read(output)["trainer"]["data_loader"] == {"seed": 3, "samples": 12}


def test_states_of_another_iteration_are_not_used(main, finished, tmp_path):
    output = stopped_at(tmp_path / "run", finished, 3)
    content = read(output, "model_0000003")
    content["trainer"]["hooks"]["RandomStates"]["iteration"] = 1
    torch.save(content, output / "model_0000003.pth")
    assert main(arguments(output, "--resume", overrides=UNTESTED)) == 0
    (line,) = warned(output)
    assert line.endswith("(it has no random state of its iteration)")
    assert differ(read(output), read(finished))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("data_loader", [1, 2]),
        ("data_loader", {"seed": -1, "samples": 3}),
        ("data_loader", {}),
        ("RandomStates", {"states": "some", "iteration": 3}),
        ("RandomStates", {"states": [{"torch": 3}], "iteration": 3}),
        ("RandomStates", {"iteration": 3}),
        ("RandomStates", [1, 2]),
    ],
)
def test_a_broken_state_is_one_line(main, finished, tmp_path, capsys, part, value):
    output = stopped_at(tmp_path / "run", finished, 3)
    content = read(output, "model_0000003")
    trainer = content["trainer"]
    (trainer if part == "data_loader" else trainer["hooks"])[part] = value
    torch.save(content, output / "model_0000003.pth")
    assert main(arguments(output, "--resume")) == BAD_INPUT
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"error: --resume: {output}/model_0000003.pth: its trainer is not of")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["trainer"], None, "its trainer is not of this config"),
        (["trainer"], [1], "its trainer is not of this config"),
        (["trainer"], "x", "its trainer is not of this config"),
        (["iteration"], -7, "its iteration is -7, its trainer's 3, expected the same, 0 or more"),
        (["iteration"], 1, "its iteration is 1, its trainer's 3, expected the same"),
        (["iteration"], True, "has no number of iterations"),
        (["trainer", "iteration"], "3", "its iteration is 3, its trainer's 3, expected the same"),
        (["trainer", "hooks"], [], "its trainer is not of this config"),
        (
            ["trainer", "hooks", "LRScheduler", "last_epoch"],
            "x",
            "its trainer is not of this config (the scheduler's last_epoch is a str, no number)",
        ),
        (["trainer", "hooks", "LRScheduler"], {}, "(the scheduler's last_epoch is missing)"),
        (["trainer", "hooks", "LRScheduler", "base_lrs"], [1.0], "the scheduler's base_lrs are"),
        (["trainer", "_trainer", "optimizer"], None, "its trainer is not of this config"),
        (["trainer", "_trainer", "optimizer", "param_groups"], None, "is not of this config"),
        (["trainer", "_trainer", "optimizer", "state"], "x", "is not of this config"),
        (
            ["trainer", "_trainer", "optimizer", "param_groups", 0, "momentum"],
            "x",
            "the optimizer's momentum is a str, no number",
        ),
        (
            ["trainer", "_trainer", "optimizer", "state", 0, "momentum_buffer"],
            torch.zeros(3, 7),
            "momentum_buffer is of (3, 7) for a parameter of",
        ),
        (
            ["trainer", "_trainer", "optimizer", "state", 0, "momentum_buffer"],
            "x",
            "momentum_buffer is str for a parameter of",
        ),
        (["trainer", "_trainer", "skipped"], [], "is not of this config"),
        (["trainer", "_trainer", "skipped"], {"steps": None, "in_a_row": 0}, "not of this config"),
    ],
)
def test_an_edited_checkpoint_is_one_line(main, finished, tmp_path, capsys, path, value, message):
    output = stopped_at(tmp_path / "run", finished, 3)
    part = content = read(output, "model_0000003")
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    torch.save(content, output / "model_0000003.pth")
    assert main(arguments(output, "--resume", overrides=UNTESTED)) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --resume: {output}/model_0000003.pth")
    assert message in line


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SEED", 2**31, "SEED: 2147483648, expected -2147483647 to 2147483647"),
        ("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler", "expected one of TrainingSampler"),
        ("DATALOADER.RANDOM_SUBSET_RATIO", 1.5, "RANDOM_SUBSET_RATIO: 1.5, expected 0 to 1"),
        ("DATALOADER.REPEAT_THRESHOLD", -0.5, "REPEAT_THRESHOLD: -0.5, expected 0 or more"),
        ("DATALOADER.ASPECT_RATIO_GROUPING", "None", "GROUPING: None, expected True or False"),
    ],
)
def test_values_that_no_loader_takes(main, datasets_root, tmp_path, capsys, key, value, message):
    assert main(arguments(tmp_path, overrides={key: value})) == BAD_INPUT
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_processes_that_find_different_checkpoints_stop(
    main, finished, tmp_path, monkeypatch, capsys
):
    gather = comm.all_gather
    monkeypatch.setattr(
        comm, "all_gather", lambda data, *rest: [0, data] if data == 4 else gather(data, *rest)
    )
    output = stopped_at(tmp_path / "run", finished, 3)
    assert main(arguments(output, "--resume")) == BAD_INPUT
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{output}: the processes find checkpoints of different iterations, 0 and 4" in last


@pytest.mark.slow
def test_two_processes_resume_as_two_and_as_one(main, datasets_root, tmp_path):
    overrides = {"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": (3,), **UNTESTED}

    def train(output, *options):
        argv = arguments(output, *options, "--num-gpus", "2", overrides=overrides)
        with Command(datasets_root, output.with_suffix(".command"), argv) as command:
            command.require(0)

    train(tmp_path / "whole")
    states = read(tmp_path / "whole")["trainer"]["hooks"]["RandomStates"]["states"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
    output = stopped_at(tmp_path / "two", tmp_path / "whole", 1)
    train(output, "--resume")
    assert_equal(read(output), read(tmp_path / "whole"))
    assert not warned(output)
    output = stopped_at(tmp_path / "one", tmp_path / "whole", 1)
    assert main(arguments(output, "--resume", overrides=overrides)) == 0
    (line,) = warned(output)
    assert "(processes: 1, before 2" in line
    assert read(output)["iteration"] == 3
    assert differ(read(output), read(tmp_path / "whole"))
