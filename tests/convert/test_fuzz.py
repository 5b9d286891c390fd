"""Checkpoints with a few things wrong: converted, or refused with one line."""

import copy
import functools

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocr_panoptic.convert import Options, as_json, as_text
from ocr_panoptic.convert.conversion import Conversion
from ocr_panoptic.convert.formats import CONVERSIONS
from ocr_panoptic.errors import InputError

from ..models import small_model
from .test_heads import FOREIGN, own_head, own_of


@functools.cache
def states():
    """Return the weights of each conversion, by its formats; changed by nobody."""
    ocr = small_model("ocr").state_dict()
    found = {
        ("panoptic-fpn", "panoptic-fpn-ocr"): small_model("baseline").state_dict(),
        ("panoptic-fpn-ocr", "panoptic-fpn"): ocr,
    }
    with torch.device("meta"):
        plain = torchvision.models.resnet18().state_dict()
    for name in ("torchvision", "timm"):
        there = Conversion("file", plain)
        CONVERSIONS[name, "detectron2"](there, Options())
        found[name, "detectron2"], found["detectron2", name] = plain, there.output
    for name in FOREIGN:
        found[name, own_of(name)] = FOREIGN[name]().state_dict()
        found[own_of(name), name] = own_head(name).state_dict()
    return found


CHANGES = {
    "removed": lambda state, name: state.pop(name),
    "without dimensions": lambda state, name: state.update({name: torch.tensor(1.0)}),
    "empty": lambda state, name: state.update({name: torch.zeros(0)}),
    "empty kernel": lambda state, name: state.update({name: torch.zeros(4, 0, 1, 1)}),
    "a row less": lambda state, name: state.update(
        {name: state[name][1:]} if state[name].dim() else {}
    ),
    "a dimension more": lambda state, name: state.update({name: state[name].unsqueeze(0)}),
    "whole numbers": lambda state, name: state.update({name: state[name].to(torch.int16)}),
    "truth": lambda state, name: state.update({name: state[name].to(torch.bool)}),
    "complex": lambda state, name: state.update({name: state[name].to(torch.complex64)}),
    "half": lambda state, name: state.update({name: state[name].to(torch.float16)}),
    "double": lambda state, name: state.update({name: state[name].to(torch.float64)}),
    "twice": lambda state, name: state.update({f"ema.{name}": state[name]}),
    "renamed": lambda state, name: state.update({f"{name}\n\x1b[31m{{0}}%s": state.pop(name)}),
    "longer": lambda state, name: state.update({f"{name}.0.weight": state[name]}),
}


def test_every_conversion_is_here():
    assert set(states()) == set(CONVERSIONS)


@pytest.mark.parametrize("pair", sorted(CONVERSIONS), ids=" to ".join)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_converted_or_refused(pair, data):
    state = copy.copy(states()[pair])
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(sorted(state)))
        CHANGES[data.draw(st.sampled_from(sorted(CHANGES)))](state, name)
    conversion = Conversion("file", state, data.draw(st.booleans()))
    message = None
    try:
        CONVERSIONS[pair](conversion, Options())
    except InputError as error:
        message = str(error)
    if message is not None:
        assert message.startswith("file")
        assert message.isprintable()
        return
    # Every tensor is somewhere.
    used = {source for move in conversion.moves for source in move.sources}
    assert used | set(conversion.left_out) == set(state)
    assert as_json(conversion)
    assert "\x1b" not in as_text(conversion)
