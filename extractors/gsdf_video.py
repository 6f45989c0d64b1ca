"""gSDF for clips: a transformer that exchanges what the pictures of a clip show (Chen et al. 2023, section 3.4).

First all pixels of each picture attend to each other, then each pixel to itself at the other times. Nothing says which
picture comes when: a clip may have any number, in any order.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ClipTransformer", "PreNormTransformer"]


class Attention(nn.Module):
    """Self-attention of several heads; queries, keys and values without bias."""

    def __init__(self, dim: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * head_width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_width, dim))

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        query, key, value = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.to_out(found.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        # the published one has dropouts of 0 at 2 and 4
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PreNorm(nn.Module):
    """A module after a layer norm."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class PreNormTransformer(nn.Module):
    """Layers of attention and perceptron, each added to its input; a norm at the end."""

    def __init__(self, dim: int, layers: int, heads: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [PreNorm(dim, Attention(dim, heads, head_width)), PreNorm(dim, Perceptron(dim, hidden))],
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        for layer in self.layers:
            for part in layer.children():
                x = x + part(x)
        return self.norm(x)


class ClipTransformer(nn.Module):
    """The maps of clips to maps that know of each other."""

    def __init__(self, channels: int, side: int, layers: int, heads: int, head_width: int, hidden: int) -> None:
        """``side``: of the maps, pixels."""
        super().__init__()
        self.pos_embedding = nn.Parameter(0.02 * torch.randn(1, 1, side * side, channels))
        self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(channels, channels))
        self.spatial_transformer = PreNormTransformer(channels, layers, heads, head_width, hidden)
        self.temporal_transformer = PreNormTransformer(channels, layers, heads, head_width, hidden)

    def forward(self, maps: Float[Tensor, "B C S S"], frames: int) -> Float[Tensor, "B C S S"]:
        """``frames``: how many maps in a row are a clip's.

        Raises:
            ValueError: the batch is not made of whole clips.
        """
        if frames < 1 or len(maps) % frames:
            raise ValueError(f"{len(maps)} pictures are not clips of {frames}")
        tokens = self.to_patch_embedding(maps.flatten(2).mT) + self.pos_embedding[0]
        tokens = self.spatial_transformer(tokens)
        clips = tokens.unflatten(0, (-1, frames)).transpose(1, 2)  # clip, pixel, time
        tokens = self.temporal_transformer(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return tokens.transpose(1, 2).flatten(0, 1).mT.unflatten(2, maps.shape[2:])
