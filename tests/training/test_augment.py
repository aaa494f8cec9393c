import numpy as np
import pytest
import torch

from app.geometry import crop_matrix, transform
from training.augment import (
    crop_matrices,
    half_bodies,
    occlude,
    person_crops,
    photometric,
    random_matrices,
    transform_points,
)
from training.config import Augment

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
