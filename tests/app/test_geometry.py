"""Crops and letterboxes: exact to the half pixel."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.geometry import BORDER_GREY, crop_matrix, invert, letterbox_matrix, transform, warp

coordinates = st.floats(-2000, 2000)
sides = st.floats(1, 2000)
boxes = st.builds(lambda x, y, w, h: np.array([x, y, x + w, y + h]), coordinates, coordinates, sides, sides)


def slow_warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear sampling from its definition: pixel values live at centres, everything outside is grey."""
    width, height = size_wh
    result = np.empty((height, width, 3))

    def at(column: int, row: int) -> NDArray[np.float64]:
        inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
        return image[row, column].astype(float) if inside else np.full(3, float(BORDER_GREY))

    for row in range(height):
        for column in range(width):
            x, y = transform(np.array([column + 0.5, row + 0.5]), invert(matrix)).astype(float) - 0.5
            left, top = int(np.floor(x)), int(np.floor(y))
            right_share, low_share = x - left, y - top
            upper = at(left, top) * (1 - right_share) + at(left + 1, top) * right_share
            lower = at(left, top + 1) * (1 - right_share) + at(left + 1, top + 1) * right_share
            result[row, column] = upper * (1 - low_share) + lower * low_share
    return result


@given(boxes)
def test_points_return_through_the_inverse(box: NDArray[np.float64]) -> None:
    matrix = crop_matrix(box, (192, 256))
    points = np.array([[0, 0], [192, 256], [96, 128], [-10, 300]], np.float64)
    there_and_back = transform(transform(points, invert(matrix)).astype(np.float64), matrix)
    np.testing.assert_allclose(there_and_back, points, atol=0.05)  # float32 of large coordinates


@given(boxes)
def test_the_crop_holds_the_padded_box_in_its_middle(box: NDArray[np.float64]) -> None:
    (x1, y1), (x2, y2) = transform(box.reshape(2, 2), crop_matrix(box, (192, 256), padding=1.25)).astype(float)
    assert (x1 + x2) / 2 == pytest.approx(96, abs=0.01)
    assert (y1 + y2) / 2 == pytest.approx(128, abs=0.01)
    assert max((x2 - x1) / 192, (y2 - y1) / 256) == pytest.approx(1 / 1.25, abs=1e-3)


def test_the_letterbox_holds_the_whole_picture_in_its_middle() -> None:
    matrix = letterbox_matrix((640, 320), (320, 320))
    np.testing.assert_allclose(transform(np.array([[0, 0], [640, 320]]), matrix), [[0, 80], [320, 240]])
    canvas = warp(np.full((320, 640, 3), 200, np.uint8), matrix, (320, 320))
    assert (canvas[:79] == BORDER_GREY).all() and (canvas[241:] == BORDER_GREY).all()
    assert (canvas[81:239] == 200).all()


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 10), (0, 0, 10, 0), (5, 5, 4, 9), (5, 9, 9, 5), (0, 0, np.nan, 5), (0, 0, np.inf, 5)]
)
def test_an_empty_or_infinite_box_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a box needs"):
        crop_matrix(np.array(box), (192, 256))


def test_the_identity_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    identity = np.array([[1, 0, 0], [0, 1, 0]], np.float64)
    np.testing.assert_array_equal(warp(image, identity, (30, 20)), image)


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0, 0.5], [0, 1, 0.25]],
        [[1.7, 0, -3.2], [0, 1.7, 2.9]],
        [[0.8, 0.3, -1.0], [-0.3, 0.8, 4.0]],
        [[3, 0, -20], [0, 3, -11]],
        [[3, 0, -18.3], [0, 3, -9.3]],  # its edges lie between the centres of two pixels
        [[3, 0, -20.7], [0, 3, -9.3]],
    ],
)
def test_warping_is_exact_to_a_thirtysecond_of_a_pixel(matrix: list[list[float]]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (18, 24, 3), np.uint8)
    smooth = cv2.GaussianBlur(image, (0, 0), 2)
    expected = slow_warp(smooth, np.array(matrix), (21, 17))
    np.testing.assert_allclose(warp(smooth, np.array(matrix), (21, 17)), expected, atol=5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_reducing_by_a_whole_factor_is_the_average_of_areas(factor: int) -> None:
    image = np.random.default_rng(2).integers(0, 256, (12 * factor, 16 * factor, 3), np.uint8)
    matrix = np.array([[1 / factor, 0, 0], [0, 1 / factor, 0]])
    averages = image.reshape(12, factor, 16, factor, 3).mean((1, 3))
    np.testing.assert_allclose(warp(image, matrix, (16, 12)), averages, atol=1)


@given(st.floats(0.05, 8), st.floats(5, 60), st.floats(5, 60))
def test_a_spot_lands_where_its_coordinates_say(scale: float, x: float, y: float) -> None:
    rows, columns = np.mgrid[:64, :64] + 0.5
    spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
    image = np.repeat((spot * 255)[..., None], 3, -1).astype(np.uint8)
    size = max(8, round(64 * scale))
    matrix = np.array([[size / 64, 0, 0], [0, size / 64, 0]])
    warped = warp(image, matrix, (size, size))[..., 0].astype(float)
    rows, columns = np.mgrid[:size, :size] + 0.5
    inside = (abs(columns - x * size / 64) < 12 * size / 64) & (abs(rows - y * size / 64) < 12 * size / 64)
    if 15 < x < 49 and 15 < y < 49:  # the whole spot is in the picture
        weights = warped * inside
        found = np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
        np.testing.assert_allclose(found, np.array([x, y]) * size / 64, atol=0.12)


def test_a_crop_far_outside_the_picture_is_grey() -> None:
    matrix = crop_matrix(np.array([1e6, 1e6, 1e6 + 50, 1e6 + 80]), (24, 32))
    assert (warp(np.zeros((10, 10, 3), np.uint8), matrix, (24, 32)) == BORDER_GREY).all()


@given(boxes)
def test_any_box_gives_a_crop(box: NDArray[np.float64]) -> None:
    crop = warp(np.full((50, 70, 3), 7, np.uint8), crop_matrix(box, (24, 32)), (24, 32))
    assert crop.shape == (32, 24, 3) and crop.dtype == np.uint8
