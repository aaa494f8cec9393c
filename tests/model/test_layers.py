import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.cross_stage import CrossStage
from model.layers import Projection, RepConv, fuse
from model.student import DecoderConfig, DetectorBranch, Encoder, EncoderConfig


def randomise(module: nn.Module) -> nn.Module:
    """Weights and statistics as after training: nothing left at the values that hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            low = 0.5 if "var" in name else -0.5
            value.copy_(torch.rand(value.shape, generator=generator) * (1.5 - low) + low)
    return module.eval()


@pytest.mark.parametrize(("channels", "stride"), [((6, 6), 1), ((6, 6), 2), ((6, 9), 1)])
def test_kernel_is_the_sum_of_three_side_by_side_branches(channels: tuple[int, int], stride: int) -> None:
    layer = randomise(RepConv(*channels, stride))
    x = torch.randn(2, channels[0], 8, 7)
    scaled_3x3, scaled_1x1 = layer.scale3x3 * layer.conv3x3, layer.scale1x1 * layer.conv1x1
    branches = F.conv2d(x, scaled_3x3, stride=stride, padding=1) + F.conv2d(x, scaled_1x1, stride=stride)
    if layer.scale_identity is not None:
        branches = branches + layer.scale_identity[:, None, None] * x
    assert (layer.scale_identity is not None) == (channels[0] == channels[1] and stride == 1)
    torch.testing.assert_close(layer(x), F.relu(layer.norm(branches)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [RepConv(6, 6), RepConv(6, 8, 2), Projection(6, 8), CrossStage(6, 4)])
def test_fused_layer_computes_the_same(layer: nn.Module) -> None:
    x = torch.randn(2, 6, 9, 8)
    expected = randomise(layer)(x)
    fused = fuse(copy.deepcopy(layer))
    torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.parametrize("layer", [RepConv(6, 6), Projection(6, 8)])
def test_a_channel_that_hardly_varies_is_fused_as_it_was_trained(layer: nn.Module) -> None:
    """Such channels come of weight decay; without the norm's least variance one would be a hundred times as loud."""
    randomise(layer).norm.running_var[::2] = 1e-9
    x = torch.randn(2, 6, 9, 8, generator=torch.Generator().manual_seed(0))
    expected = layer(x)
    torch.testing.assert_close(fuse(copy.deepcopy(layer))(x), expected, rtol=1e-4, atol=1e-2)


def test_cross_stage_merges_what_passed_what_entered_and_every_second_convolution() -> None:
    level = randomise(CrossStage(6, 4))
    x = torch.randn(2, 6, 5, 4)
    entered = level.entry(x)
    second = level.chain[0][1](level.chain[0][0](entered))
    fourth = level.chain[1][1](level.chain[1][0](second))
    expected = level.merge(torch.cat([level.passed(x), entered, second, fourth], 1))
    torch.testing.assert_close(level(x), expected)
    assert level(x).shape == x.shape and entered.shape[1] == 3


@pytest.mark.parametrize("cross_stage", [False, True])
def test_fused_network_holds_plain_convolutions_alone(cross_stage: bool) -> None:
    config = EncoderConfig((4, 8, 8, 8, 8), (0, 0, 2, 2, 0), cross_stage)
    assert any(isinstance(module, CrossStage) for module in Encoder(config).modules()) == cross_stage
    network = fuse(nn.ModuleList([Encoder(config), DetectorBranch(DecoderConfig((8, 8)), config, tower=1)]))
    kinds = {type(module) for module in network.modules() if not list(module.children())}
    assert kinds == {nn.Conv2d, nn.ReLU, nn.Identity}
