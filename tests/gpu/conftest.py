"""What the tests on a GPU share."""

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def products_in_float32():
    """Compute float32 in float32: by default torch rounds convolutions to TF32's 10 bits."""
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value
