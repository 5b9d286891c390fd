"""The linear rule: when a schedule follows the batch, what it becomes, and what is said."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_panoptic.engine.schedule import check_resumed_batch, follow_reference_batch, linear_rule
from ocr_panoptic.engine.setup import load_config
from ocr_panoptic.errors import BAD_INPUT, InputError

from ..conftest import load_tool
from ..models import CONFIGS, TINY
from .runs import SETTINGS, UNTESTED, read, stopped_at

THREE = CONFIGS / "COCO-PanopticSegmentation/panoptic_fpn_ocr_R_50_3x.yaml"
TWO = CONFIGS / "COCO-InstanceSegmentation/mask_rcnn_isa_R_50_FPN_2x.yaml"
ZOO = sorted(path for path in CONFIGS.glob("*/*.yaml") if not path.name.startswith("Base-"))


def followed(path, *overrides):
    """Return the config of a command line after the rule, and what was said."""
    words = [str(word) for word in overrides]
    cfg = load_config(str(path), words)
    return cfg, follow_reference_batch(cfg, str(path), words)


def schedule(cfg):
    solver = cfg.SOLVER
    return (solver.BASE_LR, solver.MAX_ITER, tuple(solver.STEPS), solver.WARMUP_ITERS)


@pytest.fixture
def based(tmp_path):
    """A function that writes a config based on another, and returns its path."""

    def write(content, name="mine.yaml", base=THREE):
        (tmp_path / name).write_text(yaml.safe_dump({"_BASE_": str(base), **content}))
        return tmp_path / name

    return write


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.stem)
def test_every_config_of_the_zoo_says_for_how_many_images_it_is(path):
    cfg, said = followed(path)
    assert cfg.SOLVER.REFERENCE_BATCH == cfg.SOLVER.IMS_PER_BATCH > 0
    assert said == []
    double, said = followed(path, "SOLVER.IMS_PER_BATCH", 2 * cfg.SOLVER.IMS_PER_BATCH)
    assert said[0].startswith("SOLVER.IMS_PER_BATCH: ")
    assert double.SOLVER.BASE_LR == 2 * cfg.SOLVER.BASE_LR
    assert double.SOLVER.MAX_ITER == cfg.SOLVER.MAX_ITER // 2


def test_the_batch_alone():
    cfg, said = followed(TWO, "SOLVER.IMS_PER_BATCH", 4, "TEST.EVAL_PERIOD", 0)
    assert schedule(cfg) == (0.005, 720000, (480000, 640000), 4000)
    assert (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (20000, 0)
    assert said == [
        "SOLVER.IMS_PER_BATCH: 4 instead of 16 (SOLVER.REFERENCE_BATCH), the schedule follows: "
        "BASE_LR 0.02 -> 0.005, MAX_ITER 180000 -> 720000, "
        "STEPS (120000, 160000) -> (480000, 640000), WARMUP_ITERS 1000 -> 4000, "
        "CHECKPOINT_PERIOD 5000 -> 20000"
    ]


def test_periods_set_by_hand_stay():
    periods = ["SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", 5000]
    cfg, _ = followed(TWO, "SOLVER.IMS_PER_BATCH", 32, *periods)
    assert schedule(cfg) == (0.04, 90000, (60000, 80000), 500)
    assert (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (100, 5000)


@pytest.mark.parametrize("period", [0, -1, -500])
def test_no_period_stays_none(based, period):
    path = based({"TEST": {"EVAL_PERIOD": period}, "SOLVER": {"REFERENCE_BATCH": 16}})
    for batch in (4, 64):
        cfg, (said,) = followed(path, "SOLVER.IMS_PER_BATCH", batch)
        assert period == cfg.TEST.EVAL_PERIOD
        assert "EVAL_PERIOD" not in said


def test_a_cosine_ends_lower_too(based):
    path = based({"SOLVER": {"BASE_LR_END": 0.002, "REFERENCE_BATCH": 16}})
    cfg, said = followed(path, "SOLVER.IMS_PER_BATCH", 8)
    assert cfg.SOLVER.BASE_LR_END == 0.001
    assert "BASE_LR_END 0.002 -> 0.001" in said[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [("BASE_LR", 0.3), ("MAX_ITER", 100), ("STEPS", "(7,)"), ("WARMUP_ITERS", 1)],
)
def test_by_hand_means_advice(key, value):
    overrides = ["SOLVER.IMS_PER_BATCH", 8, f"SOLVER.{key}", value]
    cfg, said = followed(THREE, *overrides)
    assert schedule(cfg) == schedule(load_config(str(THREE), list(map(str, overrides))))
    assert said == [
        "SOLVER.IMS_PER_BATCH: 8, and the schedule, for 16 (SOLVER.REFERENCE_BATCH), does not "
        f"follow, as SOLVER.{key} is set by hand; by the linear rule it would be SOLVER.BASE_LR "
        '0.01 SOLVER.MAX_ITER 540000 SOLVER.STEPS "(420000, 500000)" SOLVER.WARMUP_ITERS 2000'
    ]


def test_no_advice_to_who_has_followed_it():
    _, said = followed(
        *(THREE, "SOLVER.IMS_PER_BATCH", 8, "SOLVER.BASE_LR", 0.01, "SOLVER.MAX_ITER", 540000),
        *("SOLVER.STEPS", "(420000, 500000)", "SOLVER.WARMUP_ITERS", 2000),
    )
    assert said == []


def test_there_is_no_rule_where_none_is_asked_for():
    overrides = ["SOLVER.IMS_PER_BATCH", 8, "SOLVER.REFERENCE_BATCH", 0]
    cfg, said = followed(THREE, *overrides)
    assert (said, cfg.SOLVER.BASE_LR) == ([], 0.02)


def test_a_file_based_on_the_schedules_overrides_as_the_command_line_does(based):
    cfg, (said,) = followed(based({"SOLVER": {"IMS_PER_BATCH": 8}}))
    assert schedule(cfg)[:2] == (0.01, 540000)
    assert "the schedule follows" in said
    cfg, (said,) = followed(based({"SOLVER": {"IMS_PER_BATCH": 8, "BASE_LR": 0.02}}))
    assert schedule(cfg)[:2] == (0.02, 270000)
    assert "as SOLVER.BASE_LR is set by hand; by the linear rule it would be" in said
    # The command line over the file over the schedule's.
    path = based({"SOLVER": {"MAX_ITER": 1000}})
    assert "as SOLVER.MAX_ITER is set by hand" in followed(path, "SOLVER.IMS_PER_BATCH", 8)[1][0]


def test_the_file_that_says_for_how_many_images_is_a_schedule(based):
    path = based({"SOLVER": {"MAX_ITER": 1000, "STEPS": [800], "REFERENCE_BATCH": 16}})
    cfg, (said,) = followed(path, "SOLVER.IMS_PER_BATCH", 8)
    assert schedule(cfg)[:3] == (0.01, 2000, (1600,))
    assert "MAX_ITER 1000 -> 2000" in said
    # What is written there together is meant so.
    path = based({"SOLVER": {"IMS_PER_BATCH": 8, "REFERENCE_BATCH": 16}})
    cfg, (said,) = followed(path)
    assert schedule(cfg)[:2] == (0.02, 270000)
    assert "does not follow, as its file says both" in said


def test_the_command_line_says_it_for_a_config_of_others():
    overrides = ["SOLVER.REFERENCE_BATCH", 32, "SOLVER.IMS_PER_BATCH", 64]
    cfg, (said,) = followed(THREE, *overrides)
    assert schedule(cfg)[:2] == (0.04, 135000)
    assert "64 instead of 32" in said


def test_what_a_run_writes_down_is_not_scaled_again(tmp_path):
    cfg, _ = followed(THREE, "SOLVER.IMS_PER_BATCH", 4)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again, said = followed(tmp_path / "config.yaml")
    assert said == []
    assert (again.SOLVER, again.TEST) == (cfg.SOLVER, cfg.TEST)
    # And back, where that is asked for.
    back, _ = followed(tmp_path / "config.yaml", "SOLVER.IMS_PER_BATCH", 16)
    assert back.SOLVER == load_config(str(THREE), []).SOLVER
    # By hand, it is advised again.
    by_hand, said = followed(THREE, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.BASE_LR", 0.02)
    (tmp_path / "config.yaml").write_text(by_hand.dump())
    again, advice = followed(tmp_path / "config.yaml")
    assert again.SOLVER == by_hand.SOLVER
    assert advice[0].split("; ")[1] == said[0].split("; ")[1]


def test_a_batch_that_leaves_no_schedule():
    message = "2000 instead of 8 .* would leave MAX_ITER 1 and STEPS .1, 1., expected a smaller"
    with pytest.raises(InputError, match=message):
        followed(TINY["ocr"], "SOLVER.IMS_PER_BATCH", 2000)


@pytest.mark.parametrize("value", ["0", "-4"])
@pytest.mark.parametrize("key", ["IMS_PER_BATCH", "REFERENCE_BATCH", "MAX_ITER"])
def test_values_that_cannot_be_are_left_to_their_check(key, value):
    batch = [] if key == "IMS_PER_BATCH" else ["SOLVER.IMS_PER_BATCH", 4]
    cfg, _ = followed(TINY["ocr"], *batch, f"SOLVER.{key}", value)
    assert cfg.SOLVER.STEPS == (220, 270)


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 64), reference=st.integers(1, 64))
def test_the_same_images_at_each_moment(batch, reference):
    cfg = load_config(str(THREE), ["SOLVER.REFERENCE_BATCH", str(reference)])
    ruled = linear_rule(cfg, batch)
    assert ruled["SOLVER.BASE_LR"] / batch == pytest.approx(0.02 / reference)
    for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
        images = getattr(cfg.SOLVER, key) * reference
        assert abs(ruled[f"SOLVER.{key}"] * batch - images) <= batch / 2
    assert list(ruled["SOLVER.STEPS"]) == sorted(ruled["SOLVER.STEPS"])


@pytest.mark.parametrize(
    ("batch", "reference", "before", "refused"),
    [
        *((8, 8, 16, True), (8, 8, 8, False), (8, 8, None, False)),
        # A schedule by hand, and none that is for any batch.
        *((8, 16, 16, False), (8, 0, 16, False)),
    ],
)
def test_iterations_of_another_batch_are_not_gone_on_with(batch, reference, before, refused):
    overrides = ["SOLVER.IMS_PER_BATCH", batch, "SOLVER.REFERENCE_BATCH", reference]
    cfg = load_config(str(THREE), [*map(str, overrides), "OUTPUT_DIR", "run"])
    if not refused:
        check_resumed_batch(cfg, before)
        return
    message = r"--resume: run: .* 16 images per batch.* expected SOLVER.IMS_PER_BATCH 16, or"
    with pytest.raises(InputError, match=message):
        check_resumed_batch(cfg, before)


def test_a_run_says_so_and_goes_on_as_it_began(datasets_root, tmp_path, capsys):
    main = load_tool("tools/train_net.py").main
    # Three iterations of four images are six of two.
    text = f"_BASE_: {TINY['ocr']}\nSOLVER: {{MAX_ITER: 3, STEPS: [2], REFERENCE_BATCH: 4}}\n"
    (tmp_path / "mine.yaml").write_text(text)

    def argv(output, *options, batch=2):
        settings = {**SETTINGS, **UNTESTED, "OUTPUT_DIR": output, "SOLVER.IMS_PER_BATCH": batch}
        del settings["SOLVER.MAX_ITER"], settings["SOLVER.STEPS"]
        words = [str(word) for pair in settings.items() for word in pair]
        return ["--config-file", str(tmp_path / "mine.yaml"), *options, *words]

    assert main(argv(tmp_path / "run")) == 0
    log = (tmp_path / "run/log.txt").read_text()
    line = "SOLVER.IMS_PER_BATCH: 2 instead of 4 (SOLVER.REFERENCE_BATCH), the schedule follows: "
    assert log.count(line) == 1
    assert read(tmp_path / "run")["iteration"] == 5
    # The same command line goes on in the same schedule, another batch in none.
    output = stopped_at(tmp_path / "resumed", tmp_path / "run", 3)
    assert main(argv(output, "--resume")) == 0
    assert read(output)["iteration"] == 5
    output = stopped_at(tmp_path / "other", tmp_path / "run", 3)
    assert main(argv(output, "--resume", batch=4)) == BAD_INPUT
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "checkpoint is of a schedule with 2 images per batch" in last
