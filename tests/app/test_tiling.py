"""Large pictures: where the detector looks, whom a tile may report, and each person once."""

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from serving import picture, with_pipeline
from skimage import data

from app.geometry import Floats, warp_each, warp_looks
from app.overlap import iou
from app.pipeline import Detections, Options, Pipeline
from app.rounds import most_looks
from app.settings import Settings
from app.tiling import Look, each_once, looks

INPUT_WH = (384, 320)
sides = st.integers(16, 9000)
tile_counts = st.integers(1, 8)


def boxes(*rows: tuple[float, float, float, float]) -> Floats:
    return np.array(rows, np.float32).reshape(-1, 4)


def scores(*values: float) -> Floats:
    return np.array(values, np.float32)


def seen_in(look: Look, box: tuple[float, float, float, float]) -> bool:
    """Whether `look` reports somebody who is found at `box`, in picture pixels."""
    x1, y1, x2, y2 = box
    corners = np.array([[x1, y1], [x2, y2]]) @ look.to_input[:, :2].T + look.to_input[:, 2]
    found, _ = look.people(corners.reshape(1, 4).astype(np.float32), scores(0.9), 0.5)
    return len(found) > 0


# --- where it looks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_wh", [(640, 480), (480, 640), (512, 512), (768, 640), (16, 16)])
def test_a_picture_that_is_reduced_to_half_at_the_most_is_looked_at_once(size_wh: tuple[int, int]) -> None:
    (whole,) = looks(size_wh, INPUT_WH, 4)
    assert whole.view_xyxy.tolist() == [0, 0, *size_wh]


@pytest.mark.parametrize(
    "size_wh, tiles, expected",
    [
        ((1920, 1080), 1, 1),
        ((1920, 1080), 2, 1 + 4),
        ((1920, 1080), 4, 1 + 4 + 4 * 3),
        ((4032, 3024), 3, 1 + 4 + 9),
        ((4032, 3024), 4, 1 + 4 + 16),
        ((1280, 720), 4, 1 + 4 + 3 * 2),  # closer ones would find nobody more
        ((1150, 900), 4, 1 + 4 + 9),
        ((770, 640), 4, 1 + 4),
        ((2000, 1000), 4, 1 + 4 + 4 * 3),
        ((1000, 2000), 4, 1 + 2 + 4 * 2),
        ((8000, 1000), 2, 1 + 4),  # a strip has one row: the looks of the other go into closer ones
        ((1000, 8000), 2, 1 + 4),
        ((8000, 1000), 3, 1 + 4 + 8),
        ((8000, 1000), 4, 1 + 2 + 4 + 8),
        ((2560, 320), 4, 1 + 2 + 4 + 6),
        ((2500, 1000), 4, 1 + 2 + 5 * 3),
        ((2100, 1000), 4, 1 + 4 + 5 * 3),
    ],
)
def test_tiles_come_after_the_whole_from_coarse_to_fine(size_wh: tuple[int, int], tiles: int, expected: int) -> None:
    views = [look.view_xyxy for look in looks(size_wh, INPUT_WH, tiles)]
    assert len(views) == expected
    assert views[0].tolist() == [0, 0, *size_wh]
    areas = [(view[2:] - view[:2]).prod() for view in views]
    assert len(views) <= most_looks(tiles)
    assert areas == pytest.approx(sorted(areas, reverse=True))


@given(sides, sides, tile_counts)
def test_tiles_cover_the_picture_stay_in_it_and_are_not_too_many(width: int, height: int, tiles: int) -> None:
    seen = looks((width, height), INPUT_WH, tiles)
    assert len(seen) <= most_looks(tiles)
    views = np.stack([look.view_xyxy for look in seen])
    assert (views >= -1e-3).all() and (views <= np.array([width, height] * 2) + 1e-3).all()
    finest = views[1:] if len(views) > 1 else views
    xs, ys = np.linspace(0, width, 23), np.linspace(0, height, 23)
    inside = (finest[:, None, None, :2] <= np.stack(np.meshgrid(xs, ys), -1) + 1e-2) & (
        np.stack(np.meshgrid(xs, ys), -1) <= finest[:, None, None, 2:] + 1e-2
    )
    assert inside.all(-1).any(0).all()


@given(st.integers(1000, 6000), st.integers(1000, 6000), st.sampled_from([2, 3, 4]), st.data())
def test_whoever_is_no_larger_than_a_ninth_of_a_tile_is_reported_by_one(
    width: int, height: int, tiles: int, draw: st.DataObject
) -> None:
    seen = looks((width, height), INPUT_WH, tiles)
    finest = seen[-1].view_xyxy
    side = float((finest[2:] - finest[:2]).min()) / 9
    x, y = draw.draw(st.floats(0, width - side)), draw.draw(st.floats(0, height - side))
    count = sum(np.allclose(look.view_xyxy[2:] - look.view_xyxy[:2], finest[2:] - finest[:2], atol=1) for look in seen)
    assert any(seen_in(look, (x, y, x + side, y + side)) for look in seen[-count:])


@pytest.mark.parametrize(
    "size_wh, tiles",
    [((768, 640), 4), ((640, 480), 2), ((120, 90), 2), ((1920, 1080), 4), ((2048, 2048), 4), ((1600, 1400), 1)],
)
def test_the_looks_at_a_picture_that_is_not_huge_are_each_cut_from_its_own_pixels(
    size_wh: tuple[int, int], tiles: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size_wh[::-1], 3), np.uint8)
    maps = [look.to_input for look in looks(size_wh, INPUT_WH, tiles)]
    for cut, expected in zip(warp_looks(image, maps, INPUT_WH), warp_each(image, maps, INPUT_WH), strict=True):
        assert (cut == expected).all()


@pytest.mark.parametrize("size_wh, tiles", [((4000, 2999), 2), ((3001, 4500), 2), ((7000, 5001), 4)])
def test_a_huge_picture_is_shrunk_once_for_its_looks_which_show_the_same(size_wh: tuple[int, int], tiles: int) -> None:
    width, height = size_wh
    x, y = np.linspace(0, 40, width, dtype=np.float32), np.linspace(0, 30, height, dtype=np.float32)[:, None]
    waves = np.stack([np.sin(x + 0 * y), np.sin(y + 0 * x), np.sin(x + y)], -1)
    image = (127 + 120 * waves).astype(np.uint8)
    maps = [look.to_input for look in looks(size_wh, INPUT_WH, tiles)]
    for cut, expected in zip(warp_looks(image, maps, INPUT_WH), warp_each(image, maps, INPUT_WH), strict=True):
        far = abs(cut.astype(int) - expected.astype(int))
        assert far.max() <= 8 and far.mean() < 0.5, "half a pixel's shift would be 1.5 in the mean and more"


# --- whom a tile may report ------------------------------------------------------------------------------------------


def test_a_tile_reports_nobody_whom_it_may_show_in_part() -> None:
    views = boxes((0, 0, 4000, 500), (0, 0, 2222, 500), (1778, 0, 4000, 500))
    whole, left, right = (Look(view, (4000, 500), INPUT_WH) for view in views)
    edge, other_edge = float(left.view_xyxy[2]), float(right.view_xyxy[0])
    cases = {
        "in the middle": ((500, 100, 600, 400), True),
        "at the tile's edge": ((edge - 150, 100, edge, 400), False),
        "near the tile's edge": ((edge - 230, 100, edge - 80, 400), False),
        "not so near": ((edge - 250, 100, edge - 100, 400), True),
        "at the picture's edge": ((0, 100, 100, 500), True),
        "too large for a tile": ((100, 0, 950, 500), False),
        "not quite": ((100, 0, 920, 500), True),
    }
    assert {name: seen_in(left, box) for name, (box, _) in cases.items()} == {
        name: yes for name, (_, yes) in cases.items()
    }
    assert all(seen_in(whole, box) for box, _ in cases.values())
    assert seen_in(right, (edge - 150, 100, edge, 400)), "whom one tile may cut the next one has"
    assert not seen_in(right, (other_edge, 100, other_edge + 100, 400))
    assert seen_in(right, (3900, 100, 4000, 500))


def test_a_look_fills_the_detector_s_input_and_reports_who_is_just_sure_enough() -> None:
    (whole,) = looks((640, 480), INPUT_WH, 1)
    assert (whole.to_input @ [0, 0, 1]).tolist() == pytest.approx([0, 16])
    assert (whole.to_input @ [640, 480, 1]).tolist() == pytest.approx([384, 304])
    found, sure = whole.people(boxes((100, 100, 200, 200), (0, 50, 90, 90)), scores(0.5, 0.49), 0.5)
    assert found.tolist() == pytest.approx(np.array([[100, 84, 200, 184]]) / 0.6) and sure.tolist() == [0.5]


@pytest.mark.parametrize("beyond", [(10, 2, 90, 16), (10, 304, 90, 318), (-30, 50, 0, 90), (384, 50, 400, 90)])
def test_who_lies_beyond_the_picture_s_edge_is_nobody(beyond: tuple[float, float, float, float]) -> None:
    (whole,) = looks((640, 480), INPUT_WH, 1)
    found, _ = whole.people(boxes(beyond), scores(0.9), 0.5)
    assert found.shape == (0, 4)


def test_edges_above_and_below_cut_as_those_to_the_sides() -> None:
    views = boxes((0, 0, 500, 4000), (0, 0, 500, 2222), (0, 1778, 500, 4000))
    whole, upper, lower = (Look(view, (500, 4000), INPUT_WH) for view in views)
    edge, other_edge = float(upper.view_xyxy[3]), float(lower.view_xyxy[1])
    assert seen_in(upper, (100, 0, 400, 300)) and seen_in(lower, (100, 3700, 400, 4000))
    assert not seen_in(upper, (100, edge - 200, 400, edge)) and not seen_in(
        lower, (100, other_edge, 400, other_edge + 200)
    )
    assert not seen_in(upper, (0, 300, 500, 1400)) and seen_in(whole, (0, 300, 500, 1400)), "too large for a tile"


# --- each person once ------------------------------------------------------------------------------------------------


def test_of_two_looks_at_one_person_the_surer_one_counts() -> None:
    first, second = (boxes((0, 0, 10, 20)), scores(0.5)), (boxes((0, 0, 11, 21), (50, 0, 60, 20)), scores(0.8, 0.3))
    found, sure = each_once([first, second], 50)
    assert found.tolist() == [[0, 0, 11, 21], [50, 0, 60, 20]] and sure.tolist() == scores(0.8, 0.3).tolist()


@pytest.mark.parametrize("shift, together", [(4, True), (7, False)])
def test_boxes_of_two_looks_are_one_person_s_from_a_third_of_overlap_on(shift: float, together: bool) -> None:
    """A box of 10 pixels' width and one beside it share 6 of 14, or 3 of 17."""
    one, other = boxes((0, 0, 10, 20)), boxes((shift, 0, shift + 10, 20))
    found, _ = each_once([(one, scores(0.9)), (other, scores(0.8))], 50)
    assert len(found) == (1 if together else 2)


def test_the_surest_come_first_also_of_a_single_look() -> None:
    found, sure = each_once([(boxes((0, 0, 1, 1), (5, 5, 9, 9)), scores(0.2, 0.7))], 50)
    assert sure.tolist() == scores(0.7, 0.2).tolist() and found[0].tolist() == [5, 5, 9, 9]


def test_two_people_side_by_side_in_one_look_stay_two() -> None:
    close = boxes((0, 0, 10, 20), (3, 0, 13, 20))
    found, sure = each_once([(close, scores(0.5, 0.6)), (boxes(), scores())], 50)
    assert found.tolist() == close[::-1].tolist() and sure.tolist() == scores(0.6, 0.5).tolist()


def test_of_many_faint_finds_in_many_looks_only_so_many_are_kept_the_surest() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 4000, (21, 300, 2)).astype(np.float32)
    seen = [(np.concatenate([xy, xy + 30], 1), random.uniform(0, 1, 300).astype(np.float32)) for xy in corners]
    found, sure = each_once(seen, 7)
    everybody, all_scores = each_once(seen, 10_000)
    assert found.tolist() == everybody[:7].tolist() and sure.tolist() == all_scores[:7].tolist()


# --- the service -----------------------------------------------------------------------------------------------------

CORNERS = ((100, 80, 300, 350), (1300, 60, 1500, 340), (120, 1250, 320, 1500), (1350, 1200, 1550, 1500))


def test_people_in_the_corners_of_a_large_picture_are_boxed_apart(tiny_models: dict[str, Path]) -> None:
    """The tiny detector gives one box for all that is bright in a half of what it looks at."""
    image = picture(1600, 1600, boxes=CORNERS)

    async def use(pipeline: Pipeline) -> tuple[Detections, Detections]:
        return await pipeline.detect(image, max_people=50), await pipeline.detect(image, max_people=50, tiles=2)

    once, closer = with_pipeline(tiny_models, use)
    wanted = np.array(CORNERS, np.float64)
    assert len(once.boxes_xyxy) == 2 and iou(wanted, once.boxes_xyxy.astype(np.float64)).max() < 0.3
    assert iou(wanted, closer.boxes_xyxy.astype(np.float64)).max(1).min() > 0.5
    assert (np.diff(closer.scores) <= 0).all()


def test_no_more_people_go_to_the_pose_network_than_are_allowed(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    places = [(4.0 + 10 * x, 4.0 + 10 * y, 10.0 + 10 * x, 12.0 + 10 * y) for x in range(5) for y in range(4)]
    models = {**tiny_models, "detector_model": tiny.make_fixed_detector(tmp_path / "many.onnx", 64, places)}
    for tiles in (1, 2):
        found = with_pipeline(
            models, lambda pipeline, t=tiles: pipeline.detect(picture(1600, 1600), max_people=3, tiles=t)
        )
        assert len(found.boxes_xyxy) == len(found.scores) == 3


def test_people_at_the_border_of_a_large_picture_are_boxed_inside_it(tiny_models: dict[str, Path]) -> None:
    image = picture(1610, 1605, boxes=((0, 0, 200, 300), (1400, 1300, 1610, 1605)))
    found = with_pipeline(tiny_models, lambda pipeline: pipeline.detect(image, max_people=50, tiles=2))
    assert len(found.boxes_xyxy) >= 2
    assert (found.boxes_xyxy >= 0).all() and (found.boxes_xyxy <= [1610, 1605, 1610, 1605]).all()


def test_somebody_small_in_a_large_photograph_is_found_by_default(real_models: dict[str, Path]) -> None:
    """An astronaut of 140 pixels in a photograph of 1600 x 1200, on no seam: not seen as a whole, once in the tiles."""
    large = cv2.resize(data.coffee(), (1600, 1200), interpolation=cv2.INTER_CUBIC)
    large[300:440, 900:1040] = cv2.resize(data.astronaut(), (140, 140), interpolation=cv2.INTER_AREA)

    async def use(pipeline: Pipeline) -> None:
        assert (await pipeline.people(large, Options(50, tiles=1))).people == ()
        for tiles in (None, 2, 4):
            (found,) = (await pipeline.people(large, Options(50, tiles=tiles))).people
            x, y = found.keypoints[0]
            assert 930 < x < 990 and 310 < y < 360, "the nose"

    with_pipeline(real_models, use)


def test_the_settings_say_how_many_tiles_unless_a_client_does(tiny_models: dict[str, Path]) -> None:
    assert (Settings().tiles, Settings().stream_tiles, Settings().max_tiles) == (2, 1, 4)
    image = picture(1600, 1600, boxes=CORNERS)

    async def count(asked: int | None, **settings: int) -> int:
        pipeline = Pipeline(Settings(provider="cpu", **tiny_models, **settings))  # type: ignore[arg-type]
        await pipeline.warm()
        found = await pipeline.people(image, Options(50, 0.0, tiles=asked))
        await pipeline.close()
        return len(found.people)

    whole, closer = asyncio.run(count(1)), asyncio.run(count(2))
    assert asyncio.run(count(None)) == closer > whole
    assert asyncio.run(count(None, tiles=1)) == whole
