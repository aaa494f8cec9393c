"""Many cells name one person: who is found once, who stays two, and in which box."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.overlap import iou
from app.suppression import CELLS, MOST, SAME_PERSON, people_of_cells

Floats = NDArray[np.float32]


def cells(*rows: tuple[float, float, float, float, float]) -> tuple[Floats, Floats]:
    """Boxes and scores of x1, y1, x2, y2, score."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    return table[:, :4], table[:, 4]


def test_cells_that_name_one_person_are_one_with_the_highest_score() -> None:
    boxes, scores = people_of_cells(*cells((0, 0, 10, 20, 0.5), (1, 0, 11, 20, 0.8), (0, 1, 10, 21, 0.6)))
    assert scores.tolist() == pytest.approx([0.8])
    assert iou(boxes, np.array([[1.0, 0, 11, 20]]))[0, 0] > 0.85


def test_a_person_behind_another_is_found_by_the_box_though_the_neighbour_scores_higher() -> None:
    """They share a third: 5 of 15 pixels' width."""
    boxes, scores = people_of_cells(*cells((0, 0, 10, 20, 0.9), (5, 0, 15, 20, 0.3), (0, 0, 10, 21, 0.7)))
    assert scores.tolist() == pytest.approx([0.9, 0.3])
    assert boxes[1].tolist() == pytest.approx([5, 0, 15, 20], abs=0.3)


@pytest.mark.parametrize("shift, people", [(37, 1), (39, 2)])
def test_two_boxes_are_one_person_s_from_nearly_half_of_overlap_on(shift: float, people: int) -> None:
    """Of boxes of 100 pixels' width, 63 of 137 are shared, or 61 of 139."""
    found, _ = people_of_cells(*cells((0, 0, 100, 200, 0.9), (shift, 0, shift + 100, 200, 0.8)))
    assert len(found) == people


def test_the_box_is_the_mean_of_those_alike_by_their_scores() -> None:
    near = cells((0, 0, 100, 200, 0.8), (4, 0, 104, 200, 0.8))
    (box,), _ = people_of_cells(*near)
    assert 1.2 < box[0] < 2.0, "a like box has nearly a whole vote"
    (weighed,), _ = people_of_cells(*cells((0, 0, 100, 200, 0.8), (4, 0, 104, 200, 0.5)))
    assert 0 < weighed[0] < box[0], "less with a lower score"
    (unlike,), _ = people_of_cells(*cells((0, 0, 100, 200, 0.8), (30, 0, 130, 200, 0.8)))
    assert unlike[0] < 0.5, "next to none where it is another place"
    (alone,), _ = people_of_cells(*cells((0, 0, 100, 200, 0.8), (4, 0, 104, 200, 0.39)))
    assert alone[0] == pytest.approx(0, abs=1e-3), "none for whom the score is not even half as high"


@pytest.mark.parametrize("unlike, vote", [(0.11, 0.6), (0.22, 0.14)])
def test_the_less_alike_a_box_the_less_it_counts(unlike: float, vote: float) -> None:
    shift = 100 * unlike / (2 - unlike)  # of boxes of 100 pixels' width that share so much less than all
    (box,), _ = people_of_cells(*cells((0, 0, 100, 200, 0.8), (shift, 0, shift + 100, 200, 0.8)))
    assert box[0] == pytest.approx(shift * vote / (1 + vote), abs=0.06)


def test_nobody_is_made_of_no_cells_and_faint_ones_do_no_harm() -> None:
    boxes, scores = people_of_cells(*cells())
    assert boxes.shape == (0, 4) and scores.shape == (0,)
    boxes, scores = people_of_cells(*cells((0, 0, 10, 20, 0.0), (50, 0, 60, 20, 0.0)))
    assert np.isfinite(boxes).all() and scores.tolist() == [0.0, 0.0]


def test_of_very_many_the_surest_are_read() -> None:
    """A file of another maker may give a row for each of thousands of places."""
    corners = np.arange(20_000, dtype=np.float32)[:, None] * 20
    boxes = np.concatenate([corners, corners, corners + 10, corners + 10], 1)
    scores = np.linspace(0, 1, len(boxes), dtype=np.float32)
    found, sure = people_of_cells(boxes, scores)
    assert len(found) == MOST < CELLS
    assert sure.tolist() == scores[::-1][:MOST].tolist()
    assert found[:, 0].tolist() == pytest.approx(corners[::-1][:MOST, 0].tolist())


def test_what_so_many_cells_are_surer_of_hides_the_rest() -> None:
    """What bounds the work: so many answers are compared, whoever gives more."""
    near, other = (0, 0, 10, 20, 0.9), (50, 0, 60, 20, 0.5)
    assert people_of_cells(*cells(*[near] * (CELLS - 1), other))[1].tolist() == pytest.approx([0.9, 0.5])
    assert people_of_cells(*cells(*[near] * CELLS, other))[1].tolist() == pytest.approx([0.9])


def crowd(seed: int, count: int) -> tuple[Floats, Floats]:
    """As many boxes of any size and score, many of them on each other."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 300, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 200, (count, 2))], 1).astype(np.float32)
    return boxes, random.uniform(0, 1, count).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.integers(0, 250), st.floats(0, 1))
def test_who_is_sure_enough_is_the_same_whether_or_not_the_others_are_asked_for(
    seed: int, count: int, min_score: float
) -> None:
    found, sure = people_of_cells(*crowd(seed, count))
    asked, asked_sure = people_of_cells(*crowd(seed, count), min_score)
    assert asked_sure.tolist() == sure[sure >= min_score].tolist()
    np.testing.assert_allclose(asked, found[sure >= min_score], rtol=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 120))
def test_people_come_best_first_each_near_a_cell_of_that_score(seed: int, count: int) -> None:
    boxes, scores = crowd(seed, count)
    found, sure = people_of_cells(boxes, scores)
    assert (np.diff(sure) <= 0).all() and sure[0] == scores.max()
    own = boxes[[int(np.flatnonzero(scores == score)[0]) for score in sure]]
    assert np.diag(iou(found, own)).min() > 0.7
    apart = iou(own, own) - np.eye(len(own))
    assert apart.max() < SAME_PERSON, "whom the scores name are apart"
    assert (iou(boxes, own).max(1) >= SAME_PERSON).all() or len(own) == MOST, "and nobody else is"
