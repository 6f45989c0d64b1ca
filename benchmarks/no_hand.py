"""How well ``horefine run`` tells photographs without a hand (``items.check_hand``), on held-out synthetic scenes.

    python -m benchmarks.no_hand --scenes 100

Each scene is photographed twice: as it is, and with hand, forearm and whatever stood in front taken out, so that the
object floats or stands alone. Both go the way of ``horefine run``: boxes by the detector, crop, the hand's mask.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import torch

from benchmarks._common import write_result
from horefine.data import Sample
from horefine.data.compose import PHOTO, Layout
from horefine.data.crop import crop_box, crop_sample
from horefine.data.maps import Part
from horefine.data.scenes import SceneSource, photo_camera
from horefine.data.synthetic import _photo, _tensor
from horefine.extractors import Learned
from horefine.items import CLEAR, LEAST_CLEAR


def alone(layout: Layout) -> Layout:
    """The scene without hand, forearm and occluders: they are put far beside the photo."""
    far = np.array([50, 0, 0], np.float32)

    def moved(part: Part) -> Part:
        return dataclasses.replace(part, vertices=part.vertices + far)

    return dataclasses.replace(
        layout, hand=moved(layout.hand), forearm=moved(layout.forearm), joints=layout.joints + far, occluders=()
    )


def clear_share(learned: Learned, sample: Sample) -> float:
    """Share of the crop's pixels that are clearly a hand's."""
    found = learned.locate(sample, "right")
    crop = crop_sample(sample, crop_box(found.hand_box, found.object_box))
    mask = learned.features([crop], ["hand_mask"]).hand_mask
    assert mask is not None
    return float((mask > CLEAR).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=78, help="any but the training scenes' 0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source, learned = SceneSource(options.seed), Learned()
    shares: dict[str, list[float]] = {"with a hand": [], "without": []}
    for index in range(options.scenes):
        which, layout = source.layout(index)
        for name, shown in (("with a hand", layout), ("without", alone(layout))):
            image = _tensor(_photo(source.stage(index, which, shown), shown, PHOTO))
            sample = Sample(name, image, photo_camera(layout), source.meshes[which])
            shares[name].append(clear_share(learned, sample))
    rows = [
        {"photographs": name, "count": len(values), "refused %": 100 * float(np.mean(np.array(values) < LEAST_CLEAR)),
         "share clearly hand %, median": 100 * float(np.median(values)), "5 %": 100 * float(np.quantile(values, 0.05)),
         "95 %": 100 * float(np.quantile(values, 0.95))}
        for name, values in shares.items()
    ]  # fmt: skip
    notes = [f"Refused: less than {LEAST_CLEAR:.1%} of the crop's pixels above {CLEAR} in the hand's mask."]
    write_result("no_hand", {"options": vars(options), "shares": shares}, rows=rows, notes=notes)


if __name__ == "__main__":
    main()
