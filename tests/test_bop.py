"""BOP: units, cameras, boxes and symmetries on a generated tree; object models kept on disk."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_trees_more import BOP_MATRIX, Shot, bop_tree

from horefine.data import Dataset, Sequenced, load_dataset
from horefine.data.bop import BOP, NO_HAND
from horefine.data.models import ObjectModels, remember
from horefine.errors import AssetError, ConfigError, InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Shot]]:
    root = tmp_path_factory.mktemp("bop")
    return root, bop_tree(root)


def test_samples_hold_what_the_pictures_show(tree: tuple[Path, dict[str, Shot]]) -> None:
    root, shots = tree
    data = BOP(root, give="boxes")
    assert list(data.names) == list(shots)
    for index, (name, shot) in enumerate(shots.items()):
        sample = data[index]
        assert sample.truth is None and sample.joints is None and NO_HAND in sample.notes
        assert sample.mesh is not None and sample.object_truth is not None and sample.depth is not None
        np.testing.assert_allclose(sample.object_truth, shot.matrix, atol=1e-6)
        np.testing.assert_allclose(sample.camera.matrix[0], BOP_MATRIX)
        np.testing.assert_allclose(sample.depth, shot.depth, atol=5.1e-5)
        rows, columns = np.nonzero(shot.labels == 2)
        edges = columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5
        np.testing.assert_allclose(sample.object_box, edges, atol=1e-4)  # type: ignore[arg-type]
        np.testing.assert_array_equal(data.mask(index), shot.labels == 2)
        scene, image, number = map(int, name.split("_"))
        assert sample.ids == {"scene_id": scene, "im_id": image, "obj_id": number}


def test_lengths_are_millimetres_and_symmetries_come_along(tree: tuple[Path, dict[str, Shot]]) -> None:
    data = BOP(tree[0])
    assert float(data.models["2"].scale) == pytest.approx(0.12, abs=1e-6)
    assert data.models["2"].symmetries is None
    motions = data.models["5"].symmetries
    assert motions is not None and motions.shape[1] == 315
    axis = motions[0, :, :3, 2]
    torch.testing.assert_close(axis, torch.tensor([0.0, 0.0, 1.0]).expand(315, 3), atol=1e-5, rtol=0)


def test_nothing_is_given_unless_asked_for(tree: tuple[Path, dict[str, Shot]]) -> None:
    assert BOP(tree[0])[0].object_box is None


def test_choices(tree: tuple[Path, dict[str, Shot]]) -> None:
    root = tree[0]
    assert set(BOP(root, objects=[5]).names) == {"000007_000003_5", "000007_000012_5"}
    assert BOP(root, targets=True).names == ("000001_000003_2",)
    both = BOP(root, visible=0)  # also those of which nearly nothing is seen
    assert both.names[:2] == ("000001_000003_2", "000001_000003_2-2") and len(both) == 8
    assert BOP(root).describe()["less_visible"] == 4
    with pytest.raises(ConfigError, match="no annotated object"):
        BOP(root, objects=[9])
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        BOP(root, "tset")
    with pytest.raises(ConfigError, match=r"no .*models_cad/obj_%06d.ply.*models"):
        BOP(root, models="models_cad")


def test_it_is_a_dataset_that_tells_of_itself(tree: tuple[Path, dict[str, Shot]]) -> None:
    data = load_dataset("bop", root=tree[0])
    assert isinstance(data, Dataset) and isinstance(data, Sequenced)
    assert {name: len(rows) for name, rows in data.sequences().items()} == {"000001": 2, "000007": 2}
    facts = data.describe()
    assert facts["symmetric"] == [5] and facts["models_missing"] == [] and facts["pictures_missing"] == 0
    again = pickle.loads(pickle.dumps(data))
    torch.testing.assert_close(again[1].image, data[1].image)


def test_models_in_another_unit_are_refused(tmp_path: Path) -> None:
    bop_tree(tmp_path, unit=1.0)
    with pytest.raises(InputError, match=r"models_info.json says 0.13\d* m: the file is in m, not mm"):
        BOP(tmp_path)[0]


def test_bad_input_is_named(tmp_path: Path) -> None:
    bop_tree(tmp_path)
    scene = tmp_path / "test" / "000001"
    (scene / "rgb" / "000003.png").unlink()
    cameras = json.loads((scene / "scene_camera.json").read_text())
    (scene / "scene_camera.json").write_text(json.dumps({"3": cameras["3"]}))
    (tmp_path / "models" / "obj_000005.ply").unlink()
    data = BOP(tmp_path)
    assert data.describe()["pictures_missing"] == 1 and data.describe()["models_missing"] == [5]
    for index, (kind, said) in enumerate(
        ((InputError, "no picture 000003"), (InputError, "has no image 12"), (AssetError, "no model of it"))
    ):
        with pytest.raises(kind, match=said):
            data[index]
    (scene / "scene_gt.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        BOP(tmp_path)
    with pytest.raises(ConfigError, match=r"no SPLIT/SCENE/scene_gt.json"):
        BOP(tmp_path / "models")


# --- object models -----------------------------------------------------------------------------------------------


def test_a_model_is_read_once_and_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: tuple[Path, dict[str, Shot]]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = {"can": tree[0] / "models" / "obj_000005.ply"}
    first = ObjectModels(paths, "mm")
    mesh, lines = first["can"], first.lines("can")
    assert mesh is first["can"] and mesh.name == ("can",)
    assert any("as given" in line for line in lines)

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("horefine.data.models.Mesh.load", broken)
    second = ObjectModels(paths, "mm")
    torch.testing.assert_close(second["can"].vertices, mesh.vertices, atol=0, rtol=0)
    torch.testing.assert_close(second["can"].faces, mesh.faces, atol=0, rtol=0)
    assert second.lines("can") == lines and second["can"].symmetries is not None
    second.prepare()
    grids = list((tmp_path / "horefine" / "distance").iterdir())
    assert len(grids) == 1
    with pytest.raises(AssetError, match="did you mean 'can'"):
        second["cna"]


def test_symmetries_may_be_given_by_name(tree: tuple[Path, dict[str, Shot]]) -> None:
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0]).reshape(-1).tolist()
    models = ObjectModels(
        {"2": tree[0] / "models" / "obj_000002.ply"}, "mm", symmetries={"2": {"symmetries_discrete": [half_turn]}}
    )
    assert models["2"].symmetries is not None and models["2"].symmetries.shape == (1, 2, 4, 4)


def test_the_oldest_is_forgotten() -> None:
    kept: dict[str, int] = {}
    for number, name in enumerate("abcd"):
        remember(kept, name, number, 2)
    assert kept == {"c": 2, "d": 3}
