"""Draws ``docs/synthetic.png``: crops of many scenes, then some whole photos with their maps.

python scripts/show_synthetic.py [SEED]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from horefine.data import Sample
from horefine.data.crop import resample
from horefine.data.synthetic import SyntheticDataset

TARGET = Path(__file__).parents[1] / "docs" / "synthetic.png"
SIDE, COLUMNS = 144, 8


def main(seed: int) -> None:
    """Five rows of crops; two rows of a photo, its crop's masks, hand and object codes and depth."""
    torch.set_num_threads(1)
    crops = SyntheticDataset(5 * COLUMNS, seed, size=SIDE)
    tiles = [_bytes(crops[i].image) for i in range(len(crops))]
    rows = [np.concatenate(tiles[k : k + COLUMNS], 1) for k in range(0, len(tiles), COLUMNS)]
    photos = SyntheticDataset(4, seed)
    pairs = [_with_maps(photos[i]) for i in range(4)]
    rows += [np.concatenate(pairs[k : k + 2], 1) for k in (0, 2)]
    Image.fromarray(np.concatenate(rows)).save(TARGET, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size / 1e6:.2f} MB")


def _bytes(image: torch.Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _with_maps(sample: Sample) -> np.ndarray:
    maps = sample.features
    assert maps is not None and maps.hand_mask is not None and maps.object_mask is not None
    assert maps.hand_coords is not None and maps.object_coords is not None and maps.depth is not None
    hand, thing = maps.hand_mask[0], maps.object_mask[0]
    codes = maps.hand_coords[0] * hand + maps.object_coords[0] * thing
    depth = ((0.5 - 2.5 * maps.depth[0]) * (hand + thing)).clamp(0, 1).expand(3, -1, -1)
    masks = torch.stack([hand, thing, torch.zeros_like(hand)])
    small = [_bytes(torch.nn.functional.interpolate(m[None], size=(SIDE, SIDE))[0]) for m in (masks, codes, depth)]
    photo = resample(sample.image, (79.5, -0.5, 559.5, 479.5), SIDE)
    return np.concatenate([_bytes(photo), *small], 1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
