"""The states of all random generators: restored, kept, and safe to load."""

import copy
import random

import numpy as np
import pytest
import torch

from ocr_panoptic.random_state import (
    MAX_SEED,
    draw_seed,
    preserved_random_state,
    random_state,
    restore_random_state,
    seed_by,
)


def draw():
    # Two normal numbers are made at once, and one is kept for later.
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3)


def equal(one, other):
    return one[:4] == other[:4] and torch.equal(one[4], other[4])


@pytest.fixture(autouse=True)
def _preserved():
    with preserved_random_state():
        yield


def test_what_was_drawn_is_drawn_again():
    draw()
    state = random_state()
    first = draw()
    second = draw()
    assert not equal(first, second)
    restore_random_state(state)
    assert equal(draw(), first)
    assert equal(draw(), second)


def test_a_state_survives_a_safe_checkpoint(tmp_path):
    draw()
    state = random_state()
    expected = draw()
    torch.save(state, tmp_path / "state.pth")
    restore_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert equal(draw(), expected)


def test_a_body_leaves_no_trace_even_where_it_fails():
    seed_by(1)
    expected = draw()
    seed_by(1)
    with preserved_random_state():
        draw()
    with pytest.raises(KeyError):
        fail()
    assert equal(draw(), expected)


@preserved_random_state()
def fail():
    seed_by(5)
    raise KeyError


def test_seeds_of_several_numbers_are_their_own():
    drawn = {}
    several = [(), (0,), (1,), (0, 1), (1, 0), (2**32, 0), (0, 1, 0), (MAX_SEED, 2**40, 3)]
    for numbers in several:
        seed_by(*numbers)
        drawn[numbers] = draw()
        seed_by(*numbers)
        assert equal(draw(), drawn[numbers])
    # Nor does one generator draw what another does.
    flat = [x for values in drawn.values() for x in (*values[:4], *values[4].tolist())]
    assert len(set(flat)) == len(several) * 7


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("python", None), ("python", (3, (1, 2), None)), ("numpy", "MT19937"), ("numpy", ())),
        *(("torch", torch.zeros(3)), ("torch", torch.zeros(3, dtype=torch.uint8)), ("torch", 3)),
    ],
)
def test_what_is_no_state_changes_nothing(key, value):
    state = random_state()
    expected = draw()
    restore_random_state(state)
    broken = {**copy.deepcopy(state), key: value}
    # Others than the ones to keep.
    broken["numpy" if key == "python" else "python"] = {}
    with pytest.raises(ValueError, match="no state of random numbers"):
        restore_random_state(broken)
    assert equal(draw(), expected)


def test_a_state_without_a_part_changes_nothing():
    state = random_state()
    expected = draw()
    restore_random_state(state)
    for broken in ({}, {"python": state["python"]}, [], None, "state"):
        with pytest.raises(ValueError, match="no state"):
            restore_random_state(broken)
    assert equal(draw(), expected)


def test_drawn_seeds_differ_and_are_in_range():
    seeds = {draw_seed() for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
