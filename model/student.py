"""The light student: a plain-convolution encoder shared by all branches, and a light top-down decoder per branch.

On CPUs and GPUs alike a plain 3x3 convolution runs near the hardware's limit where depthwise and shuffled ones do not
(benchmarks/latency.py), so the network spends its multiply-adds on few, dense layers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.box_head import BoxHead
from model.cross_stage import CrossStage
from model.layers import Projection, RepConv
from model.outputs import BranchOutput, TrunkOutput

PIXEL_SCALE = 64.0  # a factor and no offset: export folds it into the first kernel, borders included


@dataclass(frozen=True)
class EncoderConfig:
    """Channels at strides 2, 4, 8 and so on, and how many further convolutions follow each downsampling one.

    cross_stage: they follow on half of the channels (CrossStage), which gives more layers for the same time.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    depths: tuple[int, ...] = (0, 0, 2, 3, 2)
    cross_stage: bool = False


@dataclass(frozen=True)
class OwnConfig:
    """A branch's own encoder: channels at strides 4, 8, 16 and so on, and how many further convolutions follow each.

    None by default. With one, the branch shares the trunk as far as stride 4 alone and may be many times as heavy.
    """

    widths: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()


@dataclass(frozen=True)
class DecoderConfig:
    """Channels on the way up from the encoder's last level, one a level, and convolutions at each.

    With an encoder of five levels three widths end at stride 4, with one of six at stride 8.
    shuffle: a pose head predicts shuffle x shuffle heatmap cells at each place, so that two widths and a shuffle of 2
    end at stride 4 too, without convolutions at that costly resolution (sub-pixel convolution: Shi et al., CVPR 2016).
    features: channels that the last convolution widens to for the head, 0 for as many as the last width. The head is
    linear: shuffle x shuffle cells of every keypoint need more of them than the way up does.
    own: the encoder that the decoder goes up from, if not the shared one.
    """

    widths: tuple[int, ...] = (96, 64, 32)
    depth: int = 1
    shuffle: int = 1
    features: int = 0
    own: OwnConfig = OwnConfig()

    @property
    def out_channels(self) -> int:
        """Channels of what the decoder gives its head."""
        return self.features or self.widths[-1]


class Encoder(nn.Module):
    """Pictures (B, 3, H, W), float 0..255 RGB -> features at its strides from 4 up, the coarsest first.

    H and W are divisible by the last stride: 32 for five levels, 64 for six.
    """

    def __init__(self, config: EncoderConfig = EncoderConfig()) -> None:
        super().__init__()
        self.config = config
        channels = 3
        self.stages = nn.ModuleList()
        for width, depth in zip(config.widths, config.depths, strict=True):
            stage: list[nn.Module] = [RepConv(channels, width, stride=2)]
            if config.cross_stage and depth:
                stage.append(CrossStage(width, depth))
            else:
                stage += [RepConv(width, width) for _ in range(depth)]
            self.stages.append(nn.Sequential(*stage))
            channels = width
        self.stem_channels = config.widths[2]
        self.pixel_scale = PIXEL_SCALE

    def cut(self) -> None:
        """For export: nothing beyond stride 4 is computed, as a branch with an encoder of its own reads no more."""
        self.stages = self.stages[:2]

    def fold_pixel_scale(self) -> None:
        """After `fuse`: put the division of the pixels into the first kernel."""
        first = next(module for module in self.modules() if isinstance(module, nn.Conv2d))
        first.weight.data /= self.pixel_scale
        self.pixel_scale = 1.0

    def forward(self, images: Tensor) -> TrunkOutput:
        x = images / self.pixel_scale if self.pixel_scale != 1.0 else images
        pyramid = []
        for stage in self.stages:
            x = stage(x)
            pyramid.append(x)
        return TrunkOutput(stem=pyramid[2 if len(pyramid) > 2 else -1], features=tuple(reversed(pyramid[1:])))


class OwnEncoder(nn.Module):
    """The shared features at stride 4 -> features of a branch's own at its strides, the coarsest first.

    The teaching half of an unbalanced pair: heavy from stride 4 on, so that it sees more than a light trunk lets pass.
    """

    def __init__(self, channels: int, config: OwnConfig) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            first = RepConv(channels, width, stride=2 if level else 1)
            self.stages.append(nn.Sequential(first, *(RepConv(width, width) for _ in range(depth))))
            channels = width

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, pyramid = features[-1], []
        for stage in self.stages:
            x = stage(x)
            pyramid.append(x)
        return tuple(reversed(pyramid))


class Decoder(nn.Module):
    """Encoder features -> what a head needs, top-down with additive skips; (B, out_channels, H/s, W/s) out."""

    def __init__(self, config: DecoderConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.own = OwnEncoder(encoder.widths[1], config.own) if config.own.widths else None
        coarse_to_fine = list(reversed(config.own.widths or encoder.widths[1:]))
        self.coarsest_channels, self.coarsest_stride = coarse_to_fine[0], 2 ** (len(coarse_to_fine) + 1)
        self.entry = Projection(coarse_to_fine[0], config.widths[0])
        self.skips = nn.ModuleList()
        self.blocks = nn.ModuleList()
        self.steps = nn.ModuleList()
        for level, width in enumerate(config.widths):
            self.skips.append(Projection(coarse_to_fine[level + 1], width))
            following = config.widths[level + 1] if level + 1 < len(config.widths) else None
            ends = [width] * config.depth if following else [width] * (config.depth - 1) + [config.out_channels]
            self.blocks.append(nn.Sequential(*(RepConv(width, end) for end in ends)))
            self.steps.append(Projection(width, following) if following else nn.Identity())

    def pyramid(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The features that `forward` goes up from: the shared ones, or the branch's own."""
        return features if self.own is None else self.own(features)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        x: Tensor = self.entry(features[0])
        for feature, skip, block, step in zip(features[1:], self.skips, self.blocks, self.steps, strict=False):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") + skip(feature)
            x = step(block(x))
        return x


class PoseBranch(nn.Module):
    """One pose estimator on the shared encoder: heatmaps (B, num_keypoints, H/s, W/s), about 0..1.

    s is the decoder's stride over config.shuffle. boxes_in: with a box head for crops of that height and width alone.
    """

    def __init__(
        self,
        config: DecoderConfig,
        encoder: EncoderConfig,
        num_keypoints: int = 17,
        boxes_in: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.decoder = Decoder(config, encoder)
        self.head = nn.Conv2d(config.out_channels, num_keypoints * config.shuffle**2, 1)
        self.shuffle = config.shuffle
        self.box_head: BoxHead | None = None
        if boxes_in is not None:
            cells_hw = [side // self.decoder.coarsest_stride for side in boxes_in]
            self.box_head = BoxHead(self.decoder.coarsest_channels, cells_hw)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(_bias(self.head))

    def leave_to_decoding(self, temperature: float) -> int:
        """For export: `final` is the head's own prediction, over `temperature`; returns the shuffle that it lacks."""
        self.head.weight.data /= temperature
        _bias(self.head).data /= temperature
        factor, self.shuffle = self.shuffle, 1
        return factor

    def forward(self, features: tuple[Tensor, ...]) -> BranchOutput:
        pyramid = self.decoder.pyramid(features)
        heatmaps = self.head(self.decoder(pyramid))
        if self.shuffle > 1:
            heatmaps = F.pixel_shuffle(heatmaps, self.shuffle)
        return BranchOutput(final=heatmaps, region=self.box_head(pyramid[0]) if self.box_head else None)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


PRIOR = 0.01  # a detector starts by believing that one cell in a hundred is a person (Lin et al., ICCV 2017)


class DetectorBranch(nn.Module):
    """One person detector on the shared encoder (CenterNet: Zhou et al., 2019), at the decoder's stride s.

    `final` (B, 1, H/s, W/s) is 0..1, how well whoever is centred in the cell is boxed there; `boxes` (B, 4, H/s,
    W/s) holds the box centre's offset from the cell's centre (x, y, in cells) and the logarithm of its size (w, h).
    tower: how many convolutions `final` has to itself; the boxes have one.
    """

    def __init__(self, config: DecoderConfig, encoder: EncoderConfig, tower: int = 0) -> None:
        super().__init__()
        width = config.widths[-1]
        self.decoder = Decoder(config, encoder)
        self.tower = nn.Sequential(*(RepConv(width, width) for _ in range(tower)))
        self.centre = nn.Conv2d(width, 1, 1)
        self.boxes = nn.Sequential(RepConv(width, width), nn.Conv2d(width, 4, 1))
        nn.init.normal_(self.centre.weight, std=0.001)
        nn.init.constant_(_bias(self.centre), float(torch.logit(torch.tensor(PRIOR))))

    def forward(self, features: tuple[Tensor, ...]) -> BranchOutput:
        x = self.decoder(self.decoder.pyramid(features))
        return BranchOutput(final=torch.sigmoid(self.centre(self.tower(x)).float()), boxes=self.boxes(x).float())
