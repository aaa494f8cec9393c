"""The network that a pose recipe describes."""

from torch import nn

from model.duc import DucBranch
from model.hourglass import HourglassBranch, HourglassTrunk
from model.mobilenet import MobileNetV2
from model.okdhp import OKDHP
from model.resnet import ResNet18
from model.shufflenet import ShuffleNetV2
from model.student import DecoderConfig, Encoder, PoseBranch
from training.config import Recipe
from training.person import NUM_KEYPOINTS

Parts = tuple[nn.Module, dict[str, nn.Module]]  # a trunk, and its branches by name


def build_model(recipe: Recipe, num_keypoints: int = NUM_KEYPOINTS) -> OKDHP:
    """The multi-branch network of a pose recipe, freshly initialised."""
    if recipe.network == "student":
        trunk, branches = _student(recipe, num_keypoints)
    elif recipe.network == "hourglass":
        trunk, branches = _hourglass(recipe, num_keypoints)
    else:
        trunk, branches = _published(recipe, num_keypoints)
    return OKDHP(trunk, branches, num_keypoints, recipe.fau)


def _student(recipe: Recipe, num_keypoints: int) -> Parts:
    encoder = recipe.encoder.student
    branches: dict[str, nn.Module] = {}
    last = recipe.stages[-1]
    boxes_in = (last.height, last.width) if recipe.region_share > 0 else None
    for branch in recipe.branches:
        decoder = DecoderConfig(branch.widths, branch.depth, branch.shuffle, branch.features, branch.own)
        branches[branch.name] = PoseBranch(decoder, encoder, num_keypoints, boxes_in)
    trunk = Encoder(encoder)
    if all(branch.own.widths for branch in recipe.branches):
        weighed = len(branches) > 1 and recipe.fau != "mean"  # by a FAU, which reads the features at stride 8
        trunk.stages[3 if weighed else 2 :].requires_grad_(False)
    return trunk, branches


def _hourglass(recipe: Recipe, num_keypoints: int) -> Parts:
    channels = recipe.hourglass.channels
    trunk = HourglassTrunk(recipe.hourglass.shared, channels, num_keypoints)
    return trunk, {b.name: HourglassBranch(b.stacks, channels, num_keypoints) for b in recipe.branches}


def _published(recipe: Recipe, num_keypoints: int) -> Parts:
    """An encoder of the literature, a dense-upsampling decoder per branch."""
    multiplier = recipe.encoder.multiplier
    trunk: ResNet18 | MobileNetV2 | ShuffleNetV2
    if recipe.network == "resnet18":
        trunk = ResNet18(multiplier)
    elif recipe.network == "mobilenetv2":
        trunk = MobileNetV2(multiplier)
    else:
        trunk = ShuffleNetV2(multiplier)
    return trunk, {
        branch.name: DucBranch(DecoderConfig(branch.widths, branch.depth), trunk.channels, num_keypoints)
        for branch in recipe.branches
    }
