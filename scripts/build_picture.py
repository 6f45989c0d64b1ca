"""Makes docs/before_after.png: example photos, from pixels alone, as `horefine run` draws them.

    python scripts/build_picture.py

Runs `horefine run examples/images` into a temporary folder and puts the upper halves (before, after, photo) of some of
its overlays under one another.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("tumbler", "can")
WIDTH = 900
SHARE = 0.518
"""Of an overlay's height that holds its first row of pictures and their captions."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "horefine", "run", str(ROOT / "examples" / "images"), "--out", folder]
        subprocess.run(command, check=True)
        rows = []
        for name in NAMES:
            with Image.open(Path(folder) / "items" / name / "overlay.png") as overlay:
                top = overlay.convert("RGB").crop((0, 0, overlay.width, round(overlay.height * SHARE)))
            rows.append(top.resize((WIDTH, round(top.height * WIDTH / top.width)), Image.Resampling.LANCZOS))
    picture = Image.new("RGB", (WIDTH, sum(row.height for row in rows)), "white")
    height = 0
    for row in rows:
        picture.paste(row, (0, height))
        height += row.height
    picture.save(ROOT / "docs" / "before_after.png", optimize=True)


if __name__ == "__main__":
    main()
