"""The device of these tests: CUDA.

To see that the tests themselves are right where there is none, OCR_PANOPTIC_TEST_DEVICE=cpu runs
all of them on the CPU that can.
"""

import os

import pytest
import torch

DEVICE = os.environ.get("OCR_PANOPTIC_TEST_DEVICE", "cuda")

needs_device = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="torch finds no CUDA device"
)
needs_cuda = pytest.mark.skipif(
    DEVICE != "cuda" or not torch.cuda.is_available(),
    reason="torch finds no CUDA device, and on the CPU there is no such thing",
)


def assert_close(found, expected, tolerance):
    """See that no number differs by more than ``tolerance`` times the largest expected one."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    assert found.shape == expected.shape
    assert found.isfinite().all()
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    difference = ((found - expected).abs().max() / scale).item()
    assert difference <= tolerance, f"differs by {difference:.1e} of the largest number"
