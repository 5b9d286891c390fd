"""Work shared by processes: order, errors, and nobody left behind."""

import contextlib
import os

import pytest

from ocr_panoptic.errors import InputError
from ocr_panoptic.parallel import available_cpus, parallel_map


def square(number):
    if number == 13:
        raise InputError("item 13: unlucky")
    return number * number, os.getpid()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_in_order(num_processes, children):
    results = list(parallel_map(square, range(20, 40), num_processes))
    assert [value for value, _ in results] == [number**2 for number in range(20, 40)]
    assert (os.getpid() in {process for _, process in results}) == (num_processes == 1)
    assert not children()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_error_keeps_its_line_and_ends_the_processes(num_processes, children):
    with pytest.raises(InputError) as error:
        list(parallel_map(square, range(40), num_processes))
    assert str(error.value) == "item 13: unlucky"
    assert not children()


def test_closing_ends_the_processes(children):
    with contextlib.closing(parallel_map(square, range(20, 90), 2)) as results:
        assert next(results)[0] == 400
        assert children()
    assert not children()


def test_few_items_are_done_here():
    assert {process for _, process in parallel_map(square, range(20, 40))} == {os.getpid()}


def test_nothing_to_do():
    assert list(parallel_map(square, [])) == []


def test_available_cpus():
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
