"""Parts of gSDF (Chen et al. 2023): necks, volumetric heat maps, kinematic features, the decoder of a field."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from horefine.extractors.layers import deconv_block
from horefine.extractors.resnet import ResNet
from horefine.inverse_kinematics.gsdf import TRANSFORM_ORDER, GsdfKinematics

__all__ = [
    "HAND_LATENTS",
    "OBJECT_LATENTS",
    "Neck",
    "VolumeHead",
    "VolumeNet",
    "hand_embedding",
    "object_embedding",
    "soft_argmax",
]

HAND_LATENTS = (3, 6, 21, 36, 51)
"""The place alone; and in the wrist's frame; and in those of the first, second, third joint of every finger."""
OBJECT_LATENTS = (3, 6, 9, 69, 72)
"""The place alone; and from the object's centre; and in the wrist's frame; 69 and 72: and from all 21 joints."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FRAMES = [
    TRANSFORM_ORDER.index(name)
    for name in ("wrist", *(name for digit in "123" for name in TRANSFORM_ORDER if name.endswith(digit)))
]
"""Level by level, thumb to little finger."""


class Neck(nn.Module):
    """Blocks that double a map's side: transposed 4x4 convolution of stride 2, batch normalisation, ReLU."""

    def __init__(self, encoder: tuple[int, ...], outputs: int, blocks: int) -> None:
        """``encoder``: channels of its maps; the last is this neck's input."""
        super().__init__()
        layers = [layer for i in range(blocks) for layer in deconv_block(outputs if i else encoder[-1], outputs)]
        self.deconv_layers = nn.Sequential(*layers)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The encoder's ``maps``, of which the last is read, to one map after each block, the largest last."""
        x, found = maps[-1], []
        for start in range(0, len(self.deconv_layers), 3):
            x = self.deconv_layers[start : start + 3](x)
            found.append(x)
        return found


class VolumeHead(nn.Module):
    """A map to volumes of logits, one for each place that is looked for: channel = place * bins + depth bin."""

    def __init__(self, inputs: int, places: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.layers = nn.Sequential(nn.Conv2d(inputs, places * bins, 1))

    def forward(self, x: Tensor) -> Float[Tensor, "B J D H W"]:
        return self.layers(x).unflatten(1, (-1, self.bins))


def soft_argmax(logits: Float[Tensor, "B J D H W"]) -> tuple[Float[Tensor, "B J 3"], Float[Tensor, "B J"]]:
    """Mean place (column, row, depth bin; fractions of bins) and greatest probability of each volume."""
    share = logits.float().flatten(2).softmax(-1)
    peak = share.amax(-1)
    planes = share.unflatten(-1, logits.shape[2:])
    picture = planes.sum(2)
    means = [
        line @ torch.arange(line.shape[-1], dtype=line.dtype, device=line.device)
        for line in (picture.sum(-2), picture.sum(-1), planes.flatten(3).sum(-1))
    ]
    return torch.stack(means, -1), peak


class VolumeNet(nn.Module):
    """Encoder, neck and volumetric heat maps: gSDF's first stage, and the trunk of its second."""

    def __init__(self, depth: int, width: int, neck: int, places: int, bins: int) -> None:
        """``places``: how many are looked for (21 joints, the object's centre, or both, the hand first)."""
        super().__init__()
        self.backbone = ResNet(depth, width)
        self.neck = Neck(self.backbone.channels, neck, 3)
        self.volume_head = VolumeHead(neck, places, bins)

    @staticmethod
    def normalised(image: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Pictures from 0 to 1, as ImageNet networks take them."""
        return (image - image.new_tensor(_MEAN)[:, None, None]) / image.new_tensor(_STD)[:, None, None]

    def forward(self, image: Float[Tensor, "B 3 S S"]) -> tuple[Float[Tensor, "B J 3"], Float[Tensor, "B J"]]:
        """:func:`soft_argmax` of pictures from 0 to 1."""
        return self.places(self.backbone(self.normalised(image)))

    def places(self, maps: list[Tensor]) -> tuple[Float[Tensor, "B J 3"], Float[Tensor, "B J"]]:
        """:func:`soft_argmax`, from the encoder's maps."""
        return soft_argmax(self.volume_head(self.neck(maps)[-1]))


def hand_embedding(x: Float[Tensor, "B N 3"], kinematics: GsdfKinematics, latent: int = 51) -> Float[Tensor, "B N E"]:
    """Places about the wrist, as seen from there and by the hand's joints, metres.

    ``latent``: how many numbers, one of :data:`HAND_LATENTS`.
    """
    transforms = kinematics.transforms[:, _FRAMES[: (latent - 3) // 3]]
    return torch.cat([x, _seen_from(x, transforms)], -1)


def object_embedding(
    x: Float[Tensor, "B N 3"], center: Float[Tensor, "B 3"], joints: Float[Tensor, "B 21 3"],
    kinematics: GsdfKinematics, latent: int = 72,
) -> Float[Tensor, "B N E"]:  # fmt: skip
    """Places as seen from the wrist, the object's ``center`` and the ``joints``, all about the wrist, metres.

    ``latent``: how many numbers, one of :data:`OBJECT_LATENTS`.
    """
    parts = [x]
    if latent >= 6:
        parts.append(x - center[:, None])
    if latent in (9, 72):
        parts.append(_seen_from(x, kinematics.transforms[:, :1]))
    if latent >= 69:
        parts.append((x[:, :, None] - joints[:, None]).flatten(2))
    return torch.cat(parts, -1)


def _seen_from(x: Float[Tensor, "B N 3"], transforms: Float[Tensor, "B K 4 4"]) -> Float[Tensor, "B N M"]:
    offset = x[:, :, None] - transforms[:, None, :, :3, 3]
    return torch.einsum("bkji,bnkj->bnki", transforms[..., :3, :3], offset).flatten(2)
