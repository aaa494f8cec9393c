"""The branch that goes with an encoder of one feature: MobilePose's dense upsampling convolutions, a decoder each.

OKDHP's supplementary distils ResNet18, MobileNetV2 and ShuffleNetV2 in MobilePose's form (Xiu, 2018): 1x1 compression,
then three times a 3x3 convolution and pixel shuffle (DUC: Wang et al., WACV 2018), from stride 32 to stride 4.
"""

from torch import Tensor, nn

from model.blocks import conv_norm
from model.outputs import BranchOutput
from model.student import DecoderConfig


class DucBranch(nn.Module):
    """One feature (B, in_channels, H/32, W/32) -> heatmaps (B, num_keypoints, H/4, W/4) with three widths.

    config: `widths` are the channels at strides 16, 8 and 4, (128, 64, 32) in MobilePose, each width another doubling
    of the resolution; `depth` >= 1 convolutions a level, 1 in MobilePose.
    """

    def __init__(self, config: DecoderConfig, in_channels: int, num_keypoints: int = 17) -> None:
        super().__init__()
        channels = 2 * config.widths[0]
        layers: list[nn.Module] = [conv_norm(in_channels, channels)]
        for width in config.widths:
            layers += [conv_norm(channels, channels, 3) for _ in range(config.depth - 1)]
            layers += [conv_norm(channels, 4 * width, 3), nn.PixelShuffle(2)]
            channels = width
        self.decoder = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, num_keypoints, 1)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]  # it has a bias

    def forward(self, features: tuple[Tensor, ...]) -> BranchOutput:
        (x,) = features
        return BranchOutput(final=self.head(self.decoder(x)))
