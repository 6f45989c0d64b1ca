"""C2F-SDF's two-stream encoder, its gate between colour and depth, and its decoder; names as in published files."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.extractors.layers import deconv_block

__all__ = ["Decoder", "Deconvolutions", "Gate", "Residual", "TwoStreams"]


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class _Block(nn.Module):
    """ResNet's basic block twice, once for each stream; the convolution on the shortcut is one for both."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        for name in ("", "depth_"):
            setattr(self, f"{name}conv1", _conv(inputs, planes, 3, stride))
            setattr(self, f"{name}bn1", nn.BatchNorm2d(planes))
            setattr(self, f"{name}conv2", _conv(planes, planes, 3))
            setattr(self, f"{name}bn2", nn.BatchNorm2d(planes))
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != planes:
            self.downsample = nn.Sequential(_conv(inputs, planes, 1, stride), nn.BatchNorm2d(planes))

    def forward(self, streams: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self._stream("", streams[0]), self._stream("depth_", streams[1])

    def _stream(self, name: str, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for index in (1, 2):
            x = getattr(self, f"{name}bn{index}")(getattr(self, f"{name}conv{index}")(x))
            x = torch.relu(x if index == 1 else x + shortcut)
        return x


class Gate(nn.Module):
    """A softmax over two maps says at each pixel how much of colour and how much of depth goes on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate_rgb, self.gate_depth = (nn.Conv2d(2 * channels, 1, 1) for _ in range(2))

    def forward(self, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(both streams with half of the mixture in them, the mixture)."""
        both = torch.cat([rgb, depth], 1)
        share = torch.cat([self.gate_rgb(both), self.gate_depth(both)], 1).softmax(1)
        mixed = rgb * share[:, :1] + depth * share[:, 1:]
        return torch.relu((rgb + mixed) / 2), torch.relu((depth + mixed) / 2), mixed


class TwoStreams(nn.Module):
    """Two ResNet-18, for colour and for depth, that exchange after each of their four stages."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.depth_conv1 = nn.Conv2d(1, width, 7, 2, 3, bias=False)
        self.depth_bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.channels = tuple(width * 2**level for level in range(4))
        inputs = width
        for level, planes in enumerate(self.channels):
            blocks = _Block(inputs, planes, 2 if level else 1), _Block(planes, planes, 1)
            setattr(self, f"layer{level + 1}", nn.Sequential(*blocks))
            inputs = planes
        self.RGBDfusion_layers = nn.ModuleList(Gate(channels) for channels in self.channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def begin_from(self, resnet: Mapping[str, Tensor]) -> None:
        """Begins both streams with a ResNet-18 (torchvision's names), as published: ImageNet's.

        The first convolution on depth, which has one channel, and the gates stay as they are.

        Raises:
            ValueError: one of its tensors is missing or has another shape; names it.
        """
        for name, value in self.state_dict().items():
            if name.startswith(("depth_conv1.", "RGBDfusion_layers.")) or name.endswith("num_batches_tracked"):
                continue
            theirs = name.replace("depth_", "")
            if theirs not in resnet or resnet[theirs].shape != value.shape:
                found = tuple(resnet[theirs].shape) if theirs in resnet else "missing"
                raise ValueError(f"{theirs} is {found}; expected {tuple(value.shape)}")
            value.copy_(resnet[theirs])

    def forward(
        self, image: Float[Tensor, "B 3 S S"], depth: Float[Tensor, "B 1 S S"]
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """(the mixtures at strides 4, 8, 16 and 32, both streams at the end)."""
        rgb = self.maxpool(torch.relu(self.bn1(self.conv1(image))))
        deep = self.maxpool(torch.relu(self.depth_bn1(self.depth_conv1(depth))))
        maps = []
        for level, gate in enumerate(self.RGBDfusion_layers):
            rgb, deep = getattr(self, f"layer{level + 1}")((rgb, deep))
            rgb, deep, mixed = gate(rgb, deep)
            maps.append(mixed)
        return maps, (rgb, deep)


class _Conv(nn.Module):
    """A convolution one level down, as published files name it."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Residual(nn.Module):
    """Three convolutions, each behind its normalisation, and a shortcut (He et al. 2016, "identity mappings")."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = outputs // 2
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _Conv(inputs, middle, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(middle), _Conv(middle, middle, 3)
        self.bn3, self.conv3 = nn.BatchNorm2d(middle), _Conv(middle, outputs, 1)
        self.skip_layer = None if inputs == outputs else _Conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.bn1(x)))
        y = self.conv2(torch.relu(self.bn2(y)))
        y = self.conv3(torch.relu(self.bn3(y)))
        return y + (x if self.skip_layer is None else self.skip_layer(x))


class Decoder(nn.Module):
    """Stride 32 up to stride 4, joined with the encoder's maps; heads for dense joint regression (AWR) on top."""

    def __init__(
        self, channels: tuple[int, ...], widths: tuple[int, ...], joints: int = 21, heads: bool = True
    ) -> None:
        """``channels``: of the maps at strides 4 to 32; ``widths``: at strides 16, 8 and 4."""
        super().__init__()
        inputs = channels[3]
        for level, width in zip((4, 3, 2), widths, strict=True):
            skip = channels[level - 2]
            setattr(self, f"skip_layer{level}", Residual(skip, skip))
            up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            setattr(self, f"up{level}", nn.Sequential(Residual(inputs, inputs), up))
            setattr(self, f"fusion_layer{level}", Residual(inputs + skip, width))
            inputs = width
        counts = (63, 21, 21) if heads else ()
        self.finals = nn.ModuleList(nn.Conv2d(inputs, count, 1) for count in counts)

    def forward(self, maps: list[Tensor]) -> Float[Tensor, "B C F F"]:
        """Features at stride 4 of the maps at strides 4, 8, 16 and 32."""
        x = maps[3]
        for level in (4, 3, 2):
            skip = getattr(self, f"skip_layer{level}")(maps[level - 2])
            x = getattr(self, f"fusion_layer{level}")(torch.cat([getattr(self, f"up{level}")(x), skip], 1))
        return x

    def joint_maps(self, features: Float[Tensor, "B C F F"]) -> Float[Tensor, "B M F F"]:
        """63 offsets, 21 heats and 21 weights."""
        return torch.cat([head(features) for head in self.finals], 1).float()


class Deconvolutions(nn.Module):
    """Blocks that double a map's side."""

    def __init__(self, inputs: int, width: int, count: int) -> None:
        super().__init__()
        layers = [layer for index in range(count) for layer in deconv_block(width if index else inputs, width)]
        self.deconv_layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O G F"]:
        return self.deconv_layers(x)
