"""When a tracker wants the detector, in the world of walkers.py."""

import pytest
from walkers import FPS, Walker, World, step, watch

from app.tracking import GRACE_S, Tracker


def test_the_detector_runs_every_n_frames_while_everyone_is_in_view():
    tracker, world = Tracker(detect_every_frames=5), World(Walker(200))
    runs = []
    for index in range(16):
        before = world.detector_runs
        step(tracker, world, index / FPS)
        runs.append(world.detector_runs > before)
    assert [index for index, ran in enumerate(runs) if ran] == [0, 5, 10, 15]


def test_the_detector_runs_when_asked():
    tracker, world = Tracker(detect_every_frames=1000), World(Walker(200))
    watch(tracker, world, 0.5)
    tracker.ask_detector()
    assert tracker.wants_detector()
    step(tracker, world, 0.6)
    assert not tracker.wants_detector()


def test_a_lost_person_sends_the_next_frame_through_the_detector():
    tracker = Tracker(detect_every_frames=1000)
    watch(tracker, World(Walker(200)), 0.5)
    assert not tracker.wants_detector()
    step(tracker, World(), 0.6)
    assert tracker.wants_detector()


def test_the_search_for_a_lost_person_is_repeated_ever_less_often():
    tracker, world = Tracker(detect_every_frames=1000), World()
    watch(tracker, World(Walker(200)), 0.5)
    watch(tracker, world, GRACE_S, start_s=0.5)
    assert 3 <= world.detector_runs <= 8


def test_a_long_fruitless_search_does_not_slow_down_the_next_one():
    tracker = Tracker(detect_every_frames=1000)
    watch(tracker, World(), 5.0)
    watch(tracker, World(Walker(200)), 0.5, start_s=5.0)
    step(tracker, World(), 5.5)
    assert tracker.wants_detector()


def test_with_nobody_in_view_a_newcomer_waits_three_frames_at_most():
    tracker = Tracker(detect_every_frames=1000)
    watch(tracker, World(), 5.0)
    arrivals = watch(tracker, World(Walker(200)), 3 / FPS, start_s=5.0)
    assert len(arrivals[-1]) == 1


def test_whoever_is_followed_but_not_shown_keeps_no_newcomer_waiting():
    """And costs no more than nobody."""
    runs = []
    for world in (World(), World(Walker(200))):
        watch(Tracker(detect_every_frames=1000, min_score=0.9), world, 5.0)
        runs.append(world.detector_runs)
    assert runs[1] == pytest.approx(runs[0], abs=1) and runs[0] >= 5 * FPS // 3


def test_a_newcomer_beside_someone_in_view_is_found_by_the_regular_detection():
    tracker = Tracker(detect_every_frames=5)
    watch(tracker, World(Walker(60)), 0.5)
    people = watch(tracker, World(Walker(60), Walker(400)), 5 / FPS, start_s=0.5)[-1]
    assert [person.id for person in people] == [1, 2]
