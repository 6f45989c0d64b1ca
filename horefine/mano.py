"""Reads a user's MANO file without running any of it, and finds it.

MANO's pickle holds chumpy objects; chumpy no longer imports, and ``pickle.load`` runs whatever a file asks for. The
unpickler here knows a closed list of names: numpy's array rebuilding, scipy's sparse matrices, and chumpy's ``Ch`` and
``Select``, which are read into inert stand-ins and turned into arrays. Everything else is refused by name.
"""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import scipy.sparse

from horefine.anatomy import PARENTS

__all__ = ["HandData", "find_mano", "load_restricted", "read_mano"]

REGISTER_AT = "https://mano.is.tue.mpg.de"
FILE_NAMES = ("MANO_RIGHT.pkl", "MANO_RIGHT.npz")
VARIABLES = ("HOREFINE_MANO_DIR", "MANO_ROOT", "SMPLX_MODELS")


@dataclass(frozen=True)
class HandData:
    """The arrays of a hand with MANO's layout, float64, metres."""

    template: np.ndarray
    """778 x 3, the flat hand."""
    faces: np.ndarray
    """1538 x 3 (MANO, open at the wrist) or 1552 x 3 (closed)."""
    weights: np.ndarray
    """778 x 16."""
    regressor: np.ndarray
    """16 x 778."""
    shapedirs: np.ndarray
    """778 x 3 x 10."""
    posedirs: np.ndarray
    """778 x 3 x 135."""
    mean_rotvec: np.ndarray
    """16 x 3, the wrist's row is zero."""
    limits: np.ndarray | None = None
    """15 x 3 x 2, radians; of the embedded hand."""
    colors: np.ndarray | None = None
    """778 x 3 relative albedo; of the embedded hand."""
    components: np.ndarray | None = None
    """45 x 45, the PCA basis of finger poses, rows; of MANO (datasets store poses in it)."""


def find_mano(folder: Path | str | None = None, *, required: bool = False) -> Path | None:
    """The user's ``MANO_RIGHT.pkl`` or ``.npz``.

    Looked for in ``folder`` alone when it is given (it may be the file itself); else in the folders named by
    ``HOREFINE_MANO_DIR``, ``MANO_ROOT`` and ``SMPLX_MODELS`` and in the platform's data folder; each time also in the
    folders ``mano`` and ``models`` inside.

    Returns:
        The file, or None if there is none and it is not required.

    Raises:
        FileNotFoundError: if required and not found; names every folder searched and where to register for the file.
    """
    places = _places(folder)
    for place in places:
        if place.is_file():
            return place
        for name in FILE_NAMES:
            if (place / name).is_file():
                return place / name
    if not required:
        return None
    searched = "\n".join(f"  {place}" for place in places)
    raise FileNotFoundError(
        f"no {' or '.join(FILE_NAMES)} in any of\n{searched}\n"
        f"MANO cannot be shipped: register at {REGISTER_AT}, download 'Models & Code', and pass its folder as "
        f"--mano-dir or set {VARIABLES[0]}; or use the embedded hand (kind='embedded')"
    )


def _places(folder: Path | str | None) -> list[Path]:
    if folder is not None:
        roots = [Path(folder).expanduser()]
    else:
        roots = [Path(os.environ[name]).expanduser() for name in VARIABLES if os.environ.get(name)]
        roots.append(Path(platformdirs.user_data_dir("horefine", appauthor=False)) / "mano")
    return [place for root in roots for place in (root, root / "mano", root / "models")]


def read_mano(path: Path | str) -> HandData:
    """Reads a MANO-layout file: the official pickle, or an npz with the same keys.

    A mesh open at the wrist, as MANO's is, is closed there by a fan: volumes and distances need a closed hand.

    Raises:
        ValueError: if the file is damaged, asks for anything but arrays, lacks a key or has a wrong shape; names which.
    """
    path = Path(path)
    try:
        raw = _read_npz(path) if path.suffix == ".npz" else load_restricted(path.read_bytes())
    except (ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(raw, Mapping):
        raise ValueError(f"{path}: holds a {type(raw).__name__}, not MANO's table of arrays")
    reader = _Reader(path, raw)
    vertices = reader.array("v_template", (778, 3))
    kinematic = reader.array("kintree_table", (2, 16))[0]
    if [int(parent) for parent in kinematic[1:]] != list(PARENTS[1:]):
        raise ValueError(f"{path}: kintree_table {kinematic.tolist()} is not MANO's skeleton")
    mean = np.concatenate([np.zeros(3), reader.array("hands_mean", (45,))]).reshape(16, 3)
    return HandData(
        template=vertices,
        faces=close_boundary(reader.array("f", (None, 3)).astype(np.int64)),
        weights=reader.array("weights", (778, 16)),
        regressor=reader.array("J_regressor", (16, 778)),
        shapedirs=reader.array("shapedirs", (778, 3, None))[:, :, :10],
        posedirs=reader.array("posedirs", (778, 3, 135)),
        mean_rotvec=mean,
        limits=reader.array("limits", (15, 3, 2)) if "limits" in raw else None,
        colors=reader.array("colors", (778, 3)) if "colors" in raw else None,
        components=reader.array("hands_components", (45, 45)) if "hands_components" in raw else None,
    )


def close_boundary(faces: np.ndarray) -> np.ndarray:
    """Adds a fan over every boundary loop, oriented like its neighbours; a closed mesh comes back as it is."""
    edges = {(int(a), int(b)) for face in faces for a, b in zip(face, np.roll(face, -1), strict=True)}
    follow = {b: a for a, b in edges if (b, a) not in edges}
    added: list[tuple[int, int, int]] = []
    while follow:
        loop = [next(iter(follow))]
        while (after := follow.pop(loop[-1], None)) is not None and after != loop[0]:
            loop.append(after)
        added += [(loop[0], loop[i], loop[i + 1]) for i in range(1, len(loop) - 1)]
    return np.concatenate([faces, np.array(added, dtype=faces.dtype)]) if added else faces


@dataclass(frozen=True)
class _Reader:
    """Checked access to the entries of a file."""

    path: Path
    raw: Mapping[Any, Any]

    def array(self, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
        if key not in self.raw:
            raise ValueError(f"{self.path}: has no {key!r}; it holds {', '.join(sorted(map(str, self.raw)))}")
        try:
            value = np.asarray(self.raw[key], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: {key!r} is not an array of numbers") from error
        fits = value.ndim == len(shape) and all(e in (None, n) for n, e in zip(value.shape, shape, strict=True))
        if not fits:
            expected = " x ".join("any" if n is None else str(n) for n in shape)
            raise ValueError(f"{self.path}: {key!r} has shape {value.shape}; expected {expected}")
        if not np.isfinite(value[1:] if key == "kintree_table" else value).all():
            raise ValueError(f"{self.path}: {key!r} holds values that are not finite")
        return value


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        try:
            return {key: file[key] for key in file.files}
        except ValueError as error:
            raise ValueError(
                f"holds pickled objects, which are not read from an npz ({error}); use the .pkl"
            ) from error


# The unpickler. Its stand-ins are made anew for each file, so that no file can leave anything behind in them.


def load_restricted(content: bytes) -> Any:
    """Unpickles arrays, sparse matrices, chumpy arrays and plain containers of them; nothing else, and runs nothing.

    Raises:
        ValueError: naming the class or function that the pickle asks for and must not have, or what is damaged.
    """
    try:
        return _to_arrays(_Unpickler(io.BytesIO(content), encoding="latin1").load())
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"not a readable pickle ({type(error).__name__}: {error})") from error


class _Refused(pickle.UnpicklingError):
    """The file asks for something that is not on the list."""


class _StandIn:
    """Takes the place of an object: keeps its attributes, does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        if args or kwargs:
            raise _Refused("refused: calls a class with arguments")


class _Chumpy(_StandIn):
    """``chumpy.ch.Ch``: the array is its attribute ``x``."""


class _Select(_StandIn):
    """``chumpy.reordering.Select``: picks ``idxs`` of the flattened ``a``."""


class _Csc(_StandIn):
    """A ``scipy.sparse`` matrix stored by columns."""


class _Csr(_StandIn):
    """A ``scipy.sparse`` matrix stored by rows."""


class _Array(_StandIn):
    """Marks ``numpy.ndarray`` as an argument; never called."""


class _Object(_StandIn):
    """Marks ``object`` as an argument; never called."""


@dataclass(frozen=True)
class _Function:
    """A function on the list; frozen and slotted, so that a file cannot change it."""

    __slots__ = ("function",)
    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def _reconstruct(kind: object, shape: object, code: object) -> np.ndarray:
    """``numpy``'s array rebuilding: an empty array whose state follows."""
    if not (isinstance(kind, type) and issubclass(kind, _Array)):
        raise _Refused("refused: rebuilds something that is not an array")
    return np.ndarray((0,), "b")


def _dtype(code: object, *_: object) -> np.dtype:
    """``numpy.dtype`` of plain numbers, texts and objects."""
    if not isinstance(code, str) or code.lstrip("<>|=")[:1] not in tuple("biufSUO"):
        raise _Refused(f"refused: numpy.dtype({code!r})")
    return np.dtype(code, copy=True)  # type: ignore[call-overload]


def _scalar(kind: object, content: object) -> np.generic:
    """``numpy``'s scalar rebuilding, of numbers only."""
    if not (isinstance(kind, np.dtype) and kind.kind in "biuf"):
        raise _Refused("refused: a numpy scalar that is not a number")
    raw = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(raw, kind)[0]  # type: ignore[arg-type]


def _new_object(kind: object, base: object, state: object) -> object:
    """``copyreg._reconstructor`` for the stand-ins."""
    if not (isinstance(kind, type) and issubclass(kind, _StandIn)) or state is not None:
        raise _Refused("refused: copyreg._reconstructor of something that is not an array")
    return kind()


def _encode(text: object, codec: object) -> bytes:
    """``_codecs.encode``, which Python 3 writes for bytes."""
    if not isinstance(text, str) or codec != "latin1":
        raise _Refused("refused: _codecs.encode with another codec than latin1")
    return text.encode("latin1")


def _from_buffer(buffer: object, kind: object, shape: tuple[int, ...], order: str) -> np.ndarray:
    """How ``numpy`` rebuilds arrays in pickles of protocol 5."""
    if not (isinstance(buffer, bytes | bytearray) and isinstance(kind, np.dtype) and kind.kind in "biuf"):
        raise _Refused("refused: a numpy array that is not of numbers")
    return np.frombuffer(buffer, kind).reshape(shape, order="F" if order == "F" else "C")


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): _dtype,
    ("copyreg", "_reconstructor"): _new_object,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}

_CLASSES: dict[tuple[str, str], type[_StandIn]] = {
    ("numpy", "ndarray"): _Array,
    ("builtins", "object"): _Object,
    ("chumpy.ch", "Ch"): _Chumpy,
    ("chumpy", "Ch"): _Chumpy,
    ("chumpy.reordering", "Select"): _Select,
    **{(f"scipy.sparse.{module}", "csc_matrix"): _Csc for module in ("csc", "_csc")},
    **{(f"scipy.sparse.{module}", "csr_matrix"): _Csr for module in ("csr", "_csr")},
}

_PYTHON2 = {"copy_reg": "copyreg", "__builtin__": "builtins"}


class _Unpickler(pickle.Unpickler):
    """Knows the names above and no others."""

    def __init__(self, file: io.BytesIO, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        fresh = {kind: type(kind.__name__, (kind,), {}) for kind in _CLASSES.values()}
        self._known: dict[tuple[str, str], Any] = {key: _Function(value) for key, value in _FUNCTIONS.items()}
        self._known |= {key: fresh[kind] for key, kind in _CLASSES.items()}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        key = (_PYTHON2.get(module_name, module_name), global_name)
        if key not in self._known:
            raise _Refused(
                f"refused: the file asks for {key[0]}.{global_name}; a MANO file holds arrays, scipy.sparse "
                "matrices and chumpy arrays only. Do not open this file with other programs unless you trust its source"
            )
        return self._known[key]


def _to_arrays(value: Any) -> Any:
    """Stand-ins, wherever they are nested, as numpy arrays."""
    if isinstance(value, Mapping):
        return {key: _to_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_arrays(item) for item in value)
    if not isinstance(value, _StandIn):
        return value
    state = vars(value)
    if isinstance(value, _Chumpy):
        return np.asarray(_to_arrays(state["x"]))
    if isinstance(value, _Select):
        picked = np.asarray(_to_arrays(state["a"])).ravel()[np.asarray(_to_arrays(state["idxs"]))]
        shape = _to_arrays(state.get("preferred_shape"))
        return picked if shape is None else picked.reshape([int(n) for n in np.ravel(shape)])
    if isinstance(value, _Csc | _Csr):
        build = scipy.sparse.csc_matrix if isinstance(value, _Csc) else scipy.sparse.csr_matrix
        shape = tuple(int(n) for n in state["_shape" if "_shape" in state else "shape"])
        if np.prod(shape, dtype=float) > 1e8:
            raise _Refused(f"refused: a sparse matrix of shape {shape}")
        matrix = build((state["data"], state["indices"], state["indptr"]), shape=shape)
        matrix.check_format(full_check=True)
        return matrix.toarray()
    raise _Refused(f"refused: a bare {type(value).__name__}")
