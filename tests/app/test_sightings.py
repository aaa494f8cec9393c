import numpy as np

from app.sightings import (
    FEWEST_SEEN,
    Regions,
    Skeleton,
    body_box,
    distinct,
    person_boxes,
    pose_fit,
    sizes_px,
    skeletons,
)
from app.skeleton import OKS_SIGMAS

DETECTED = np.array([[10, 10, 50, 90]], np.float32)


def skeleton(low: float, high: float) -> np.ndarray:
    """(1, 17, 2): a diagonal of keypoints."""
    return np.linspace(low, high, 17, dtype=np.float32)[None, :, None].repeat(2, axis=2)


def test_a_body_box_holds_the_keypoints_and_stays_in_the_picture() -> None:
    points = skeleton(-30, 90)[0]
    box = body_box(points, (200, 200))
    inside = points[points[:, 0] >= 0]
    assert box is not None and box[0] == 0
    assert (inside >= box[:2]).all() and (inside <= box[2:]).all()


def test_three_keypoints_are_nobody() -> None:
    assert body_box(skeleton(20, 80)[0, :3], (200, 200)) is None


def test_keypoints_of_which_the_network_is_hardly_sure_are_nobody_however_many() -> None:
    def found(score: float) -> int:
        regions = Regions(DETECTED.astype(np.float64), np.array([0.9]), True)
        return len(skeletons((200, 200), regions, skeleton(20, 80), np.full((1, 17), score)))

    assert (found(0.09), found(0.11)) == (0, 1)


def test_a_person_s_box_is_the_mean_of_the_detector_s_and_the_skeleton_s() -> None:
    points = skeleton(20, 100)
    around = body_box(points[0], (200, 200))
    assert around is not None and around[2] > 100  # reaches further than the detector saw
    found = person_boxes(DETECTED, points, np.full((1, 17), 0.9), (200, 200))
    np.testing.assert_allclose(found[0], (DETECTED[0] + around) / 2, rtol=1e-6)


def test_unseen_keypoints_do_not_move_the_box() -> None:
    points, scores = skeleton(20, 80), np.full((1, 17), 0.9)
    expected = person_boxes(DETECTED, points, scores, (200, 200))
    points[0, 5], scores[0, 5] = 199.0, 0.01
    np.testing.assert_array_equal(person_boxes(DETECTED, points, scores, (200, 200)), expected)


def test_where_too_little_is_seen_the_detector_s_box_stays() -> None:
    scores = np.zeros((1, 17))
    scores[0, :3] = 0.9
    found = person_boxes(DETECTED, skeleton(20, 80), scores, (200, 200))
    np.testing.assert_array_equal(found, DETECTED)


def test_boxes_stay_inside_the_picture_and_nobody_has_none() -> None:
    found = person_boxes(DETECTED, skeleton(-40, 240), np.full((1, 17), 0.9), (100, 95))
    assert (found >= 0).all() and (found <= [100, 95, 100, 95]).all()
    assert person_boxes(DETECTED[:0], skeleton(0, 1)[:0], np.ones((0, 17)), (100, 95)).shape == (0, 4)


def crowd(count: int) -> list[Skeleton]:
    """People of several sizes, some nearly on top of each other, of each some keypoints hardly seen."""
    random = np.random.default_rng(0)
    people = []
    for number in range(count):
        corner, size = random.uniform(0, 60, 2), random.uniform(50, 100)
        keypoints = corner + skeleton(0, float(size))[0] + random.normal(0, 3, (17, 2))
        scores = np.where(random.random(17) < 0.4, 0.01, 0.9)
        people.append(Skeleton(np.concatenate([corner, corner + size]), keypoints, scores, 0.5 if number % 2 else None))
    return people


def test_a_crowd_is_compared_as_one_pair_after_the_other_would_be() -> None:
    people, others = crowd(12), crowd(12)[3:8]
    fits = pose_fit(people, others)
    for i, one in enumerate(people):
        for j, other in enumerate(others):
            both = one.seen & other.seen
            size = min(sizes_px(one.box_xyxy), sizes_px(other.box_xyxy))
            squared = ((one.keypoints - other.keypoints)[both] ** 2).sum(1)
            spread = 2 * OKS_SIGMAS[both] * size
            by_hand = np.exp(-squared / (2 * spread**2)).mean() if both.sum() >= FEWEST_SEEN else 0.0
            np.testing.assert_allclose(fits[i, j], by_hand)
    assert pose_fit([], people).shape == (0, 12) and pose_fit(people, []).shape == (12, 0)


def test_of_skeletons_alike_the_detector_s_stays_and_then_the_surer() -> None:
    one, other, third = crowd(1)[0], crowd(1)[0], crowd(1)[0]
    sure = Skeleton(one.box_xyxy, one.keypoints, one.scores, None)
    unsure = Skeleton(other.box_xyxy, other.keypoints, other.scores * 0.8, None)
    detected = Skeleton(third.box_xyxy, third.keypoints, third.scores * 0.7, 0.3)
    far = Skeleton(one.box_xyxy + 500, one.keypoints + 500, one.scores * 0.6, None)
    assert distinct([unsure, sure, far]) == [sure, far]
    assert distinct([unsure, far, sure, detected]) == [detected, far]
    assert distinct([]) == []


def test_two_halfway_alike_in_one_box_are_one_person_and_in_two_boxes_two() -> None:
    one = crowd(1)[0]
    limbs = one.keypoints + np.where(np.arange(17)[:, None] % 2, 14.0, 0.0)  # every second one elsewhere
    unlike, beside = Skeleton(one.box_xyxy + 2, limbs, one.scores, None), one.box_xyxy + np.array([40.0, 0, 40, 0])
    assert 0.4 < pose_fit([one], [unlike])[0, 0] < 0.6
    assert len(distinct([one, unlike])) == 1
    assert len(distinct([one, Skeleton(beside, limbs, one.scores, None)])) == 2
