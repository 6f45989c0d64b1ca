"""Reading MANO files: imitation pickles as chumpy wrote them, hostile ones, damaged ones; finding them."""

from __future__ import annotations

import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from horefine.hand import HandModel, load_hand
from horefine.mano import close_boundary, find_mano, load_restricted, read_mano

SYNTH = Path(__file__).parent / "data" / "synth_hand.npz"


class FakeChumpy:
    """Modules named as chumpy's while a pickle is written; gone before it is read."""

    def __enter__(self) -> FakeChumpy:
        self.modules = {name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}
        self.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
        self.Select = type("Select", (self.Ch,), {"__module__": "chumpy.reordering"})
        self.modules["chumpy.ch"].Ch = self.Ch  # type: ignore[attr-defined]
        self.modules["chumpy.reordering"].Select = self.Select  # type: ignore[attr-defined]
        sys.modules.update(self.modules)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.modules:
            del sys.modules[name]

    def ch(self, array: np.ndarray) -> object:
        made = self.Ch()
        made.__dict__.update(x=array, _dirty_vars={"x"}, _itr=None, _parents=None)  # as chumpy's own state
        return made

    def select(self, array: np.ndarray) -> object:
        made = self.Select()
        extended = np.concatenate([array.ravel(), np.full(7, 99.0)])
        made.__dict__.update(a=self.ch(extended), idxs=np.arange(array.size), preferred_shape=array.shape)
        return made


def tables() -> dict[str, np.ndarray]:
    raw = np.load(SYNTH)
    rng = np.random.default_rng(0)
    return {
        "v_template": raw["v_template"].astype(float),
        "f": raw["faces"].astype(np.uint32),
        "weights": raw["weights"].astype(float),
        "J_regressor": raw["J_regressor"].astype(float),
        "shapedirs": raw["shapedirs"].astype(float),
        "posedirs": raw["posedirs"].astype(float),
        "hands_mean": rng.normal(0, 0.2, 45),
        "hands_components": np.eye(45),
        "kintree_table": np.stack([raw["parents"].astype(np.int64), np.arange(16)]).astype(np.uint32),
    }


def write_pickle(path: Path, protocol: int = 2, **changes: object) -> Path:
    with FakeChumpy() as chumpy:
        data: dict[str, object] = {**tables(), "bs_style": "lbs", "bs_type": "lrotmin"}
        data["shapedirs"] = chumpy.select(tables()["shapedirs"])
        data["v_template"] = chumpy.ch(tables()["v_template"])
        data["J_regressor"] = scipy.sparse.csc_matrix(tables()["J_regressor"])
        path.write_bytes(pickle.dumps({**data, **changes}, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_reads_chumpy_without_chumpy(tmp_path: Path, protocol: int) -> None:
    data = read_mano(write_pickle(tmp_path / "MANO_RIGHT.pkl", protocol))
    assert "chumpy" not in sys.modules
    expected = tables()
    for name, value in (("template", "v_template"), ("shapedirs", "shapedirs"), ("regressor", "J_regressor")):
        assert np.array_equal(getattr(data, name), expected[value]), name
    assert np.array_equal(data.mean_rotvec[1:].ravel(), expected["hands_mean"])
    assert not data.mean_rotvec[0].any()
    model = HandModel.from_data(data, "mano")
    assert model.faces.shape == (1552, 3) and model.name == "mano"


def test_old_module_paths_are_read(tmp_path: Path) -> None:
    """Names as Python 2, numpy 1 and scipy 0.x wrote them."""
    path = write_pickle(tmp_path / "MANO_RIGHT.pkl", 0)
    content = path.read_bytes()
    for new, old in (
        (b"numpy._core.multiarray", b"numpy.core.multiarray"),
        (b"scipy.sparse._csc", b"scipy.sparse.csc"),
        (b"ccopyreg\n", b"ccopy_reg\n"),
        (b"cbuiltins\nobject", b"c__builtin__\nobject"),
    ):
        content = content.replace(new, old)
    assert b"numpy.core.multiarray" in content and b"scipy.sparse.csc\n" in content
    path.write_bytes(content)
    assert np.array_equal(read_mano(path).regressor, tables()["J_regressor"])


def test_reads_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "MANO_RIGHT.npz", **tables())
    assert np.array_equal(read_mano(tmp_path / "MANO_RIGHT.npz").posedirs, tables()["posedirs"])


class Runs:
    """A pickle that runs a command when read by ``pickle.load``."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (os.system, ("touch {marker}",), "posix.system"),
        (eval, ("open({marker!r}, 'w')",), "builtins.eval"),
        (getattr, (np, "load"), "builtins.getattr"),
        (np.load, ("{marker}",), "numpy.load"),
        (np.ndarray, ((1,), "O"), "with arguments"),
        (np.dtype, ([("a", "O")],), "numpy.dtype"),
        (types.SimpleNamespace, (), "types.SimpleNamespace"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_hostile_pickles_are_refused(
    tmp_path: Path, function: object, args: tuple[object, ...], name: str, protocol: int
) -> None:
    marker = tmp_path / "ran"
    filled = tuple(arg.format(marker=str(marker)) if isinstance(arg, str) else arg for arg in args)
    if args and args[0] is np:
        filled = ("numpy", "load")
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(pickle.dumps({**tables(), "extra": Runs(function, *filled)}, protocol=protocol))
    with pytest.raises(ValueError, match="refused") as caught:
        read_mano(path)
    assert name in str(caught.value) and str(path) in str(caught.value)
    assert not marker.exists()


def test_a_hostile_name_inside_numpy_is_refused() -> None:
    """numpy's rebuilding function must not be lent to another class, nor a scalar to an object."""
    for code in (
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O'\ntRS'abcdefgh'\ntR.",
        b"ccopyreg\n_reconstructor\n(cnumpy\ndtype\ncbuiltins\nobject\nNtR.",
    ):
        with pytest.raises(ValueError, match="refused"):
            load_restricted(code)


def test_nothing_leaks_from_one_file_to_the_next(tmp_path: Path) -> None:
    """A file may set attributes of the stand-in classes it gets; the next file gets new ones."""
    poison = b"cchumpy.ch\nCh\n(N(dS'__setstate__'\ncnumpy\ndtype\nstb0I1\n."
    assert load_restricted(poison) == 1
    assert np.array_equal(read_mano(write_pickle(tmp_path / "MANO_RIGHT.pkl")).template, tables()["v_template"])


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
def test_truncated_files_say_so(tmp_path: Path, keep: int) -> None:
    path = write_pickle(tmp_path / "MANO_RIGHT.pkl")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a readable pickle"):
        read_mano(path)


def test_wrong_contents_are_named(tmp_path: Path) -> None:
    path = tmp_path / "MANO_RIGHT.pkl"
    with pytest.raises(ValueError, match=r"'weights' has shape .*expected 778 x 16"):
        read_mano(write_pickle(path, weights=np.zeros((778, 24))))
    with pytest.raises(ValueError, match="'posedirs' is not an array of numbers"):
        read_mano(write_pickle(path, posedirs="none"))
    broken = np.zeros((778, 16))
    broken[3, 3] = np.nan
    with pytest.raises(ValueError, match="'weights' holds values that are not finite"):
        read_mano(write_pickle(path, weights=broken))
    path.write_bytes(pickle.dumps({"f": np.zeros((1538, 3))}))
    with pytest.raises(ValueError, match="has no 'v_template'; it holds f"):
        read_mano(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="holds a list"):
        read_mano(path)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No MANO in any place that is searched."""
    for name in ("HOREFINE_MANO_DIR", "MANO_ROOT", "SMPLX_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def test_missing_file_says_where_to_get_it(nowhere: Path) -> None:
    assert load_hand().name == "embedded"
    with pytest.raises(FileNotFoundError) as caught:
        load_hand(kind="mano")
    for part in (
        "https://mano.is.tue.mpg.de",
        "MANO_RIGHT.pkl",
        str(nowhere / "data" / "horefine" / "mano"),
        "--mano-dir",
    ):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        load_hand(nowhere / "nothing_here")


@pytest.mark.parametrize("variable", ["HOREFINE_MANO_DIR", "MANO_ROOT", "SMPLX_MODELS", "XDG_DATA_HOME"])
def test_found_in_each_place(nowhere: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    folder = nowhere / "elsewhere" / "horefine" / "mano"
    folder.mkdir(parents=True)
    path = write_pickle(folder / "MANO_RIGHT.pkl")
    monkeypatch.setenv(variable, str(nowhere / "elsewhere" if variable == "XDG_DATA_HOME" else folder.parent))
    assert find_mano() == path
    assert load_hand().name == "mano"
    assert load_hand(kind="embedded").name == "embedded"
    assert find_mano(path) == path


def test_an_open_wrist_is_closed() -> None:
    """Faces of an icosahedron without those about one vertex: a fan of three closes the five-sided hole."""
    import trimesh

    ball = trimesh.creation.icosahedron()
    faces = np.asarray(ball.faces)
    opened = faces[~(faces == 0).any(1)]
    closed = close_boundary(opened)
    mesh = trimesh.Trimesh(ball.vertices, closed, process=False)
    assert len(closed) == len(opened) + 3
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    assert close_boundary(faces) is faces
