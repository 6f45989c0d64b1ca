"""``--checkpoint`` with files that are none of HOISDF's, or spoiled: one clear line, exit code 3, nothing executed."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from horefine.cli import app
from horefine.errors import AssetError
from horefine.extractors.checkpoints import load_official, published_names, read_checkpoint
from horefine.extractors.hoisdf_official import ARCHITECTURES
from horefine.extractors.weights import default_path, read_weights

EMBEDDED = Path(__file__).resolve().parents[1] / "horefine" / "assets" / "embedded_hand.npz"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    Image.new("RGB", (80, 60), (120, 100, 90)).save(folder / "a.png")
    return folder


@pytest.fixture(scope="module")
def mano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded hand in a file of MANO's name and layout."""
    folder = tmp_path_factory.mktemp("mano")
    shutil.copy(EMBEDDED, folder / "MANO_RIGHT.npz")
    return folder


def refused(images: Path, checkpoint: Path, *words: object) -> str:
    """What ``horefine run --checkpoint`` says; it must end with code 3 before any work."""
    out = checkpoint.parent / "out"
    command = ["run", images, "--object", "can", "--init", "hoisdf", "--checkpoint", checkpoint, "--out", out, *words]
    result = CliRunner().invoke(app, [str(word) for word in command])
    assert result.exit_code == 3, result.output
    assert "Traceback" not in result.output and not out.exists()
    said = " ".join(result.stderr.split())
    assert said.count("ERROR") == 1 and str(checkpoint) in said
    return said


def published(**changed: Any) -> dict[str, Any]:
    """A file of the smallest published network; tensors of one number each, repeated, keep it small."""
    network = {
        f"module.{name}": torch.full((1,), 0.25).expand(shape) if shape else torch.tensor(3)
        for name, shape in published_names(ARCHITECTURES["ho3d_render"]).items()
    }
    network |= {f"module.{name}": value for name, value in changed.items()}
    return {"epoch": 3, "network": network, "optimizer": {"state": {}}}


def saved(table: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(table() if callable(table) else table, path)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def code_in_a_plain_pickle(path: Path, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps({"network": Harmful(path.parent / "trap")}, protocol))


def code_beside_the_tensors(path: Path) -> None:
    torch.save({**published(), "optimizer": Harmful(path.parent / "trap")}, path)


def numbers_of_numpy(path: Path) -> None:
    torch.save({**published(), "loss": np.float64(3.5)}, path)


def cut_short(path: Path) -> None:
    torch.save(published(), path)
    path.write_bytes(path.read_bytes()[:-200])


def text(path: Path) -> None:
    path.write_text("<html>404 not found</html>")


def a_program(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


C2F = {
    "epoch": 799,
    "network": {"module.pcl_feat_emb.0.weight": torch.zeros(3), "module.hand_sdf_head.linh0.weight_g": torch.zeros(3)},
}
GSDF = {
    "epoch": 1599,
    "network": {"module.pose_model.neck.layers.0.weight": torch.zeros(3),
                "module.hand_sdf_head.linh0.bias": torch.zeros(3), "module.backbone_2_sdf.0.weight": torch.zeros(3)},
}  # fmt: skip
HAMER = {
    "state_dict": {"backbone.pos_embed": torch.zeros(3)}, "pytorch-lightning_version": "2.1", "hyper_parameters": {},
}  # fmt: skip
BEFORE_MANO: dict[str, tuple[Callable[[Path], Any], str]] = {
    "C2F-SDF": (saved(C2F), "is not a HOISDF, looks like C2F-SDF: it has no decoder_net"),
    "gSDF": (saved(GSDF), "is not a HOISDF, looks like gSDF or AlignSDF: it has no decoder_net"),
    "HaMeR": (saved(HAMER), "is another system's: it has no entry 'network' (it has state_dict, pytorch-lightning"),
    "empty": (lambda path: path.write_bytes(b""), "damaged or cut short (0 bytes"),
    "text": (text, "damaged"),
    "cut short": (cut_short, "damaged or cut short"),
    "a program": (a_program, "TorchScript program"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "missing": (lambda path: None, "no such file"),
    "code": (code_in_a_plain_pickle, "refused: it asks for posix.mkdir" if os.name == "posix" else "refused"),
    "code in a later pickle": (
        lambda path: code_in_a_plain_pickle(path, 5),
        "refused: a pickle that torch.save did not",
    ),
    "code beside tensors": (code_beside_the_tensors, "refused: it asks for"),
    "numpy": (numbers_of_numpy, "refused: it asks for numpy"),
    "no MANO": (saved(published), "its poses are MANO's, and the hand here is the embedded one; give the folder"),
}


@pytest.mark.parametrize("case", BEFORE_MANO)
def test_a_file_that_is_not_hoisdfs_is_named_before_mano_is_asked_for(case: str, images: Path, tmp_path: Path) -> None:
    make, message = BEFORE_MANO[case]
    make(tmp_path / "snapshot_1.pth.tar")
    said = refused(images, tmp_path / "snapshot_1.pth.tar")
    assert message in said, said
    assert not (tmp_path / "trap").exists()
    assert "github.com/amathislab/HOISDF" in said or "download it again" in said or "--mano-dir" in said


WITH_MANO: dict[str, tuple[Callable[[], Any], str]] = {
    "other sizes": (
        lambda: published(**{"linear_shape.layers.0.bias": torch.zeros(99)}),
        "linear_shape.layers.0.bias has shape (99,); expected (256,)",
    ),
    "not a number": (
        lambda: published(**{"linear_shape.layers.0.bias": torch.full((256,), torch.nan)}),
        "linear_shape.layers.0.bias holds numbers that are not finite",
    ),
    "infinite in half precision": (
        lambda: published(**{"linear_shape.layers.0.bias": torch.full((256,), 1e6).half()}),
        "linear_shape.layers.0.bias holds numbers that are not finite",
    ),
    "a tensor too many": (lambda: published(refiner=torch.zeros(2)), "refiner belongs to no HOISDF"),
}


@pytest.mark.parametrize("case", WITH_MANO)
def test_a_file_that_does_not_fit_is_refused(case: str, images: Path, mano: Path, tmp_path: Path) -> None:
    make, message = WITH_MANO[case]
    torch.save(make(), tmp_path / "snapshot_1.pth.tar")
    assert message in refused(images, tmp_path / "snapshot_1.pth.tar", "--mano-dir", mano)


def test_half_precision_is_read(tmp_path: Path) -> None:
    table = published()
    table["network"] = {k: v.half() if v.is_floating_point() else v for k, v in table["network"].items()}
    torch.save(table, tmp_path / "half.pth.tar")
    network = load_official(tmp_path / "half.pth.tar")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_bytes_changed_anywhere_never_end_in_another_error(tmp_path: Path) -> None:
    """Both of torch's formats, both pickled parts: 120 spoiled files, each read or refused."""
    small = {"epoch": 3, "network": {"module.a.weight": torch.arange(6.0)}, "optimizer": {"lr": 1e-4, "names": ["a"]}}
    rng = np.random.default_rng(0)
    path = tmp_path / "spoiled.pth.tar"
    for zipped in (True, False):
        torch.save(small, path, _use_new_zipfile_serialization=zipped)
        good = path.read_bytes()
        for _ in range(60):
            spoiled = bytearray(good)
            for place in rng.integers(0, min(len(good), 700), 3):
                spoiled[place] = rng.integers(256)
            path.write_bytes(spoiled)
            with pytest.raises(AssetError, match=r"spoiled\.pth\.tar"):  # never a HOISDF, even where nothing broke
                read_checkpoint(path)


# --- horefine's own --------------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[dict, dict], None]) -> None:
    """The shipped HOISDF with other tensors or another header."""
    from safetensors import safe_open

    source = default_path("hoisdf")
    with safe_open(source, "pt") as file:
        header = dict(file.metadata() or {})
    tensors = load_file(source)
    change(tensors, header)
    save_file(tensors, path, header or None)


def spoil(name: str, value: float) -> Callable[[dict, dict], None]:
    return lambda tensors, _: tensors.__setitem__(name, torch.full_like(tensors[name], value))


OWN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "the detector": (lambda path: shutil.copy(default_path("detector"), path), "made for 'detector', not 'hoisdf'"),
    "another system": (lambda path: save_file({"a": torch.zeros(2)}, path), "made for 'something else'"),
    "a pickle": (code_in_a_plain_pickle, "damaged or not a safetensors file"),
    "cut short": (lambda path: path.write_bytes(default_path("hoisdf").read_bytes()[:5000]), "damaged or not"),
    "empty": (lambda path: path.write_bytes(b""), "damaged or not a safetensors file"),
    "a folder": (lambda path: path.mkdir(), "no such file"),
    "missing": (lambda path: None, "no such file"),
    "not a number": (lambda path: rewritten(path, spoil("linear_shape.layers.0.bias", torch.nan)), "not finite"),
    "no header": (lambda path: rewritten(path, lambda _, h: h.pop("network")), "does not say what network it is"),
    "no table": (lambda path: rewritten(path, lambda _, h: h.update(network="[1]")), "does not say what network"),
    "no JSON": (lambda path: rewritten(path, lambda _, h: h.update(network="{")), "does not say what network it is"),
    "a later version": (lambda path: rewritten(path, lambda _, h: h.update(version="99")), "version '99'"),
    "an unknown size": (lambda path: rewritten(path, lambda _, h: h.update(network='{"heigth": 3}')), "do not fit"),
    "other sizes": (lambda path: rewritten(path, lambda _, h: h.update(network='{"width": 8}')), "do not fit"),
    "a tensor missing": (lambda path: rewritten(path, lambda t, _: t.pop("linear_shape.layers.0.bias")), "do not fit"),
}


@pytest.mark.parametrize("case", OWN)
def test_weights_of_horefines_own_kind_that_cannot_be_used(case: str, images: Path, tmp_path: Path) -> None:
    make, message = OWN[case]
    make(tmp_path / "mine.safetensors")
    assert message in refused(images, tmp_path / "mine.safetensors")
    assert not (tmp_path / "trap").exists()


def test_the_shipped_weights_are_not_among_them() -> None:
    assert read_weights(default_path("hoisdf"), "hoisdf").network
