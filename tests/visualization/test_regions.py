import numpy as np
import pytest

from ocr_panoptic.visualization.regions import draw_region


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_all_zero_weights_leave_the_grey_image(image):
    picture = draw_region(image, np.zeros((12, 16)))
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    assert (picture[..., 0] == picture[..., 1]).all()
    assert (picture[..., 1] == picture[..., 2]).all()
    brightness = image.astype(float) @ [0.299, 0.587, 0.114]
    assert np.corrcoef(brightness.ravel(), picture[..., 0].ravel())[0, 1] > 0.99


def test_heat_lies_where_the_weights_are(image):
    weights = np.zeros((12, 16))
    weights[:, 8:] = 1
    picture = draw_region(image, weights)
    grey = draw_region(image, np.zeros((12, 16)))
    np.testing.assert_array_equal(picture[:, :28], grey[:, :28])
    hot = picture[:, 40:].astype(int)
    assert hot.mean() > grey[:, 40:].mean() + 40
    # The far end of the colormap is yellow.
    assert (hot[..., 0] > hot[..., 2]).all()


@pytest.mark.parametrize("factor", [1e-45, 1e-6, 1.0, 1e30])
def test_only_ratios_of_the_weights_matter(image, factor):
    weights = np.random.default_rng(1).random((12, 16))
    # Powers of two scale without rounding.
    power = 2.0 ** np.round(np.log2(factor))
    np.testing.assert_array_equal(draw_region(image, weights), draw_region(image, weights * power))


def test_more_weight_is_brighter(image):
    flat = np.full_like(image, 128)
    ramp = np.tile(np.linspace(0.25, 1, 64), (48, 1))
    brightness = draw_region(flat, ramp)[24].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert brightness[-1] > brightness[32] > brightness[8]


def test_color_of_the_region(image):
    color = (10, 200, 90)
    picture = draw_region(image, np.ones((3, 3)), color)
    grey = draw_region(image, np.zeros((3, 3))).astype(float)
    expected = 0.1 * grey + 0.9 * np.asarray(color)
    assert np.abs(picture - expected).max() <= 1


def test_float32_and_other_shapes(image):
    weights = np.random.default_rng(2).random((1, 1)).astype(np.float32)
    assert draw_region(image, weights).shape == image.shape
    large = np.random.default_rng(2).random((96, 128)).astype(np.float32)
    assert draw_region(image, large).shape == image.shape


@pytest.mark.parametrize(
    "weights",
    [
        np.ones(4),
        np.ones((0, 4)),
        np.ones((2, 2, 2)),
        np.asarray([[np.nan, 1.0]]),
        np.asarray([[np.inf, 1.0]]),
        np.asarray([[-1.0, 1.0]]),
    ],
)
def test_wrong_weights(image, weights):
    with pytest.raises(ValueError, match="weights must be"):
        draw_region(image, weights)


def test_wrong_image():
    with pytest.raises(ValueError, match="image must be"):
        draw_region(np.zeros((4, 4)), np.ones((2, 2)))


def test_a_given_maximum_keeps_the_scale():
    image = np.full((8, 8, 3), 100, np.uint8)
    weak, full = np.full((4, 4), 0.25), np.ones((4, 4))
    assert np.array_equal(draw_region(image, weak), draw_region(image, full))
    assert not np.array_equal(draw_region(image, weak, maximum=1.0), draw_region(image, full))
    assert np.array_equal(draw_region(image, full, maximum=1.0), draw_region(image, full))
    # What is above it is as hot as it gets.
    assert np.array_equal(draw_region(image, 3 * full, maximum=1.0), draw_region(image, full))
