import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from app.geometry import CROP_PADDING, crop_matrix, transform
from training.augment import (
    crop_matrices,
    half_bodies,
    inverted,
    occlude,
    person_crops,
    photometric,
    random_matrices,
    transform_points,
)
from training.config import Augment

COUNT = 2000  # views, of which shares are measured
STILL = Augment(flip=0, scale=0, rotation=0, shift=0, half_body=0, occlusion=0, colour=0, low_light=0, noise=0, blur=0)


def boxes(count: int) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * 100
    return torch.cat([corners, corners + torch.tensor([40.0, 90.0])], 1)


def test_unaugmented_crops_are_the_service_crops() -> None:
    found = crop_matrices(boxes(5), (256, 192))
    for matrix, box in zip(found, boxes(5), strict=True):
        np.testing.assert_allclose(matrix.numpy(), crop_matrix(box.numpy(), (192, 256)), rtol=1e-6)
    still, mirrored = person_crops(
        boxes(5), torch.zeros(5, 17, 2), torch.zeros(5, 17, dtype=torch.bool), (256, 192), STILL, torch.Generator()
    )
    torch.testing.assert_close(still, found)
    assert not mirrored.any()


def test_points_move_as_pixels_do() -> None:
    points = torch.rand(5, 7, 2) * 100
    matrices = crop_matrices(boxes(5), (64, 48))
    for one, matrix, moved in zip(points, matrices, transform_points(points, matrices), strict=True):
        np.testing.assert_allclose(moved.numpy(), transform(one.numpy(), matrix.numpy()), rtol=1e-5)


def test_turned_and_mirrored_person_keeps_size_and_centre() -> None:
    one, none = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    mirrored = torch.tensor([False, True])
    matrices = random_matrices(boxes(2), (256, 192), one, none + 30, none, none, mirrored)
    linear = matrices[:, :, :2]
    plain = crop_matrices(boxes(2), (256, 192))[:, :, :2]
    torch.testing.assert_close(torch.linalg.det(linear).abs(), torch.linalg.det(plain))
    assert torch.linalg.det(linear).sign().tolist() == [1, -1]
    centre = (boxes(2)[:, :2] + boxes(2)[:, 2:])[:, None] / 2
    torch.testing.assert_close(transform_points(centre, matrices)[:, 0], torch.tensor([[96.0, 128.0]] * 2))


def test_mirrored_crop_shows_left_on_the_other_side() -> None:
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    box = torch.tensor([[0.0, 0.0, 60.0, 80.0]])
    left_edge = torch.tensor([[[10.0, 40.0]]])
    for mirrored, side in ((False, "left"), (True, "right")):
        matrix = random_matrices(box, (256, 192), one, none, none, none, torch.tensor([mirrored]))
        x = float(transform_points(left_edge, matrix)[0, 0, 0])
        assert ("left" if x < 96 else "right") == side


def test_half_body_box_holds_the_upper_points_and_leaves_the_feet_out() -> None:
    keypoints = torch.stack([torch.linspace(40, 60, 17), torch.linspace(0, 200, 17)], 1)[None]
    labelled = torch.ones(1, 17, dtype=torch.bool)
    whole = torch.tensor([[30.0, 0.0, 70.0, 200.0]])
    yes, no = torch.tensor([True]), torch.tensor([False])
    (x1, y1, x2, y2) = half_bodies(whole, keypoints, labelled, yes, upper=yes)[0].tolist()
    inside = (keypoints[0, :, 1] > y1) & (keypoints[0, :, 1] < y2)
    assert inside[:11].all()
    assert not inside[14:].any()
    assert x2 - x1 == pytest.approx(y2 - y1)
    torch.testing.assert_close(half_bodies(whole, keypoints, labelled, no, upper=yes), whole)
    few = labelled.clone()
    few[:, 3:11] = False
    torch.testing.assert_close(half_bodies(whole, keypoints, few, yes, upper=yes), whole)


def test_every_random_view_is_a_function_of_its_generator() -> None:
    images = torch.rand(4, 3, 16, 12) * 255

    def view(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        config = Augment(noise=0.5, blur=0.5, occlusion=1.0)
        return occlude(photometric(images.clone(), config, generator), config, generator)

    torch.testing.assert_close(view(1), view(1), rtol=0, atol=0)
    assert not torch.equal(view(1), view(2))
    assert view(1).min() >= 0
    assert view(1).max() <= 255


def test_no_light_change_leaves_the_picture_as_it_is() -> None:
    images = torch.rand(4, 3, 16, 12) * 255
    torch.testing.assert_close(photometric(images.clone(), STILL, torch.Generator()), images, rtol=1e-4, atol=1e-2)


def test_occluder_is_a_rectangle_of_the_neighbouring_picture() -> None:
    images = torch.arange(4.0)[:, None, None, None].repeat(1, 3, 40, 30)
    covered = occlude(images, Augment(occlusion=1.0), torch.Generator().manual_seed(0))
    for slot in range(4):
        mask = (covered[slot, 0] != slot).numpy()
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()
        assert set(covered[slot].unique().tolist()) <= {float(slot), float((slot - 1) % 4)}


def random_views(config: Augment, labelled: bool = False) -> tuple[Tensor, Tensor]:
    """COUNT maps of one person's crop after the service's, and which mirror; keypoints are spread over the height."""
    box = torch.tensor([[30.0, 0.0, 70.0, 200.0]]).repeat(COUNT, 1)
    points = torch.stack([torch.linspace(40, 60, 17), torch.linspace(0, 200, 17)], 1).repeat(COUNT, 1, 1)
    known = torch.full((COUNT, 17), labelled)
    maps, mirrored = person_crops(box, points, known, (256, 192), config, torch.Generator().manual_seed(0))
    return maps, mirrored


def turns_and_sizes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Angles in degrees and factors of unmirrored maps of `random_views`."""
    zoom, plain = torch.linalg.det(maps[:, :, :2]).abs().sqrt(), 256 / 200 / CROP_PADDING
    return torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 1, 1])), zoom / plain


def test_people_are_turned_as_often_and_as_far_as_asked_and_as_far_to_either_side() -> None:
    maps, _ = random_views(Augment(flip=0, scale=0, rotation=0.4, rotation_deg=20, shift=0, half_body=0))
    angles, sizes = turns_and_sizes(maps)
    turned = angles.abs() > 1e-6
    assert turned.double().mean() == pytest.approx(0.4, abs=0.05)
    assert angles.max() == pytest.approx(20, abs=0.5) and angles.min() == pytest.approx(-20, abs=0.5)
    assert angles[turned].mean() == pytest.approx(0, abs=1.5)
    torch.testing.assert_close(sizes, torch.ones_like(sizes))


def test_people_are_made_larger_as_often_as_smaller_by_at_most_the_factor_asked() -> None:
    angles, sizes = turns_and_sizes(random_views(Augment(0, scale=0.5, rotation=0, shift=0, half_body=0))[0])
    assert sizes.max() == pytest.approx(1.5, abs=0.01) and sizes.min() == pytest.approx(1 / 1.5, abs=0.01)
    assert sizes.log().mean() == pytest.approx(0, abs=0.02)
    assert angles.abs().max() < 1e-6


def test_people_are_shifted_both_ways_along_either_side_by_parts_of_it() -> None:
    maps, _ = random_views(Augment(flip=0, scale=0, rotation=0, shift=0.1, half_body=0))
    middle = transform_points(torch.tensor([[[50.0, 100.0]]]).repeat(COUNT, 1, 1), maps)[:, 0]
    parts = middle / torch.tensor([192.0, 256.0]) - 0.5
    torch.testing.assert_close(parts.amax(0), torch.tensor([0.1, 0.1]), atol=0.002, rtol=0)
    torch.testing.assert_close(parts.amin(0), torch.tensor([-0.1, -0.1]), atol=0.002, rtol=0)
    assert abs(torch.corrcoef(parts.T)[0, 1]) < 0.1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_as_many_are_mirrored_as_asked_and_said_to_be(share: float) -> None:
    maps, mirrored = random_views(Augment(flip=share, rotation_deg=10, half_body=0))
    assert torch.equal(torch.linalg.det(maps[:, :, :2]) < 0, mirrored)
    assert mirrored.double().mean() == pytest.approx(share, abs=0.05)


def test_half_bodies_are_as_frequent_as_asked_and_more_often_the_upper_one() -> None:
    maps, _ = random_views(Augment(flip=0, scale=0, rotation=0, shift=0, half_body=0.4), labelled=True)
    centres = transform_points(torch.tensor([[[96.0, 128.0]]]).repeat(COUNT, 1, 1), inverted(maps))[:, 0, 1]
    upper, lower = (centres < 90).double().mean(), (centres > 110).double().mean()  # of 200, the whole's is at 100
    assert upper + lower == pytest.approx(0.4, abs=0.05)
    assert upper / (upper + lower) == pytest.approx(0.7, abs=0.06)


def test_the_lower_half_s_box_holds_hips_knees_and_ankles() -> None:
    keypoints = torch.stack([torch.linspace(40, 60, 17), torch.linspace(0, 200, 17)], 1)[None]
    labelled, whole = torch.ones(1, 17, dtype=torch.bool), torch.tensor([[30.0, 0.0, 70.0, 200.0]])
    (_, y1, _, y2) = half_bodies(whole, keypoints, labelled, torch.tensor([True]), torch.tensor([False]))[0].tolist()
    inside = (keypoints[0, :, 1] > y1) & (keypoints[0, :, 1] < y2)
    assert inside[11:].all() and not inside[:7].any()


def seen(image: Tensor, config: Augment) -> Tensor:
    """200 views of `image` (3, H, W) in other light."""
    return photometric(image.repeat(200, 1, 1, 1), config, torch.Generator().manual_seed(0))


def test_it_gets_dark_as_often_as_asked() -> None:
    grey = torch.full((3, 4, 4), 100.0)
    brightness = seen(grey, dataclasses.replace(STILL, low_light=0.5)).mean((1, 2, 3))
    dark = brightness < 99
    assert dark.double().mean() == pytest.approx(0.5, abs=0.1)
    assert (brightness[dark] >= 15 - 0.1).all() and (brightness[dark] <= 50 + 0.1).all()


def test_noise_is_on_as_many_pictures_as_asked_of_four_to_twenty_levels() -> None:
    grey = torch.full((3, 32, 32), 128.0)
    spread = seen(grey, dataclasses.replace(STILL, noise=0.5)).std((1, 2, 3))
    noisy = spread > 0.01
    assert noisy.double().mean() == pytest.approx(0.5, abs=0.1)
    assert 3.5 < spread[noisy].min() < 6 and 18 < spread.max() < 21


def test_as_many_pictures_are_blurred_as_asked() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    views = seen(image, dataclasses.replace(STILL, blur=0.5))
    soft = F.avg_pool2d(image[None], 3, 1, 1, count_include_pad=False)
    blurred = (views - soft).abs().amax((1, 2, 3)) < 0.1
    sharp = (views - image).abs().amax((1, 2, 3)) < 0.1
    assert (blurred | sharp).all()
    assert blurred.double().mean() == pytest.approx(0.5, abs=0.1)


def test_where_contrast_falls_black_turns_grey_and_a_cast_colours_what_is_grey() -> None:
    steps = torch.linspace(0, 255, 8).repeat(3, 1, 1)
    black, white = seen(steps, dataclasses.replace(STILL, colour=0.3)).mean(2)[..., (0, -1)].unbind(2)  # (200, 3)
    lifted = black[:, 0] > 1
    assert lifted.double().mean() == pytest.approx(0.5, abs=0.15)
    contrast = (white - black).mean(1)
    assert contrast[lifted].mean() < contrast[~lifted].mean() - 10
    assert (white.amax(1) - white.amin(1) > 1).double().mean() > 0.5


def test_some_pictures_lose_all_colour_whatever_the_light_was() -> None:
    image = torch.tensor([60.0, 100, 140]).view(3, 1, 1).repeat(1, 4, 4)
    views = seen(image, dataclasses.replace(STILL, colour=0.5))
    grey = (views.amax(1) - views.amin(1)).amax((1, 2)) < 0.1
    assert grey.double().mean() == pytest.approx(0.4 * 0.5, abs=0.08)
