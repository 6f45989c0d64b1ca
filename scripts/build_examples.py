"""Writes examples/: a few synthetic photos with what a user would know of them (lens, object, depth) beside each.

    python scripts/build_examples.py

The photos are those of ``horefine synthesize --seed 2026``, kept as JPEG. Boxes are left out of the sidecars, so
``make demo`` has to find hand and object by itself; the true poses lie apart and are only compared with. Depth is that
of the synthetic sensor, as 16-bit PNG in millimetres; only ``--init c2fsdf`` and the recipe ``rgbd`` look at it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from horefine.data.clips import SyntheticClips
from horefine.data.synthetic import write_dataset

CHOSEN = {1: "can", 3: "box", 4: "banana", 5: "mug", 6: "drill", 13: "tumbler"}
"""Scene of the seed -> name of the example. Chosen before any network had seen them, for variety."""


CLIP, FRAMES = 0, 6
"""Which clip of the seed is the example, and how long it is."""


def write_clip(out: Path) -> None:
    """A short clip: frames as JPEG, what is common to them in one sidecar, the true poses apart."""
    with tempfile.TemporaryDirectory() as scratch:
        SyntheticClips(CLIP + 1, FRAMES, seed=2026).write(Path(scratch), CLIP)
        for folder in (out / "clip", out / "clip_truth"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        common = {}
        for number, file in enumerate(sorted(Path(scratch, "images").glob("*.json"))):
            known = json.loads(file.read_text())
            common = {key: known[key] for key in ("camera", "object", "side")}
            name = f"frame_{number:02d}"
            Image.open(file.with_suffix(".png")).save(out / "clip" / f"{name}.jpg", quality=93)
            (out / "clip" / f"{name}.json").write_text(json.dumps({"truth": f"../clip_truth/{name}.npz"}) + "\n")
            shutil.copy(Path(scratch, "truth") / f"{file.stem}.npz", out / "clip_truth" / f"{name}.npz")
        (out / "clip" / "horefine.json").write_text(json.dumps(common, indent=1) + "\n")


def main(source: Path | None = None) -> None:
    out = Path(__file__).resolve().parents[1] / "examples"
    with tempfile.TemporaryDirectory() as scratch:
        if source is None:
            source = Path(scratch)
            write_dataset(source, max(CHOSEN) + 1, seed=2026)
        for folder in ("images", "depth", "truth"):
            shutil.rmtree(out / folder, ignore_errors=True)
            (out / folder).mkdir(parents=True)
        for index, name in CHOSEN.items():
            scene = f"scene_{index:06d}"
            known = json.loads((source / "images" / f"{scene}.json").read_text())
            sidecar = {key: known[key] for key in ("camera", "object", "side")}
            sidecar |= {"depth": f"../depth/{name}.png", "truth": f"../truth/{name}.npz"}
            Image.open(source / "images" / f"{scene}.png").save(out / "images" / f"{name}.jpg", quality=93)
            (out / "images" / f"{name}.json").write_text(json.dumps(sidecar, indent=1) + "\n")
            shutil.copy(source / "truth" / f"{scene}.npz", out / "truth" / f"{name}.npz")
            depth = Image.open(source / "depth" / f"{scene}.png")
            depth.save(out / "depth" / f"{name}.png", optimize=True)
    write_clip(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
