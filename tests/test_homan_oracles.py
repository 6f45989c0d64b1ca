"""homan: translations from boxes (its own and PHOSA's), and its two small losses."""

import pytest
import torch
from oracles import load, tensor

from horefine.align.boxes import translation_from_box
from horefine.geometry import project
from horefine.losses.sequence import pca_prior, smoothness


def test_translation_from_a_box_as_homan() -> None:
    """TCO_init_from_boxes_zup_autodepth."""
    o = load("homan_init")
    matrix, box = tensor(o.K).expand(3, 3, 3), tensor(o.bbox_xywh).expand(3, 4)
    torch.testing.assert_close(translation_from_box(tensor(o.verts), box, matrix), tensor(o.trans), atol=1e-5, rtol=0)


def test_translation_from_a_box_as_phosa() -> None:
    """compute_optimal_translation: a square picture 640 wide with the principal point in its middle."""
    o = load("homan_init")
    matrix = tensor(o.K).clone().expand(3, 3, 3).clone()
    matrix[:, :2, 2] = 320
    box = tensor(o.bbox_xywh).expand(3, 4)
    found = translation_from_box(tensor(o.verts), box, matrix, steps=50, start=2.5, centred=False)
    torch.testing.assert_close(found, tensor(o.trans_phosa)[:, 0], atol=1e-5, rtol=0)


def test_the_points_fill_the_box() -> None:
    o = load("homan_init")
    matrix, box = (
        tensor(o.K).expand(3, 3, 3),
        torch.tensor([220.0, 150.0, 120.0, 90.0], dtype=torch.float64).expand(3, 4),
    )
    found = translation_from_box(tensor(o.verts), box, matrix, steps=60)
    pixels = project(tensor(o.verts) + found[:, None], matrix)
    low, high = pixels.amin(1), pixels.amax(1)
    torch.testing.assert_close((low + high) / 2, box[:, :2] + box[:, 2:] / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close((high - low).norm(dim=-1), box[:, 2:].norm(dim=-1), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="no width"):
        translation_from_box(tensor(o.verts), box * torch.tensor([1.0, 1.0, 0.0, 1.0]), matrix)


def test_losses_over_a_clip_as_homan() -> None:
    o = load("homan_small")
    assert float(smoothness(tensor(o.verts_hand))) == pytest.approx(float(o.smooth_hand), rel=1e-5)
    assert float(smoothness(tensor(o.verts_obj))) == pytest.approx(float(o.smooth_obj), rel=1e-5)
    assert float(pca_prior(tensor(o.pca))) == pytest.approx(float(o.pca_loss), rel=1e-5)
    with pytest.raises(ValueError, match="two frames"):
        smoothness(tensor(o.verts_obj)[:1])
