"""torch's attention kernels, each of them, against the equation in float64."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ocr_panoptic.benchmark.measure import measure_footprint
from ocr_panoptic.layers.attention import attention

from .device import DEVICE, assert_close, needs_device

pytestmark = needs_device

# Parts of the largest number. A sum of products is rounded once, the weights before it too.
TOLERANCES = {torch.float32: 5e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype)[6:])
# N, queries, keys, width of queries and keys, width of values: of OCR, ISA, SA, DANet.
SHAPES = {
    "54 regions": (2, 300, 54, 256, 256),
    "windows of 8x8": (12, 64, 64, 256, 256),
    "odd": (3, 77, 33, 64, 64),
    "narrow keys": (2, 130, 130, 64, 512),
}
KERNELS = [name for name in SDPBackend.__members__ if name not in ("ERROR", "OVERRIDEABLE")]


def draw(shape, dtype):
    batch, queries, keys, width, value_width = shape
    generator = torch.Generator().manual_seed(0)
    sizes = (queries, width), (keys, width), (keys, value_width)
    drawn = [torch.randn(batch, *size, generator=generator) for size in sizes]
    # Rounded first: what is compared is the kernel, not the rounding of its input.
    return [part.to(DEVICE, dtype).requires_grad_() for part in drawn]


def draw_mask(shape):
    """Draw a mask of keys; of the last image all are padding."""
    batch, _, keys, *_ = shape
    mask = torch.rand(batch, keys, generator=torch.Generator().manual_seed(1)) < 0.4
    mask[:, 0] = False
    mask[-1] = True
    return mask.to(DEVICE)


def equation(query, key, value, mask):
    """Return softmax(query . key / sqrt(d)) value, zeros where all keys are padding."""
    scores = query @ key.transpose(1, 2) / query.shape[2] ** 0.5
    if mask is None:
        return scores.softmax(dim=2) @ value
    scores = scores.masked_fill(mask.unsqueeze(1), -torch.inf)
    return scores.softmax(dim=2).masked_fill(mask.all(dim=1).view(-1, 1, 1), 0) @ value


def check(shape, dtype, masked):
    inputs = draw(shape, dtype)
    mask = draw_mask(shape) if masked else None
    exact = [part.detach().double().cpu().requires_grad_() for part in inputs]
    found = attention(*inputs, mask)
    expected = equation(*exact, None if mask is None else mask.cpu())
    assert found.dtype == dtype
    assert_close(found, expected, TOLERANCES[dtype])
    if masked:
        assert not found[-1].any()
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found * weights.to(found)).sum().backward()
    # Without the image that has no key: the equation's own gradient is NaN there.
    kept = slice(None, -1) if masked else slice(None)
    (expected[kept] * weights.double()[kept]).sum().backward()
    for part, reference in zip(inputs, exact, strict=True):
        assert_close(part.grad[kept], reference.grad[kept], 4 * TOLERANCES[dtype])
        if masked:
            assert not part.grad[-1].any()


@DTYPES
@pytest.mark.parametrize("masked", [False, True], ids=["all keys", "masked"])
@pytest.mark.parametrize("name", SHAPES)
def test_is_the_equation(name, masked, dtype):
    check(SHAPES[name], dtype, masked)


@DTYPES
@pytest.mark.parametrize("masked", [False, True], ids=["all keys", "masked"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_the_equation(kernel, masked, dtype):
    shape = SHAPES["windows of 8x8"]
    try:
        with sdpa_kernel(getattr(SDPBackend, kernel)):
            attention(*draw(shape, dtype), draw_mask(shape) if masked else None)
    except RuntimeError as error:
        pytest.skip(f"torch says: {error}")
    with sdpa_kernel(getattr(SDPBackend, kernel)):
        check(shape, dtype, masked)


@DTYPES
@pytest.mark.parametrize("masked", [False, True], ids=["all keys", "masked"])
@pytest.mark.parametrize("widths", [(64, 64), (256, 256)], ids=str)
@torch.no_grad()
def test_the_map_of_all_pairs_is_never_there(widths, masked, dtype):
    if DEVICE == "cpu" and dtype == torch.float16:
        pytest.skip("torch has no such kernel on the CPU")
    positions = 4096
    shape = (1, positions, positions, *widths)
    inputs, mask = draw(shape, dtype), None
    if masked:
        mask = torch.arange(positions, device=DEVICE).unsqueeze(0) % 3 == 1

    def call():
        return attention(*inputs, mask)

    call()
    # Half of one float16 map; the values themselves take 1 to 4 MiB.
    assert measure_footprint(call, DEVICE).peak_bytes < positions**2


@DTYPES
def test_scores_of_float16_do_not_overflow(dtype):
    # Products of 256 numbers of 30 are 230,400; float16 ends at 65,504.
    shape = (1, 16, 8, 256, 256)
    query, key, value = (part.detach() for part in draw(shape, dtype))
    query, key = torch.full_like(query, 30), torch.full_like(key, 30)
    found = attention(query, key, value)
    assert_close(found, value.double().mean(dim=1, keepdim=True).expand_as(found), 3e-2)
