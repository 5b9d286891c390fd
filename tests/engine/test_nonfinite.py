"""A loss that is not finite: what is written, that nothing learns from it, and how the run ends."""

import json
import logging
import math

import pytest
import torch
from detectron2.engine.train_loop import AMPTrainer, HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from ocr_panoptic.engine.nonfinite import FiniteAMPTrainer, FiniteTrainer
from ocr_panoptic.engine.saved_batch import load_batch
from ocr_panoptic.engine.trainer import Trainer
from ocr_panoptic.errors import NON_FINITE_LOSS, NonFiniteLossError

from ..conftest import load_tool
from .processes import Command
from .runs import TRAIN, UNTESTED, arguments, assert_equal, read

DIVERGED = "Predicted boxes or scores contain Inf/NaN. Training has diverged."


class Model(nn.Module):
    """Two losses of images of four numbers; a NaN among these spoils one of the losses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)
        self.other = nn.Linear(4, 1)

    def forward(self, batch):
        images = torch.stack([one["image"] for one in batch])
        # A batch norm now has them in its statistics.
        features = self.backbone(images)
        if images.isinf().any():
            raise FloatingPointError(DIVERGED)
        other = self.other(images.nan_to_num())
        return {"loss_head": self.head(features).square().mean(), "loss_other": other.abs().mean()}


def batches(spoilt, value=math.nan, count=6):
    """Return batches of three images each, with one value in those whose numbers are given."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for number in range(count):
        images = torch.randn(3, 4, generator=generator)
        if number in spoilt:
            images[1, 2] = value
        made.append(
            [
                {"image": image, "file_name": f"{number}-{place}.png", "image_id": place}
                for place, image in enumerate(images)
            ]
        )
    return made


def step_of(output, loader, skips=0, kind=FiniteTrainer, **kwargs):
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return kind(model, loader, optimizer, output=output, skips=skips, **kwargs)


def state(trainer):
    return {key: value.clone() for key, value in trainer.model.state_dict().items()}


def report(output):
    # Nothing that json does not have.
    return json.loads((output / "nonfinite.json").read_text(), parse_constant=pytest.fail)


class States(HookBase):
    """Keeps what the model was after each step."""

    def __init__(self):
        self.states, self.scalars = [], {}

    def after_step(self):
        self.states.append(state(self.trainer))
        self.scalars = dict(get_event_storage().latest())


def test_it_stops_with_a_report(tmp_path):
    trainer = step_of(tmp_path, batches({3}))
    seen = States()
    trainer.register_hooks([seen])
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train(0, 6)
    assert str(caught.value) == (
        f"iteration 3: no finite loss (loss_head nan), see {tmp_path}/nonfinite.json; "
        "SOLVER.NONFINITE skip goes on without such a batch"
    )
    # The optimizer was not stepped.
    assert len(seen.states) == 3
    for key, value in trainer.model.named_parameters():
        assert torch.equal(value, seen.states[-1][key])
    content = report(tmp_path)
    assert (content["iteration"], content["action"], content["skipped_steps"]) == (3, "stop", 0)
    assert (content["learning_rate"], content["loss_scale"]) == (0.1, 1.0)
    norms = content["gradient_norms"]
    assert content["gradients_of_iteration"] == 3
    # The part that the NaN came through, and the one that has nothing to do with it.
    assert (norms["total"], norms["backbone"], norms["head"]) == ("nan", "nan", "nan")
    other = [p.grad for p in trainer.model.other.parameters()]
    assert norms["other"] == pytest.approx(math.hypot(*(grad.norm().item() for grad in other)))
    assert content["nonfinite_weights"] == []
    (process,) = content["processes"]
    assert process["rank"] == 0
    assert process["losses"]["loss_head"] == process["total_loss"] == "nan"
    assert 0 < process["losses"]["loss_other"] < 100
    names = [{"file_name": f"3-{place}.png", "image_id": place} for place in range(3)]
    assert process["images"] == names
    assert process["batch"] == f"{tmp_path}/nonfinite_batch.pth"
    batch = load_batch(tmp_path / "nonfinite_batch.pth")
    assert [one["file_name"] for one in batch] == ["3-0.png", "3-1.png", "3-2.png"]
    assert batch[1]["image"].isnan().tolist() == [False, False, True, False]
    # Nothing else is left.
    assert {path.name for path in tmp_path.iterdir()} == {"nonfinite.json", "nonfinite_batch.pth"}


def test_the_model_keeps_no_hook(tmp_path):
    trainer = step_of(tmp_path, batches({2}))
    with pytest.raises(NonFiniteLossError):
        trainer.train(0, 6)
    assert not trainer.model._forward_hooks
    assert not trainer.model._forward_pre_hooks


def test_detectron2s_rpn_finds_no_loss_at_all(tmp_path):
    trainer = step_of(tmp_path, batches({2}, math.inf))
    with pytest.raises(NonFiniteLossError, match=r"iteration 2: no finite loss \(Predicted boxes"):
        trainer.train(0, 6)
    content = report(tmp_path)
    (process,) = content["processes"]
    assert (process["losses"], process["total_loss"]) == ({}, None)
    assert process["error"] == DIVERGED
    assert [image["file_name"] for image in process["images"]] == ["2-0.png", "2-1.png", "2-2.png"]
    assert load_batch(process["batch"])[1]["image"].isinf().any()
    # Of the step before, as there was no way back in this one.
    assert content["gradients_of_iteration"] == 1
    assert 0 < content["gradient_norms"]["total"] < 100


def test_in_the_first_iteration_there_are_no_gradients(tmp_path):
    with pytest.raises(NonFiniteLossError):
        step_of(tmp_path, batches({0}, math.inf)).train(0, 6)
    assert report(tmp_path)["gradients_of_iteration"] is None
    assert report(tmp_path)["gradient_norms"] == {}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_skipped_step_leaves_no_trace_in_the_model(tmp_path, caplog, value):
    trainer = step_of(tmp_path, batches({1, 3}, value), skips=1)
    seen = States()
    trainer.register_hooks([seen])
    with caplog.at_level(logging.WARNING):
        trainer.train(0, 6)
    # Statistics of BatchNorm among them, which the forward pass had changed.
    assert_equal(seen.states[1], seen.states[0])
    assert_equal(seen.states[3], seen.states[2])
    assert all(value.isfinite().all() for value in seen.states[5].values())
    assert not torch.equal(seen.states[5]["head.weight"], seen.states[3]["head.weight"])
    said = [r.getMessage() for r in caplog.records if "no finite loss" in r.getMessage()]
    assert len(said) == 2
    assert said[1].startswith("iteration 3: no finite loss (")
    assert said[1].endswith("nonfinite.json; skipped, with 3-0.png, 3-1.png, 3-2.png")
    assert seen.scalars["skipped_steps"] == (2, 3)
    assert (report(tmp_path)["action"], report(tmp_path)["skipped_steps"]) == ("skip", 2)
    # A run without these batches learns the same.
    without = step_of(tmp_path, [b for n, b in enumerate(batches({})) if n not in (1, 3)])
    without.train(0, 4)
    assert_equal(state(without), state(trainer))


def test_it_does_not_skip_for_ever(tmp_path):
    (tmp_path / "model_0000001.pth").touch()
    trainer = step_of(tmp_path, batches({0, 2, 3, 4, 5}), skips=2)
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train(0, 6)
    assert str(caught.value) == (
        f"iteration 4: no finite loss (loss_head nan), see {tmp_path}/nonfinite.json; 2 steps "
        "before it were skipped (SOLVER.NONFINITE_SKIPS); --resume goes on from the last checkpoint"
    )
    assert (report(tmp_path)["action"], report(tmp_path)["skipped_steps"]) == ("stop", 3)


def test_a_checkpoint_knows_how_many_were_skipped(tmp_path):
    trainer = step_of(tmp_path, batches({1, 2}), skips=3)
    trainer.train(0, 3)
    content = trainer.state_dict()
    assert content["skipped"] == {"steps": 2, "in_a_row": 2}
    resumed = step_of(tmp_path, batches({0, 1}), skips=3)
    resumed.load_state_dict(content)
    with pytest.raises(
        NonFiniteLossError, match=r"iteration 4: .*; 3 steps before it were skipped"
    ):
        resumed.train(3, 6)
    # One of Detectron2's own trainer.
    del content["skipped"]
    other = step_of(tmp_path, batches({0, 1}), skips=3)
    other.load_state_dict(content)
    other.train(3, 5)
    assert other.state_dict()["skipped"] == {"steps": 2, "in_a_row": 2}


def test_weights_that_were_broken_before_are_named(tmp_path):
    trainer = step_of(tmp_path, batches({}))
    with torch.no_grad():
        trainer.model.head.weight[0, 1] = math.nan
    with pytest.raises(
        NonFiniteLossError, match=r"weights were not finite before it \(head\.weight"
    ):
        trainer.train(0, 6)
    assert report(tmp_path)["nonfinite_weights"] == ["head.weight"]


def test_what_cannot_be_written_stops_nobody_from_stopping(tmp_path):
    (tmp_path / "nonfinite.json").mkdir()
    (tmp_path / "nonfinite_batch.pth").mkdir()
    with pytest.raises(NonFiniteLossError, match=r"nonfinite\.json cannot be written \(Is a dir"):
        step_of(tmp_path, batches({1})).train(0, 6)


def test_a_batch_that_cannot_be_written_is_in_the_report(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:595] .\nunexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(NonFiniteLossError):
        step_of(tmp_path, batches({1})).train(0, 6)
    (process,) = report(tmp_path)["processes"]
    assert process["batch"] is None
    assert process["batch_error"].endswith(". unexpected pos 64 vs 0")
    assert {path.name for path in tmp_path.iterdir()} == {"nonfinite.json"}


class Scaler:
    """A gradient scaler whose gradients overflow in one step."""

    def __init__(self, overflows):
        self.overflows, self.steps = overflows, 0

    def scale(self, loss):
        self.steps += 1
        return loss * (math.inf if self.steps == self.overflows else 1024.0)

    def step(self, optimizer):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        for gradient in gradients:
            gradient /= 1024.0
        if all(gradient.isfinite().all() for gradient in gradients):
            optimizer.step()

    def update(self):
        pass

    def get_scale(self):
        return 1024.0

    def state_dict(self):
        return {}


@pytest.fixture
def mixed_precision(monkeypatch):
    """Detectron2's AMPTrainer on a machine without CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    autocast = torch.cuda.amp.autocast
    monkeypatch.setattr(torch.cuda.amp, "autocast", lambda dtype: autocast(enabled=False))


def test_gradients_that_overflow_are_the_scalers_business(tmp_path, mixed_precision):
    scaler = Scaler(overflows=3)
    trainer = step_of(tmp_path, batches({}), kind=FiniteAMPTrainer, grad_scaler=scaler)
    assert isinstance(trainer, AMPTrainer)
    seen = States()
    trainer.register_hooks([seen])
    trainer.train(0, 5)
    assert torch.equal(seen.states[2]["head.weight"], seen.states[1]["head.weight"])
    assert not list(tmp_path.iterdir())


def test_mixed_precision_reports_gradients_without_their_scale(tmp_path, mixed_precision):
    plain = step_of(tmp_path / "plain", batches({3}))
    scaled = step_of(tmp_path / "amp", batches({3}), kind=FiniteAMPTrainer, grad_scaler=Scaler(0))
    for trainer in (plain, scaled):
        with pytest.raises(NonFiniteLossError):
            trainer.train(0, 5)
    norms = [report(tmp_path / name)["gradient_norms"]["other"] for name in ("plain", "amp")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert report(tmp_path / "amp")["loss_scale"] == 1024.0


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/train_net.py").main


def spoil(monkeypatch, iterations, rank=0):
    """Let a loss of a run be NaN, or none be found, in some iterations of one process."""
    build = Trainer.build_model.__func__

    def spoilt(model, inputs, losses):
        what = iterations.get(get_event_storage().iter) if model.training else None
        if what is None or comm.get_rank() != rank:
            return losses
        if what == DIVERGED:
            raise FloatingPointError(what)
        return {**losses, what: losses[what] * math.nan}

    def build_model(cls, cfg):
        model = build(cls, cfg)
        model.register_forward_hook(spoilt)
        return model

    monkeypatch.setattr(Trainer, "build_model", classmethod(build_model))


def last_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert not any(line.startswith("Traceback") for line in lines)
    return lines[-1]


def test_a_run_ends_with_status_3_and_can_be_resumed(
    main, datasets_root, tmp_path, monkeypatch, capsys
):
    whole, output = tmp_path / "whole", tmp_path / "run"
    assert main(arguments(whole, overrides=UNTESTED)) == 0
    with monkeypatch.context() as patch:
        # In the last iteration, behind which Detectron2 would evaluate what it has.
        spoil(patch, {5: "loss_cls"})
        patch.setattr(Trainer, "test", lambda *_: pytest.fail("evaluated"))
        no_earlier = {"TEST.EVAL_PERIOD": 0}
        assert main(arguments(output, overrides=no_earlier)) == NON_FINITE_LOSS == 3
    line = last_line(capsys)
    assert line.startswith("error: iteration 5: no finite loss (loss_cls nan), see ")
    log = (output / "log.txt").read_text()
    assert line.removeprefix("error: ") in log
    assert "Traceback" not in log
    content = report(output)
    assert set(content["gradient_norms"]) == {
        *("total", "backbone", "proposal_generator", "roi_heads", "sem_seg_head"),
    }
    (process,) = content["processes"]
    assert len(process["images"]) == 2
    assert all("shapes_easy/train/" in image["file_name"] for image in process["images"])
    assert len(process["losses"]) > 5
    assert (output / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not (output / "model_final.pth").exists()
    # Went on with, it is the run that nothing happened to.
    assert main(arguments(output, "--resume", overrides=UNTESTED)) == 0
    assert_equal(read(output), read(whole))


def test_a_run_that_diverges(main, datasets_root, tmp_path, capsys):
    overrides = {
        **{"SOLVER.BASE_LR": 1e20, "SOLVER.WARMUP_ITERS": 0, **UNTESTED},
        "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    }
    assert main(arguments(tmp_path, overrides=overrides)) == NON_FINITE_LOSS
    assert last_line(capsys).startswith("error: iteration 1: no finite loss (")
    assert report(tmp_path)["learning_rate"] == 1e20


def test_a_run_skips_where_that_is_asked_for(main, datasets_root, tmp_path, monkeypatch):
    spoil(monkeypatch, {2: "loss_cls", 3: DIVERGED})
    overrides = {**UNTESTED, "SOLVER.NONFINITE": "skip", "SOLVER.CHECKPOINT_PERIOD": 1}
    assert main(arguments(tmp_path, overrides=overrides)) == 0
    assert_equal(read(tmp_path, "model_0000003")["model"], read(tmp_path, "model_0000001")["model"])
    trainer = read(tmp_path)["trainer"]["_trainer"]
    assert trainer["skipped"] == {"steps": 2, "in_a_row": 0}
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any(line.get("skipped_steps") == 2 for line in lines)
    assert (tmp_path / "log.txt").read_text().count("nonfinite.json; skipped, with") == 2


class Breaking(HookBase):
    """Makes a weight NaN in iteration 4, as gradients that overflow do."""

    def after_step(self):
        if self.trainer.iter == 4:
            with torch.no_grad():
                next(self.trainer.model.parameters()).fill_(math.nan)


def test_no_checkpoint_of_broken_weights(main, datasets_root, tmp_path, monkeypatch, capsys):
    hooks = Trainer.build_hooks
    monkeypatch.setattr(Trainer, "build_hooks", lambda trainer: [Breaking(), *hooks(trainer)])
    overrides = {**UNTESTED, "SOLVER.MAX_ITER": 5}
    assert main(arguments(tmp_path, overrides=overrides)) == NON_FINITE_LOSS
    assert last_line(capsys) == (
        "error: iteration 4: weights are not finite (backbone.fpn_lateral2.weight), no checkpoint "
        "is written; --resume goes on from the last one"
    )
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    # Without any there is nothing to go on from.
    overrides |= {"SOLVER.CHECKPOINT_PERIOD": 5}
    assert main(arguments(tmp_path / "none", overrides=overrides)) == NON_FINITE_LOSS
    assert last_line(capsys).endswith(" no checkpoint is written")


def _spoil_second_process():
    spoil(pytest.MonkeyPatch(), {1: DIVERGED, 2: "loss_cls", 3: "loss_mask"}, rank=1)


@pytest.mark.slow
def test_two_processes_do_the_same(datasets_root, tmp_path):
    overrides = {
        **{"DATASETS.TRAIN": (TRAIN,), **UNTESTED, "SOLVER.CHECKPOINT_PERIOD": 1},
        **{"SOLVER.NONFINITE": "skip", "SOLVER.NONFINITE_SKIPS": 2},
    }
    output = tmp_path / "run"
    argv = arguments(output, "--num-gpus", "2", overrides=overrides)
    with Command(datasets_root, output, argv, prepare=_spoil_second_process) as run:
        line = run.require(NON_FINITE_LOSS)
        said = run.said()
    assert line.startswith("error: iteration 3: no finite loss (loss_mask nan in process 1), see ")
    for fault in (
        f"1: no finite loss ({DIVERGED} in process 1)",
        "2: no finite loss (loss_cls nan",
    ):
        assert f"iteration {fault}" in said
    # Neither process has learnt from it, and both from all else.
    first, last = (read(output, f"model_000000{n}")["model"] for n in (0, 2))
    assert_equal(first, last)
    assert not list(output.glob("model_0000003.pth"))
    content = report(output)
    assert (content["action"], content["skipped_steps"]) == ("stop", 2)
    assert content["gradient_norms"]["total"] == "nan"
    processes = content["processes"]
    assert [process["rank"] for process in processes] == [0, 1]
    assert "nan" not in processes[0]["losses"].values()
    assert processes[0]["batch"] is None
    assert not (output / "nonfinite_batch.pth").exists()
    (image,) = processes[1]["images"]
    (one,) = load_batch(processes[1]["batch"])
    assert one["file_name"] == image["file_name"] != processes[0]["images"][0]["file_name"]
