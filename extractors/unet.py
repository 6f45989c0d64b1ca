"""HOISDF's U-Net: ResNet encoder, deconvolution decoder, maps for points to read, and a few per-pixel heads.

Module names are those of the official checkpoints (``decoder_net.resnet_decoder.deconv1.0.weight`` ...), and
:data:`SMALL` and :data:`BIG` are its two decoders; :data:`COMPACT` is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from horefine.extractors.layers import conv_block_biased, deconv_block
from horefine.extractors.resnet import ResNet

__all__ = ["BIG", "COMPACT", "SMALL", "UNet", "UNetConfig"]


@dataclass(frozen=True)
class UNetConfig:
    """Channels at strides 16, 8, 4, 2: four of each, or three to stop at stride 4."""

    deconvs: tuple[int, ...]
    fuses: tuple[int, ...]
    laterals: tuple[int, ...] = ()
    """1x1 convolutions on the encoder's maps before they are joined; empty: joined as they are."""
    top: int = 0
    """Channels of the 1x1 convolution on the stride 32 map that points read; 0: they read it raw."""
    heads: tuple[int, ...] = (32,)
    """Hidden channels of the per-pixel heads."""


SMALL = UNetConfig((256, 128, 64, 64), (256, 128, 64, 32), (256, 128, 64, 32), 512, (32,))
BIG = UNetConfig((1024, 512, 256, 128), (1024, 512, 256, 128), (), 0, (128, 64))
COMPACT = UNetConfig((96, 64, 48), (96, 64, 64), (), 128, ())


def _head(inputs: int, widths: tuple[int, ...], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += conv_block_biased(inputs, width, 1)
        inputs = width
    return nn.Sequential(*layers, nn.Conv2d(inputs, outputs, 1))


class _Decoder(nn.Module):
    def __init__(self, channels: tuple[int, ...], config: UNetConfig, heads: Mapping[str, int]) -> None:
        super().__init__()
        top = channels[-1]
        if config.top:
            self.conv0d = conv_block_biased(top, config.top, 1)
        self.channels = [config.top or top]
        inputs = top
        for level in range(len(config.deconvs)):
            skip = channels[3 - level]
            if config.laterals:
                setattr(self, f"conv{level + 1}d", conv_block_biased(skip, config.laterals[level], 1))
                skip = config.laterals[level]
            setattr(self, f"deconv{level + 1}", deconv_block(inputs, config.deconvs[level]))
            inputs = config.fuses[level]
            setattr(self, f"conv{level + 1}", conv_block_biased(skip + config.deconvs[level], inputs, 3))
            self.channels.insert(0, inputs)
        for name, outputs in heads.items():
            setattr(self, f"convOut_{name}", _head(inputs, config.heads, outputs))
        self.head_names, self.levels = tuple(heads), len(config.deconvs)
        self.has_top, self.has_laterals = bool(config.top), bool(config.laterals)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        x = maps[4]
        pyramid = [self.conv0d(x) if self.has_top else x]
        for level in range(self.levels):
            skip = maps[3 - level]
            if self.has_laterals:
                skip = getattr(self, f"conv{level + 1}d")(skip)
            x = getattr(self, f"deconv{level + 1}")(x)
            x = getattr(self, f"conv{level + 1}")(torch.cat([skip, x], 1))
            pyramid.insert(0, x)
        return pyramid, {name: getattr(self, f"convOut_{name}")(x).float() for name in self.head_names}


class _Backbone(nn.Module):
    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.resnet = resnet


class _DecoderNet(nn.Module):
    def __init__(self, decoder: _Decoder) -> None:
        super().__init__()
        self.resnet_decoder = decoder


class UNet(nn.Module):
    """Base class of networks that hold ``backbone_net`` and ``decoder_net``."""

    def __init__(self, depth: int, width: int, config: UNetConfig, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.backbone_net = _Backbone(ResNet(depth, width))
        channels = self.backbone_net.resnet.channels
        self.decoder_net = _DecoderNet(_Decoder(channels, config, heads))
        self.top_channels = channels[-1]
        self.pyramid_channels: list[int] = self.decoder_net.resnet_decoder.channels

    def maps(self, image: Tensor, bias: Tensor | None = None) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """(stride 32 map, the maps points read, finest first, stride 32 last; raw per-pixel heads by name).

        ``bias`` "B C" is added to the stride 32 map: what is known beside the picture.
        """
        maps = self.backbone_net.resnet(image)
        if bias is not None:
            maps[4] = maps[4] + bias[:, :, None, None].to(maps[4].dtype)
        pyramid, heads = self.decoder_net.resnet_decoder(maps)
        return maps[4], pyramid, heads
