"""Where a tracker looks for people in the next frame, in the world of walkers.py."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from walkers import FPS, IMAGE_WH, Walker, World, one_frame, step, watch, whose

from app.overlap import iou
from app.tracking import Tracker


@given(speed=st.floats(-150, 150), height=st.floats(100, 300))
@settings(max_examples=25, deadline=None)
def test_the_region_stays_on_a_walking_person_without_the_detector(speed, height):
    walker = Walker(260, speed, 80, height)
    tracker, world = Tracker(detect_every_frames=1000), World(walker)
    for index in range(20):
        step(tracker, world, index / FPS)
        next_s = (index + 1) / FPS
        (region,) = tracker.regions(next_s).boxes_xyxy
        assert iou(region[None], walker.box(next_s)[None])[0, 0] > 0.6
    assert world.detector_runs == 1


def test_the_region_does_not_shrink_away_when_limbs_are_badly_seen():
    walker = Walker(200)
    tracker, world = Tracker(detect_every_frames=1000), World(walker, noise_px=2)
    for index in range(200):
        time_s = index / FPS
        found = world.detect(time_s) if tracker.wants_detector() else (None, None)
        regions = tracker.regions(time_s, *found)
        keypoints, scores = world.poses(time_s, regions.boxes_xyxy)
        scores[:, 9 + index % 8] = 0.1  # another wrist, hip, knee or ankle each time
        (person,) = tracker.update(time_s, IMAGE_WH, regions, keypoints, scores)
    assert iou(person.box_xyxy[None], walker.box(time_s)[None])[0, 0] > 0.6


def test_legs_that_are_unseen_for_one_frame_are_not_cut_off_the_region():
    walker = Walker(200)
    tracker, world = Tracker(detect_every_frames=1000), World(walker)
    watch(tracker, world, 0.5)
    regions = tracker.regions(0.5)
    keypoints, scores = world.poses(0.5, regions.boxes_xyxy)
    scores[:, 13:] = 0.05
    tracker.update(0.5, IMAGE_WH, regions, keypoints, scores)
    assert iou(tracker.regions(0.55).boxes_xyxy, walker.box(0)[None])[0, 0] > 0.7


def test_known_people_come_before_new_ones_where_there_is_room_for_few():
    tracker, world = Tracker(max_people=1, detect_every_frames=1), World(Walker(60))
    step(tracker, world, 0.0)
    world.walkers = (Walker(400), Walker(60))  # the detector now prefers somebody else
    assert [(person.id, whose(person, world, 0.1)) for person in step(tracker, world, 0.1)] == [(1, 1)]


def test_where_there_is_room_for_one_it_is_the_surest_person_not_the_detectors_first_box():
    assert one_frame(Tracker(max_people=1), [0.9, 0.7], [0.2, 0.9]) == [1]
    assert one_frame(Tracker(max_people=1), [0.9, 0.3], [0.5, 0.6]) == [0], "the detector's word counts, too"


def test_who_is_not_shown_takes_nobodys_place():
    tracker = Tracker(max_people=1, min_score=0.5)
    assert one_frame(tracker, [0.9], [0.3]) == []
    assert one_frame(tracker, [0.9, 0.7], [0.3, 0.9], 0.1) == [1]


def test_fewer_places_are_left_to_the_surest():
    tracker = Tracker(max_people=3)
    assert one_frame(tracker, [0.9] * 3, [0.5, 0.9, 0.7]) == [1, 2, 0]
    tracker.max_people = 2
    assert one_frame(tracker, [0.9] * 3, [0.5, 0.9, 0.7], 0.1) == [1, 2]


def test_a_frame_costs_no_more_than_max_regions_whatever_the_detector_says():
    world = World(Walker(20), Walker(220), Walker(420))
    regions = Tracker(max_people=1, max_regions=2).regions(0.0, *world.detect(0.0))
    assert len(regions.boxes_xyxy) == len(regions.detector_scores) == 2


def test_a_region_that_holds_half_a_person_is_replaced_by_the_detection_of_the_whole():
    tracker, whole = Tracker(), Walker(200).box(0)
    half = whole - [0, 0, 0, 120]
    first = tracker.regions(0.0, half[None], np.array([0.9]))
    (person,) = tracker.update(0.0, IMAGE_WH, first, *World(Walker(200)).poses(0.0, whole[None]))
    then = tracker.regions(0.1, whole[None], np.array([0.9]))
    assert np.array_equal(then.boxes_xyxy, whole[None])
    far = World(Walker(200, y=160))  # the pose differs, too: the first was wrong
    (again,) = tracker.update(0.1, IMAGE_WH, then, *far.poses(0.1, far.walkers[0].box(0)[None]))
    assert again.id == person.id


def test_a_child_before_an_adult_keeps_a_region_of_its_own_when_the_detector_sees_the_adult_only():
    adult, child = Walker(200, height=300), Walker(220, y=250, height=140)
    tracker, world = Tracker(), World(child, adult)
    assert len(step(tracker, world, 0.0)) == 2
    regions = tracker.regions(0.1, adult.box(0)[None], np.array([0.9]))
    assert len(regions.boxes_xyxy) == 2


def test_asking_for_regions_changes_nothing():
    tracker, world = Tracker(), World(Walker(200))
    step(tracker, world, 0.0)
    first = tracker.regions(0.1, *world.detect(0.1))
    again = tracker.regions(0.1, *world.detect(0.1))
    assert np.array_equal(first.boxes_xyxy, again.boxes_xyxy)
    assert not tracker.wants_detector()
