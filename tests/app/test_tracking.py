"""Who is who: ids, people who are nobody, and smoothing, in the world of walkers.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walkers import FPS, IMAGE_WH, Walker, World, one_frame, step, watch, whose

from app.sightings import Regions
from app.tracking import GRACE_S, OVERLOOKED_LIMIT, TrackedPerson, Tracker


def mended_frame(
    tracker: Tracker,
    time_s: float,
    box: np.ndarray,
    detector_score: float = np.nan,
    *,
    trust: float = 1.0,
    detector_ran: bool = False,
) -> list[TrackedPerson]:
    """Somebody who stands still, of whom a box head sees `box`; NaN: found by the track alone."""
    ran = detector_ran or not np.isnan(detector_score)
    regions = Regions(box[None], np.array([detector_score]), ran, np.array([trust]))
    return tracker.update(time_s, IMAGE_WH, regions, Walker(200).pose(0)[None], np.full((1, 17), 0.8))


# --- ids -------------------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 4), speed=st.floats(-60, 60), height=st.floats(80, 300), noise_px=st.floats(0, 2))
@settings(max_examples=25, deadline=None)
def test_people_side_by_side_keep_their_ids_and_are_found_once(count, speed, height, noise_px):
    start = 200 if speed >= 0 else 360
    world = World(*(Walker(start + index * height * 0.5 - 150, speed, 60, height) for index in range(count)))
    world.noise_px = noise_px
    present = len(world.visible(0.0))
    tracker = Tracker()
    for index in range(20):
        time_s = index / FPS
        if len(world.visible(time_s)) != present:
            break  # somebody left the picture
        people = step(tracker, world, time_s)
        assert [person.id for person in people] == list(range(1, present + 1))
        assert len({whose(person, world, time_s) for person in people}) == present


def test_walkers_who_cross_keep_their_ids_through_the_occlusion():
    world = World(Walker(60, 160), Walker(420, -160))
    tracker = Tracker()
    before = {whose(person, world, 0.0): person.id for person in step(tracker, world, 0.0)}
    frames = watch(tracker, world, 2.0, start_s=1 / FPS)
    time_s = 2.0
    assert any(len(people) == 1 for people in frames), "the far one is hidden for a while"
    assert {whose(person, world, time_s): person.id for person in frames[-1]} == before


def test_a_walker_who_overtakes_a_standing_person_takes_no_id_from_them():
    world = World(Walker(100, 200), Walker(270))
    tracker = Tracker()
    before = {whose(person, world, 0.0): person.id for person in step(tracker, world, 0.0)}
    frames = watch(tracker, world, 1.8, start_s=1 / FPS)
    assert {whose(person, world, 1.8): person.id for person in frames[-1]} == before


def test_who_stops_in_front_of_another_keeps_the_own_id():
    near, far = Walker(100, 200), Walker(200)
    tracker, world = Tracker(), World(near, far)
    watch(tracker, world, 0.5)
    near.x, near.speed = 200, 0
    frames = watch(tracker, world, 0.8, start_s=0.5)
    assert [[person.id for person in people] for people in frames] == [[1]] * len(frames)


def test_who_leaves_is_gone_at_once_and_who_comes_later_gets_a_new_id():
    tracker, empty = Tracker(), World()
    assert [person.id for person in step(tracker, World(Walker(200)), 0.0)] == [1]
    assert watch(tracker, empty, GRACE_S + 0.2, start_s=0.1) == [[]] * int((GRACE_S + 0.2) * FPS)
    later = watch(tracker, World(Walker(200)), 0.3, start_s=GRACE_S + 0.4)
    assert {person.id for people in later for person in people} == {2}


def test_who_is_hidden_for_a_moment_keeps_the_id():
    tracker, world = Tracker(), World(Walker(200))
    watch(tracker, world, 0.5)
    watch(tracker, World(), 0.5, start_s=0.5)
    assert [person.id for person in step(tracker, world, 1.1)] == [1]


@pytest.mark.parametrize("speed", [60, 150, 400])
@pytest.mark.parametrize("apart_s", [0.0, 0.0005, 0.002, 0.008])
def test_a_walker_whose_frames_come_in_pairs_is_followed_all_the_same(speed, apart_s):
    tracker, world = Tracker(), World(Walker(-50, speed))
    for pair in range(15):
        first, second = (2 * pair + 1) / 30, (2 * pair + 2) / 30  # when they are taken
        assert [person.id for person in step(tracker, world, first, second - apart_s)] == [1]
        assert [person.id for person in step(tracker, world, second, second)] == [1]


@pytest.mark.parametrize("gap_s", [GRACE_S + 0.05, 2.0, 5.0])
def test_who_is_in_every_answer_keeps_the_id_however_seldom_there_is_one(gap_s):
    tracker, world = Tracker(), World(Walker(200))
    assert [[person.id for person in step(tracker, world, 100 + gap_s * n)] for n in range(6)] == [[1]] * 6


@pytest.mark.parametrize("pause_s", [0.1, 1.0, 3.0, 10.0, 600.0])
def test_who_stopped_walking_during_a_pause_is_shown_in_the_first_frame_after_it(pause_s):
    """A hidden tab, or a network that was away."""
    tracker, still = Tracker(), World(Walker(200))
    watch(tracker, World(Walker(200 - 40 * 0.95, 40)), 1.0)
    assert [person.id for person in step(tracker, still, 0.95 + pause_s)] == [1]
    assert [person.id for person in step(tracker, still, 1.0 + pause_s)] == [1]


@pytest.mark.parametrize("sure", [0.15, 0.4, 1.0])
def test_a_network_that_scores_low_is_followed_as_well_as_one_that_scores_high(sure):
    world = World(Walker(60, 160), Walker(420, -160))
    world.sure = sure
    frames = watch(Tracker(), world, 2.0)
    assert {person.id for people in frames for person in people} == {1, 2} and len(frames[-1]) == 2


def test_a_track_that_scores_far_less_than_usual_is_lost():
    tracker, world = Tracker(detect_every_frames=1000), World(Walker(200))
    watch(tracker, world, 0.5)
    world.sure = 0.3
    assert step(tracker, world, 0.5) == []
    assert tracker.wants_detector()


def test_two_trackers_share_nothing():
    ours, theirs = Tracker(), Tracker()
    watch(ours, World(Walker(50), Walker(400)), 0.5)
    assert [person.id for person in step(theirs, World(Walker(200)), 0.0)] == [1]


def test_ids_are_not_used_again_after_forgetting_everyone():
    tracker, world = Tracker(), World(Walker(200))
    step(tracker, world, 0.0)
    tracker.forget()
    assert tracker.wants_detector()
    assert [person.id for person in step(tracker, world, 0.1)] == [2]


# --- nobody is invented ----------------------------------------------------------------------------------------------


def test_a_detection_without_a_pose_in_it_is_nobody():
    tracker, world = Tracker(), World()
    regions = tracker.regions(0.0, np.array([[50, 50, 150, 300]]), np.array([0.99]))
    assert tracker.update(0.0, IMAGE_WH, regions, *world.poses(0.0, regions.boxes_xyxy)) == []


def test_one_person_detected_twice_is_one_person():
    tracker, world = Tracker(), World(Walker(200))
    boxes = np.stack([Walker(200).box(0), Walker(190, height=260).box(0)])
    regions = tracker.regions(0.0, boxes, np.array([0.9, 0.8]))
    assert len(tracker.update(0.0, IMAGE_WH, regions, *world.poses(0.0, boxes))) == 1


def test_two_regions_that_slide_onto_one_person_report_one_person():
    tracker = Tracker(detect_every_frames=1000)
    watch(tracker, World(Walker(100), Walker(180)), 0.3)
    assert len(step(tracker, World(Walker(140)), 0.35)) == 1


def test_a_phantom_that_the_detector_keeps_overlooking_dies():
    tracker, world = Tracker(detect_every_frames=2), World(Walker(200))
    step(tracker, world, 0.0)
    world.blind = True
    frames = watch(tracker, world, 1.5, start_s=1 / FPS)
    assert len(frames[0]) == 1, "overlooked once is no reason"
    assert frames[2 * OVERLOOKED_LIMIT] == []


def test_who_scores_less_than_asked_is_followed_but_not_shown():
    tracker, world = Tracker(min_score=0.9), World(Walker(200))
    assert step(tracker, world, 0.0) == []
    tracker.min_score = 0.0
    (person,) = step(tracker, world, 0.1)
    assert person.id == 1 and person.score == pytest.approx(0.8 * 0.9)


def test_who_is_followed_unseen_for_long_comes_back_under_a_new_id():
    """It may have followed a thing meanwhile, and then whoever came to stand there."""
    tracker, world = Tracker(), World(Walker(200))
    ids = [[person.id for person in step(tracker, world, 0.0)]]
    for hidden_until_s in (GRACE_S - 0.2, 2 * GRACE_S + 0.2):
        tracker.min_score = 0.9
        assert watch(tracker, world, 0.2, start_s=hidden_until_s - 0.2) == [[]] * int(0.2 * FPS)
        tracker.min_score = 0.0
        ids.append([person.id for person in step(tracker, world, hidden_until_s)])
    assert ids == [[1], [1], [2]]


def test_who_is_far_from_being_shown_costs_no_region():
    tracker = Tracker(min_score=0.6)
    assert one_frame(tracker, [0.9, 0.9], [0.5, 0.3]) == []  # scores of 0.45 and 0.27: the first may yet be shown
    assert len(tracker.regions(0.1).boxes_xyxy) == 1


def test_one_bad_look_of_the_detector_hides_nobody_and_a_second_does():
    tracker = Tracker(min_score=0.5)
    for time_s, (seen, shown) in enumerate([(0.9, [0]), (0.5, [0]), (0.5, [])]):
        assert one_frame(tracker, [seen], [0.8], time_s / FPS) == shown, f"at {time_s}"
    assert one_frame(tracker, [0.9], [0.8], 3 / FPS) == [0], "a good look counts at once"


@pytest.mark.parametrize(("trust", "factor"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_who_is_overlooked_scores_less_unless_the_box_head_sees_somebody(trust, factor):
    tracker, box = Tracker(), Walker(200).box(0)
    (first,) = mended_frame(tracker, 0.0, box, 0.9)
    for look in (1, 2):
        (after,) = mended_frame(tracker, look / FPS, box, trust=trust, detector_ran=True)
        assert after.score == pytest.approx(first.score * factor**look)
    (again,) = mended_frame(tracker, 3 / FPS, box, 0.9)
    assert again.score == first.score, "a good look counts at once"


def test_a_frame_with_nobody_and_no_tracks_is_an_empty_list():
    tracker = Tracker()
    assert tracker.update(0.0, IMAGE_WH, tracker.regions(0.0), np.zeros((0, 17, 2)), np.zeros((0, 17))) == []


# --- smoothing of tracks ---------------------------------------------------------------------------------------------


def test_smoothing_calms_a_standing_person_and_can_be_turned_off():
    def jitter(smoothing: bool) -> float:
        frames = watch(Tracker(smoothing=smoothing), World(Walker(200), noise_px=2), 3.0)
        shown = np.array([people[0].keypoints for people in frames[FPS:]])
        return float(np.abs(np.diff(shown, axis=0)).mean())

    assert jitter(True) < 0.5 * jitter(False)


def test_a_box_head_s_box_is_shown_and_the_next_frame_looks_around_the_skeleton_as_well():
    tracker, whole = Tracker(smoothing=False), Walker(200).box(0)
    half = whole - [0, 0, 0, 120]
    mended_frame(tracker, 0.0, whole, 0.9)
    for n in range(1, 20):
        (person,) = mended_frame(tracker, n / FPS, half)
        assert np.array_equal(person.box_xyxy, half)
    (region,) = tracker.regions(1.0).boxes_xyxy
    assert region[3] > half[3] + 50


def test_a_box_head_s_box_is_smoothed_as_keypoints_are():
    def jitter(smoothing: bool) -> float:
        tracker, noise = Tracker(smoothing=smoothing), np.random.default_rng(0).normal(0, 2, (60, 4))
        seen = [mended_frame(tracker, n / FPS, Walker(200).box(0) + noise[n], 0.9) for n in range(60)]
        boxes = [person.box_xyxy for (person,) in seen]
        return float(np.abs(np.diff(boxes[FPS:], axis=0)).mean())

    assert jitter(True) < 0.5 * jitter(False)


def test_unseen_keypoints_are_left_as_they_are():
    tracker, scores = Tracker(), np.full((1, 17), 0.9)
    scores[0, 16] = 0.1
    for index in range(3):
        pose = Walker(200).pose(0)[None] + 5 * index
        boxes = Regions(np.array([[190.0, 90, 310, 350]]), np.array([0.9]), True)
        (person,) = tracker.update(index / FPS, IMAGE_WH, boxes, pose, scores)
    assert np.array_equal(person.keypoints[16], pose[0, 16])
    assert not np.array_equal(person.keypoints[15], pose[0, 15])


def test_a_keypoint_that_comes_back_is_shown_where_it_is():
    tracker, pose = Tracker(), Walker(200).pose(0)[None]
    for index, score in enumerate((0.9, 0.1, 0.9)):
        moved, scores = pose.copy(), np.full((1, 17), 0.9)
        moved[0, 9] += 30 * index
        scores[0, 9] = score
        regions = Regions(Walker(200).box(0)[None], np.array([0.9]), True)
        (person,) = tracker.update(index / FPS, IMAGE_WH, regions, moved, scores)
    assert person.keypoints[9] == pytest.approx(moved[0, 9])


def test_frames_of_the_same_instant_do_no_harm():
    tracker, world = Tracker(), World(Walker(200))
    for _ in range(3):
        (person,) = step(tracker, world, 1.0)
    assert np.isfinite(person.keypoints).all() and person.id == 1
