"""Phone photographs with nothing but pixels: the lens from EXIF or a stated default, upright whatever the tag says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from horefine.data import Sample
from horefine.data.folder import FolderDataset, FolderOptions

ORIENTATION, FOCAL, FOCAL_35, ACROSS, UNIT, WIDTH, HEIGHT = 0x0112, 0x920A, 0xA405, 0xA20E, 0xA210, 0xA002, 0xA003
TURNS = {1: 0, 3: 180, 6: 270, 8: 90}
"""Orientation tag -> degrees, counter-clockwise, that turn the stored picture upright."""


def photograph(folder: Path, orientation: int = 1, **tags: object) -> Path:
    """A JPEG as a phone writes it: upright 90 wide and 120 high, dark above, a red patch to the upper right."""
    upright = np.full((120, 90, 3), 60, np.uint8)
    upright[60:] = 200
    upright[5:25, 65:85] = (255, 0, 0)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    inner = exif.get_ifd(0x8769)
    for name, value in tags.items():
        inner[globals()[name]] = value
    stored = Image.fromarray(upright).rotate(-TURNS[orientation], expand=True)
    path = folder / "photo.jpg"
    stored.save(path, quality=95, exif=exif)
    return path


def read(path: Path) -> Sample:
    return FolderDataset(path, FolderOptions(object="can", side="right"))[0]


@pytest.mark.parametrize("orientation", sorted(TURNS))
def test_it_stands_upright_and_its_lens_is_that_of_the_equivalent(tmp_path: Path, orientation: int) -> None:
    sample = read(photograph(tmp_path, orientation, FOCAL_35=26))
    assert sample.camera.size == (120, 90) and sample.image.shape == (3, 120, 90)
    assert sample.image[0, 15, 75] > 0.8 and sample.image[1, 15, 75] < 0.3  # the patch
    assert sample.image[:, 110].mean() > sample.image[:, 40, :60].mean()
    focal = 26 * math.hypot(90, 120) / math.hypot(36, 24)
    matrix = sample.camera.matrix[0]
    np.testing.assert_allclose(matrix.diagonal()[:2], focal, rtol=1e-6)
    np.testing.assert_allclose(matrix[:2, 2], [44.5, 59.5])
    assert any("26 mm (35 mm equivalent)" in note for note in sample.notes)
    assert any("upright" in note for note in sample.notes) == (orientation != 1)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_focal_length_with_the_sensors_pixels(tmp_path: Path, orientation: int) -> None:
    """6 mm before 20000 pixels an inch: 6 / 25.4 x 20000 pixels of a picture 4000 wide."""
    tags = {"FOCAL": IFDRational(6, 1), "ACROSS": IFDRational(20000, 1), "UNIT": 2, "WIDTH": 4000, "HEIGHT": 3000}
    sample = read(photograph(tmp_path, orientation, **tags))
    focal = 6 / 25.4 * 20000 * 120 / 4000
    np.testing.assert_allclose(sample.camera.matrix[0].diagonal()[:2], focal, rtol=1e-5)
    assert any("6 mm on a sensor of 5.1 mm" in note for note in sample.notes)


@pytest.mark.parametrize("tags", [{}, {"FOCAL": IFDRational(6, 1)}, {"FOCAL_35": 0}])
def test_without_a_lens_the_default_is_stated(tmp_path: Path, tags: dict) -> None:
    sample = read(photograph(tmp_path, 6, **tags))
    focal = math.hypot(90, 120) / 2 / math.tan(math.radians(30))
    np.testing.assert_allclose(sample.camera.matrix[0].diagonal()[:2], focal, rtol=1e-5)
    assert any("60 degree" in note and "distance scales" in note for note in sample.notes)


def test_a_cropped_photograph_is_doubted(tmp_path: Path) -> None:
    sample = read(photograph(tmp_path, 1, FOCAL_35=26, WIDTH=4000, HEIGHT=2000))
    assert any("cropped" in note for note in sample.notes)
