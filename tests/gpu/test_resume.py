"""A run that was stopped and resumed on the device.

On CUDA some backward passes (of RoIAlign, bilinear enlarging, gathering) sum in an order of their
own, so no two runs are equal bit for bit. What a run goes on from is: that is compared exactly.
One iteration later weights still agree to what sums in another order change.
"""

import pytest
import torch

from ocr_panoptic.engine.resume import RandomStates
from ocr_panoptic.random_state import preserved_random_state, random_state, restore_random_state

from ..conftest import load_tool
from ..engine.runs import UNTESTED, arguments, assert_equal, read, stopped_at
from .device import DEVICE, needs_cuda, needs_device

pytestmark = needs_device

# Parts of the largest number of a weight, or of a momentum, that one step on equal input differs
# by; in mixed precision sums are of 11 bits.
NOISE = {"float32": 1e-3, "float16": 5e-2}
SETTINGS = {
    **{"MODEL.DEVICE": DEVICE, "SOLVER.MAX_ITER": 3, "SOLVER.STEPS": (2,)},
    **{"SOLVER.CHECKPOINT_PERIOD": 2, **UNTESTED},
}
PRECISIONS = {"float32": {}, "float16": {"SOLVER.AMP.ENABLED": True}}


@pytest.fixture(scope="module")
def main():
    return load_tool("tools/train_net.py").main


@pytest.fixture(scope="module", params=["float32", pytest.param("float16", marks=needs_cuda)])
def run(request, main, datasets_root, tmp_path_factory):
    """A precision, its settings, and the output folder of a run that nobody stopped."""
    output = tmp_path_factory.mktemp("finished")
    settings = {**SETTINGS, **PRECISIONS[request.param]}
    assert main(arguments(output, overrides=settings)) == 0
    return request.param, settings, output


def largest_difference(one, other):
    """Return by how much tensors of two checkpoints differ, as part of the largest of each."""
    momenta = [
        {number: state["momentum_buffer"] for number, state in optimizer["state"].items()}
        for optimizer in (content["trainer"]["_trainer"]["optimizer"] for content in (one, other))
    ]
    largest = 0.0
    for first, second in ((one["model"], other["model"]), momenta):
        assert first.keys() == second.keys()
        for key, value in first.items():
            if value.is_floating_point() and value.any():
                difference = (value - second[key]).abs().max() / value.abs().max()
                largest = max(largest, difference.item())
    return largest


def test_goes_on_from_what_was_saved(main, run, tmp_path):
    precision, settings, finished = run
    output = stopped_at(tmp_path / "run", finished, 1)
    # Nothing is left to do: what is loaded is saved again.
    ended = {**settings, "SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (1,)}
    assert main(arguments(output, "--resume", overrides=ended)) == 0
    saved, loaded = read(finished, "model_0000001"), read(output)
    assert_equal(loaded["model"], saved["model"])
    for key in ("optimizer", "grad_scaler"):
        if key in saved["trainer"]["_trainer"]:
            part = loaded["trainer"]["_trainer"][key]
            assert_equal(part, saved["trainer"]["_trainer"][key], key)
    assert ("grad_scaler" in saved["trainer"]["_trainer"]) == (precision == "float16")
    assert_equal(
        loaded["trainer"]["hooks"]["RandomStates"], saved["trainer"]["hooks"]["RandomStates"]
    )
    (states,) = saved["trainer"]["hooks"]["RandomStates"]["states"]
    assert ("cuda" in states) == (DEVICE == "cuda")


def test_a_resumed_run_ends_where_the_other_does(main, run, tmp_path):
    precision, settings, finished = run
    output = stopped_at(tmp_path / "run", finished, 1)
    assert main(arguments(output, "--resume", overrides=settings)) == 0
    log = (output / "log.txt").read_text()
    assert f"resumed from {output}/model_0000001.pth at iteration 2" in log
    one, other = read(finished), read(output)
    assert largest_difference(one, other) < NOISE[precision]
    # As many random numbers were drawn, everywhere, and as many images seen.
    assert_equal(one["trainer"]["hooks"]["RandomStates"], other["trainer"]["hooks"]["RandomStates"])
    assert_equal(one["trainer"]["data_loader"], other["trainer"]["data_loader"])


def test_without_its_random_state_it_ends_elsewhere(main, run, tmp_path):
    precision, settings, finished = run
    if precision == "float16":
        pytest.skip("the first steps of a gradient scaler may change no weight")
    output = stopped_at(tmp_path / "run", finished, 1)
    content = read(output, "model_0000001")
    del content["trainer"]["hooks"]["RandomStates"]
    torch.save(content, output / "model_0000001.pth")
    assert main(arguments(output, "--resume", overrides=settings)) == 0
    assert "it has no random state of its iteration" in (output / "log.txt").read_text()
    # By far more than noise: the comparison above would see it.
    assert largest_difference(read(finished), read(output)) > 2 * NOISE[precision]


def draw():
    return torch.rand(4, device=DEVICE)


def test_random_numbers_of_the_device_are_restored():
    torch.manual_seed(3)
    draw()
    state = random_state()
    first = draw()
    with preserved_random_state():
        assert not torch.equal(draw(), first)
        torch.manual_seed(4)
    second = draw()
    restore_random_state(state)
    assert torch.equal(draw(), first)
    assert torch.equal(draw(), second)


def test_where_no_state_is_known_the_devices_is_another_in_each_iteration():
    torch.manual_seed(3)
    state = random_state()
    hook, drawn = RandomStates(1), []
    for iteration in (1, 2):
        assert not hook.resume(3, iteration)
        # What is drawn until the next step is none of its business.
        unchanged = draw()
        restore_random_state(state)
        assert torch.equal(draw(), unchanged)
        hook.before_step()
        drawn.append(draw())
        restore_random_state(state)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], draw())
