"""The box head: what it answers before and after it is exported."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import CONFIG, PIXELS, SCORES, both, crops, lived_in

from app.geometry import CROP_PADDING, crop_matrix, transform
from app.skeleton import OKS_SIGMAS
from model.export import DeployedPose, deploy, export_onnx
from model.okdhp import OKDHP
from model.student import DecoderConfig, Encoder, OwnConfig, PoseBranch

SIZE_HW = (128, 96)
OWN = OwnConfig((8, 16, 16, 24), (0, 0, 0, 0))


def student(decoder: DecoderConfig) -> OKDHP:
    return OKDHP(Encoder(CONFIG), {"a": PoseBranch(decoder, CONFIG, boxes_in=SIZE_HW)}, 17)


def test_an_untrained_head_answers_the_box_that_the_crop_was_made_of() -> None:
    """So that training begins at no correction."""
    box = np.array([20.0, 10, 80, 90])  # of the crop's shape
    in_crop = (transform(box.reshape(2, 2), crop_matrix(box, SIZE_HW[::-1])) / SIZE_HW[::-1]).ravel()
    assert CROP_PADDING == 1.25 and in_crop.tolist() == pytest.approx([0.1, 0.1, 0.9, 0.9])
    region = student(DecoderConfig((16, 16), shuffle=2)).eval()(torch.rand(3, 3, *SIZE_HW) * 255).branches["a"].region
    torch.testing.assert_close(region.boxes, torch.tensor(in_crop).float().expand(3, 4), atol=0.02, rtol=0)
    torch.testing.assert_close(region.fit.sigmoid(), torch.full((3,), 0.5), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "decoder",
    [DecoderConfig((16, 16), shuffle=2), DecoderConfig((16, 16, 16)), DecoderConfig((16, 12), shuffle=2, own=OWN)],
    ids=["to stride 8", "to stride 4", "own encoder"],
)
def test_exported_boxes_equal_torch_in_pixels_of_the_crop(tmp_path: Path, decoder: DecoderConfig) -> None:
    model = lived_in(student(decoder))
    torch.nn.init.normal_(model.branches["a"].box_head.answer.weight, std=0.05)
    raw = copy.deepcopy(model).eval()
    deployed = deploy(model, "a", "pose", OKS_SIGMAS)
    export_onnx(deployed, SIZE_HW, tmp_path / "pose.onnx")
    pictures = crops(3, SIZE_HW)
    found, expected = both(deployed, tmp_path / "pose.onnx", pictures)
    np.testing.assert_allclose(found[2], expected[2], atol=PIXELS)
    np.testing.assert_allclose(found[3], expected[3], atol=SCORES)
    with torch.no_grad():
        region = raw(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()).branches["a"].region
    boxes = region.boxes * torch.tensor([96.0, 128, 96, 128])
    np.testing.assert_allclose(found[2], boxes.numpy(), rtol=1e-3, atol=PIXELS)
    np.testing.assert_allclose(found[3], region.fit.sigmoid().numpy(), atol=1e-3)
    assert np.ptp(found[3]) > 0.01 and np.ptp(found[2], axis=0).max() > 1  # crops differ, and so do the answers


def test_the_poses_of_a_network_with_a_box_head_are_those_without() -> None:
    model = lived_in(student(DecoderConfig((16, 16), shuffle=2)))
    without = copy.deepcopy(model)
    without.branches["a"].box_head = None
    pictures = torch.from_numpy(crops(2, SIZE_HW))
    with torch.no_grad():
        mending, plain = (DeployedPose(each.deployed("a"), OKS_SIGMAS)(pictures) for each in (model, without))
    assert len(mending) == 4 and len(plain) == 2
    for ours, theirs in zip(mending, plain, strict=False):
        assert torch.equal(ours, theirs)
