import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.blocks import scaled
from model.duc import DucBranch
from model.mobilenet import MobileNetV2
from model.okdhp import OKDHP
from model.resnet import ResNet18
from model.shufflenet import ShuffleNetV2, shuffle
from model.student import DecoderConfig

ENCODERS = (ResNet18, MobileNetV2, ShuffleNetV2)
Encoder = ResNet18 | MobileNetV2 | ShuffleNetV2


# The papers' networks without their classifiers, as torchvision counts them: its totals at 224x224 less the last layer.
@pytest.mark.parametrize(
    ("kind", "parameters", "gmacs"),
    [
        (ResNet18, 11_689_512 - 513_000, 1.814 - 0.0005),
        (MobileNetV2, 3_504_872 - 1_281_000, 0.3008 - 0.0013),
        (ShuffleNetV2, 2_278_604 - 1_025_000, 0.1446 - 0.001),
    ],
)
def test_encoder_costs_what_the_published_network_costs(kind: type[Encoder], parameters: int, gmacs: float) -> None:
    encoder = kind().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, 224, 224))
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.001)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("multiplier", [0.1, 0.5])
def test_stem_is_at_stride_4_and_the_feature_at_stride_32(kind: type[Encoder], multiplier: float) -> None:
    encoder = kind(multiplier).eval()
    found = encoder(torch.rand(2, 3, 64, 96) * 255)
    assert found.stem.shape == (2, encoder.stem_channels, 16, 24)
    assert [feature.shape for feature in found.features] == [(2, encoder.channels, 2, 3)]
    assert encoder.channels < kind().channels


def small_network(kind: type[Encoder], multiplier: float = 0.1) -> OKDHP:
    trunk = kind(multiplier)
    decoders = {"light": DecoderConfig((8, 4, 4)), "heavy": DecoderConfig((16, 8, 8), depth=2)}
    return OKDHP(trunk, {name: DucBranch(d, trunk.channels, 3) for name, d in decoders.items()}, 3, "slim")


@pytest.mark.parametrize("kind", ENCODERS)
def test_branches_of_any_encoder_are_ensembled_and_deployed_alone(kind: type[Encoder]) -> None:
    model = small_network(kind).eval()
    images = torch.rand(2, 3, 64, 32) * 255
    out = model(images)
    assert {name: branch.final.shape for name, branch in out.branches.items()} == dict.fromkeys(
        ("light", "heavy"), (2, 3, 16, 8)
    )
    torch.testing.assert_close(out.ensemble, (out.branches["light"].final + out.branches["heavy"].final) / 2)
    torch.testing.assert_close(model.deployed("heavy")(images).final, out.branches["heavy"].final)


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_parameter_of_the_trunk_learns_from_the_ensemble(kind: type[Encoder]) -> None:
    model = small_network(kind, multiplier=0.5)  # few channels may all be at rest behind a ReLU
    nn.init.normal_(model.fau.heads.weight)
    for branch in model.branches.values():
        nn.init.normal_(branch.head.weight)
    model(torch.rand(2, 3, 64, 64) * 255).ensemble.square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_shuffle_interleaves_the_halves() -> None:
    assert shuffle(torch.arange(6.0).view(1, 6, 1, 1)).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_scaled_channels_stay_as_published_at_one_and_never_vanish() -> None:
    assert [scaled(c, 1.0) for c in (24, 116, 232, 464, 1024)] == [24, 116, 232, 464, 1024]
    assert scaled(24, 0.01) == 4
