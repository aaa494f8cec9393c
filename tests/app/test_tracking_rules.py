"""Why the tracker decides as it does, a rule at a time, in the world of walkers.py."""

import numpy as np
import pytest
from walkers import FPS, IMAGE_WH, Walker, World, step, watch

from app.sightings import Regions
from app.tracking import GRACE_S, Tracker


def gone_on(tracker: Tracker, time_s: float) -> np.ndarray:
    """How far (2,) the one person's region goes in the next frame."""
    now, then = (tracker.regions(at_s).boxes_xyxy[0] for at_s in (time_s, time_s + 1 / FPS))
    return (then - now)[:2]


def seen(tracker: Tracker, time_s: float, keypoints: np.ndarray) -> None:
    """One frame with one person, who has these keypoints (17, 2)."""
    regions = Regions(Walker(200).box(0)[None], np.array([0.9]), True)
    assert len(tracker.update(time_s, IMAGE_WH, regions, keypoints[None], np.full((1, 17), 0.8))) == 1


def test_who_grows_dim_bit_by_bit_is_followed_down_to_less_than_half_the_first_score():
    tracker, world = Tracker(detect_every_frames=1000), World(Walker(200))
    for index, sure in enumerate(np.linspace(0.8, 0.3, 3 * FPS)):
        world.sure = sure
        assert [person.id for person in step(tracker, world, index / FPS)] == [1]


def test_whoever_stands_nearly_where_another_went_out_of_view_is_somebody_else():
    tracker = Tracker()
    step(tracker, World(Walker(200)), 0.0)
    tracker.ask_detector()
    assert [person.id for person in step(tracker, World(Walker(280)), 1 / FPS)] == [2]


def test_a_search_that_brought_a_newcomer_is_repeated_at_once_for_who_is_still_lost():
    tracker, nobody = Tracker(detect_every_frames=1000), World()
    watch(tracker, World(Walker(60)), 0.5)
    watch(tracker, nobody, 0.5, start_s=0.5)
    assert nobody.detector_runs >= 2 and not tracker.wants_detector()
    newcomer, time_s = World(Walker(420)), 1.0
    while not step(tracker, newcomer, time_s):
        time_s += 1 / FPS
    assert time_s < 0.5 + GRACE_S, "the first one is still looked for"
    assert tracker.wants_detector()


def test_who_comes_back_is_told_in_the_old_order():
    tracker, both = Tracker(), World(Walker(60), Walker(420))
    watch(tracker, both, 0.3)
    assert [person.id for person in step(tracker, World(Walker(420)), 0.3)] == [2]
    frames = watch(tracker, both, 0.3, start_s=0.35)
    assert [person.id for person in frames[-1]] == [1, 2]


def test_a_wrist_that_is_seen_in_the_wrong_place_sends_nobody_s_region_away():
    tracker, pose = Tracker(), Walker(200).pose(0)
    seen(tracker, 0.0, pose)
    seen(tracker, 1 / FPS, pose + np.where(np.arange(17) == 9, 300, 0)[:, None] * [1, 0])
    assert gone_on(tracker, 1 / FPS) == pytest.approx([0, 0], abs=0.1)


def test_a_jerk_is_not_taken_for_a_walk_and_a_walk_soon_is():
    tracker, pose = Tracker(), Walker(200).pose(0)
    seen(tracker, 0.0, pose)
    seen(tracker, 1 / FPS, pose + [10, 0])
    assert gone_on(tracker, 1 / FPS)[0] <= 5
    for steps in range(2, 6):
        seen(tracker, steps / FPS, pose + [10 * steps, 0])
    assert gone_on(tracker, 5 / FPS)[0] >= 8


def test_a_region_that_holds_a_third_of_a_person_is_replaced_by_the_detection_of_the_whole():
    tracker, whole = Tracker(), Walker(200).box(0)
    head = whole - [0, 0, 0, 160]
    first = tracker.regions(0.0, head[None], np.array([0.9]))
    tracker.update(0.0, IMAGE_WH, first, *World(Walker(200)).poses(0.0, whole[None]))
    assert np.array_equal(tracker.regions(0.1, whole[None], np.array([0.9])).boxes_xyxy, whole[None])
