"""Tracking, in a small world of people who walk, cross and leave, seen by a detector and a pose network of its own."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.overlap import iou
from app.sightings import Regions
from app.tracking import GRACE_S, OVERLOOKED_LIMIT, TrackedPerson, Tracker

IMAGE_WH = (640, 480)
FPS = 20
# A standing person in a box of height 1 and width 0.4: x, y of the 17 keypoints.
STANDING = np.array(
    [
        (0.20, 0.08), (0.22, 0.06), (0.18, 0.06), (0.25, 0.08), (0.15, 0.08), (0.30, 0.20), (0.10, 0.20), (0.35, 0.35),
        (0.05, 0.35), (0.36, 0.48), (0.04, 0.48), (0.26, 0.52), (0.14, 0.52), (0.27, 0.73), (0.13, 0.73), (0.27, 0.95),
        (0.13, 0.95),
    ]
)  # fmt: skip


@dataclass
class Walker:
    """Somebody of `height` pixels whose box begins at `x`, `y` at time 0 and moves `speed` pixels per second."""

    x: float
    speed: float = 0.0
    y: float = 100.0
    height: float = 240.0

    def box(self, time_s: float) -> np.ndarray:
        left = self.x + self.speed * time_s
        return np.array([left, self.y, left + 0.4 * self.height, self.y + self.height])

    def pose(self, time_s: float) -> np.ndarray:
        return self.box(time_s)[:2] + STANDING * self.height


class World:
    """Walkers, nearest first: who is covered by a nearer one is hidden from detector and pose network alike."""

    def __init__(self, *walkers: Walker, noise_px: float = 0.0, seed: int = 0) -> None:
        self.walkers = walkers
        self.noise_px = noise_px
        self.random = np.random.default_rng(seed)
        self.detector_runs = 0
        self.blind = False  # the detector finds nobody
        self.sure = 0.8  # the pose network's score of a keypoint that is there

    def visible(self, time_s: float) -> list[Walker]:
        seen: list[Walker] = []
        for walker in self.walkers:
            box = walker.box(time_s)
            covered = any(iou(box[None], near.box(time_s)[None])[0, 0] > 0.6 for near in seen)
            if not covered and box[2] > 20 and box[0] < IMAGE_WH[0] - 20:
                seen.append(walker)
        return seen

    def detect(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        self.detector_runs += 1
        boxes = [] if self.blind else [walker.box(time_s) for walker in self.visible(time_s)]
        return np.array(boxes).reshape(-1, 4), np.full(len(boxes), 0.9)

    def poses(self, time_s: float, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The visible person who overlaps each region most; keypoints of low score where there is none."""
        keypoints, scores = np.zeros((len(regions), 17, 2)), np.full((len(regions), 17), 0.06 * self.sure)
        visible = self.visible(time_s)
        for row, region in enumerate(regions):
            keypoints[row] = region[:2]
            overlaps = [iou(region[None], walker.box(time_s)[None])[0, 0] for walker in visible]
            if overlaps and max(overlaps) > 0.15:
                keypoints[row] = visible[int(np.argmax(overlaps))].pose(time_s)
                scores[row] = self.sure
        return keypoints + self.random.normal(0, self.noise_px, keypoints.shape), scores


def step(tracker: Tracker, world: World, time_s: float) -> list[TrackedPerson]:
    """One frame, as the stream does it."""
    found = world.detect(time_s) if tracker.wants_detector() else (None, None)
    regions = tracker.regions(time_s, *found)
    return tracker.update(time_s, IMAGE_WH, regions, *world.poses(time_s, regions.boxes_xyxy))


def watch(tracker: Tracker, world: World, seconds: float, start_s: float = 0.0) -> list[list[TrackedPerson]]:
    return [step(tracker, world, start_s + index / FPS) for index in range(int(seconds * FPS))]


def whose(person: TrackedPerson, world: World, time_s: float) -> int:
    """The index of the walker whom `person` shows."""
    errors = [np.abs(person.keypoints - walker.pose(time_s)).mean() for walker in world.walkers]
    return int(np.argmin(errors))


# --- ids ------------------------------------------------------------------------------------------------------------


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


# --- regions --------------------------------------------------------------------------------------------------------


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


def one_frame(tracker: Tracker, detector_scores: list[float], sure: list[float], time_s: float = 0.0):
    """People side by side, one for each of the detector's scores, whose keypoints are as sure as `sure` says."""
    world = World(*(Walker(20 + 200 * index) for index in range(len(sure))))
    regions = tracker.regions(time_s, world.detect(time_s)[0], np.array(detector_scores))
    keypoints, scores = world.poses(time_s, regions.boxes_xyxy)
    for row, box in enumerate(regions.boxes_xyxy):
        scores[row] = sure[int(box[0]) // 200]
    people = tracker.update(time_s, IMAGE_WH, regions, keypoints, scores)
    return [whose(person, world, time_s) for person in people]


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


# --- when the detector runs -----------------------------------------------------------------------------------------


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


def test_a_newcomer_beside_someone_in_view_is_found_by_the_regular_detection():
    tracker = Tracker(detect_every_frames=5)
    watch(tracker, World(Walker(60)), 0.5)
    people = watch(tracker, World(Walker(60), Walker(400)), 5 / FPS, start_s=0.5)[-1]
    assert [person.id for person in people] == [1, 2]


# --- nobody is invented ---------------------------------------------------------------------------------------------


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


def test_who_is_far_from_being_shown_costs_no_region():
    tracker = Tracker(min_score=0.6)
    assert one_frame(tracker, [0.9, 0.9], [0.5, 0.3]) == []  # scores of 0.45 and 0.27: the first may yet be shown
    assert len(tracker.regions(0.1).boxes_xyxy) == 1


def test_one_bad_look_of_the_detector_hides_nobody_and_a_second_does():
    tracker = Tracker(min_score=0.5)
    for time_s, (seen, shown) in enumerate([(0.9, [0]), (0.5, [0]), (0.5, [])]):
        assert one_frame(tracker, [seen], [0.8], time_s / FPS) == shown, f"at {time_s}"
    assert one_frame(tracker, [0.9], [0.8], 3 / FPS) == [0], "a good look counts at once"


def test_a_frame_with_nobody_and_no_tracks_is_an_empty_list():
    tracker = Tracker()
    assert tracker.update(0.0, IMAGE_WH, tracker.regions(0.0), np.zeros((0, 17, 2)), np.zeros((0, 17))) == []


# --- smoothing of tracks --------------------------------------------------------------------------------------------


def test_smoothing_calms_a_standing_person_and_can_be_turned_off():
    def jitter(smoothing: bool) -> float:
        frames = watch(Tracker(smoothing=smoothing), World(Walker(200), noise_px=2), 3.0)
        shown = np.array([people[0].keypoints for people in frames[FPS:]])
        return float(np.abs(np.diff(shown, axis=0)).mean())

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
