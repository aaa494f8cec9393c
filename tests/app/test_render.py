"""Drawing people."""

import cv2
import numpy as np
import pytest
from serving import picture
from skimage import data

from app.errors import BadParameter
from app.pipeline import Person
from app.render import LEFT, MIDDLE, OUTLINE, RIGHT, draw, to_file, to_jpeg
from app.skeleton import KEYPOINT_NAMES

HALF = {"left": 80.0, "right": 20.0, "nose": 50.0}  # the person faces us: their left is on our right


def person(score: float = 0.9, offset: float = 0.0) -> Person:
    rows = [
        (HALF[name.partition("_")[0]] + offset, 10 + 5 * index + offset) for index, name in enumerate(KEYPOINT_NAMES)
    ]
    box = np.array([10, 0, 90, 100], np.float32) + offset
    return Person(score, box, np.array(rows, np.float32), np.full(17, score, np.float32))


def test_the_given_picture_stays_as_it_is() -> None:
    image = picture(100, 100)
    before = image.copy()
    drawn = draw(image, [person()])
    assert (image == before).all() and drawn.shape == image.shape and (drawn != image).any()


def test_left_and_right_have_their_own_colours() -> None:
    drawn = draw(picture(100, 100), [person()])
    for column, colour in ((80, LEFT), (20, RIGHT), (50, MIDDLE)):
        near = abs(drawn[:, max(column - 3, 0) : column + 4].astype(int) - colour).sum(-1)
        assert near.min() < 12, column


def test_keypoints_of_low_score_are_not_drawn() -> None:
    image = picture(100, 100)
    np.testing.assert_array_equal(draw(image, [person(score=0.05)]), image)


def test_of_a_limb_both_ends_have_to_be_seen() -> None:
    half = person()
    half.keypoint_scores[KEYPOINT_NAMES.index("left_ankle")] = 0.05
    half.keypoints[KEYPOINT_NAMES.index("left_ankle")] = (95, 5)
    image = picture(100, 100)
    assert (draw(image, [half])[:20, 88:] == image[:20, 88:]).all()


def test_a_keypoint_is_drawn_around_its_place() -> None:
    one = person()
    one.keypoint_scores[1:] = 0.0
    one.keypoints[0] = (50.5, 40.5)  # the middle of a pixel
    image = picture(100, 100)
    rows, columns = np.nonzero((draw(image, [one]) != image).any(-1))
    middle = columns.mean() + 0.5, rows.mean() + 0.5
    assert middle == pytest.approx((50.5, 40.5), abs=0.4)  # OpenCV's circles are not quite round


def test_larger_people_get_thicker_lines() -> None:
    image = picture(800, 800)
    small = person()
    large = Person(0.9, small.box_xyxy * 8, small.keypoints * 8, small.keypoint_scores)
    inked = [(draw(image, [who]) != image).any(-1).sum() for who in (small, large)]
    assert inked[1] > 16 * inked[0]  # with lines of the same thickness it would be 8 times


def test_in_a_tiny_picture_the_people_stay_to_be_seen_under_their_skeletons() -> None:
    image = picture(96, 72)
    tiny = Person(0.9, np.array([30, 6, 66, 66], np.float32), person().keypoints * 0.6, np.full(17, 0.9, np.float32))
    drawn = draw(image, [tiny])
    assert 0.02 < (drawn != image).any(-1).mean() < 0.15
    assert not (abs(drawn.astype(int) - OUTLINE).sum(-1) < 12).any()


@pytest.mark.parametrize("offset", [-50.0, 1e5, -1e5, 1e10])
def test_people_partly_or_wholly_outside_are_no_trouble(offset: float) -> None:
    assert draw(picture(100, 100), [person(offset=offset)]).shape == (100, 100, 3)


def test_a_drawing_becomes_a_file_that_shows_it() -> None:
    drawing = np.ascontiguousarray(data.astronaut()[:256, :256])
    for file in (to_jpeg(drawing), *(to_file(drawing, suffix) for suffix in (".png", ".JPG", ".webp"))):
        shown = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert abs(shown.astype(int) - drawing).mean() < 5


def test_a_picture_larger_than_its_file_s_format_can_be_is_refused_in_words() -> None:
    wide = np.zeros((1, 16_384, 3), np.uint8)
    assert to_file(wide, ".png").startswith(b"\x89PNG")
    with pytest.raises(BadParameter, match="a .webp file has up to 16383 pixels a side, the picture is 16384 x 1"):
        to_file(wide, ".webp")
