"""Simulation displacement: parity with the published protocol, closed forms, engines, workers and bad input."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
import time
from pathlib import Path

import numpy as np
import oracles
import pytest
from scipy.spatial import ConvexHull

from horefine.errors import AssetError, ConfigError, InputError
from horefine.repair import signed_volume
from horefine.simulation import PROTOCOLS, Grasp, SimulationSettings, simulate_all, simulation_displacement
from horefine.simulation import displacement as single
from horefine.simulation import engines as packages
from horefine.simulation import parts as decomposition
from horefine.simulation.check import closed_mesh, fit_mesh
from horefine.simulation.parts import convex_parts, is_convex
from horefine.simulation.wavefront import write_obj

pytest.importorskip("pybullet")
pytest.importorskip("mujoco")

Meshes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
RAISED = {"touch": 0.0, "gap2mm": 0.006, "apart": 0.08}
"""How far the recorded hand was moved along y (down), metres."""
ENGINES = ("pybullet", "mujoco")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def recorded(scene: int, side: str, state: str) -> Meshes:
    """Meshes of a recorded simulation; ``flipped``: turned half about x, so that the hand is above."""
    arrays, faces = oracles.load(f"contact_gt_{scene}"), oracles.load("synth_hand").faces
    offset = oracles.load("simulation").hand_offset
    turn = np.array([1, -1, -1] if side == "flipped" else [1, 1, 1])
    hand = (arrays.hand_verts.astype(float) + np.array([0, RAISED[state], 0]) + offset) * turn
    return hand, faces.astype(np.int64), (arrays.obj_verts + offset) * turn, arrays.obj_faces.astype(np.int64)


def box(sides: tuple[float, float, float], center: tuple[float, float, float] = (0, 0, 0)) -> tuple:
    """Vertices and faces of a box."""
    corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3))) * sides
    vertices, faces = decomposition._hull_mesh(corners)
    return vertices + np.array(center), faces


def torus() -> tuple[np.ndarray, np.ndarray]:
    arrays = oracles.load("simulation")
    return arrays.torus_verts, arrays.torus_faces


def angle_iron() -> tuple[np.ndarray, np.ndarray]:
    """An L of two arms, 80 x 60 mm, each 20 mm thick, 50 mm deep: the simplest thing that is not convex."""
    outline = np.array([[0, 0], [80, 0], [80, 20], [20, 20], [20, 60], [0, 60]]) / 1000
    vertices = np.array([[x, y, z] for z in (0, 0.05) for x, y in outline]) - 0.02
    cap = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]])
    sides = [face for a in range(6) for b in [(a + 1) % 6] for face in ([a, b, b + 6], [a, b + 6, a + 6])]
    return vertices, np.concatenate([cap[:, ::-1], cap + 6, sides])


PLATE = box((0.5, 0.02, 0.5), (0, 0.01, 0))  # its upper side is y = 0
BOX = (0.06, 0.04, 0.05)


@pytest.mark.parametrize("state", RAISED)
@pytest.mark.parametrize("side", ["as_is", "flipped"])
@pytest.mark.parametrize("scene", [0, 1])
def test_recorded_displacements(scene: int, side: str, state: str) -> None:
    """Recorded from the authors' code: tolerance 5 % or 2 mm is asked; the same engine gives the same number."""
    expected = float(getattr(oracles.load("simulation"), f"{scene}_{side}_{state}")) * 1e3
    found = simulation_displacement(*recorded(scene, side, state))
    assert found.convex and found.parts == 1
    assert found.millimetres == pytest.approx(expected, abs=1e-6)
    assert np.linalg.norm(found.shift) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_recorded_free_fall_of_decomposed_torus() -> None:
    hand, faces, _, _ = recorded(0, "as_is", "touch")
    found = simulation_displacement(hand + np.array([0, 0, 1]), faces, *torus())
    assert not found.convex and found.parts > 3
    assert found.millimetres == pytest.approx(float(oracles.load("simulation").torus_freefall_vhacd) * 1e3, abs=1e-6)
    assert found.millimetres == pytest.approx(found.settings.free_fall, abs=1e-6)
    assert found.contacts == 0


def test_decomposed_objects_as_the_protocol_writes_it(tmp_path: Path) -> None:
    """File to file through pybullet, as the authors' code goes, for an object that is not convex."""
    import pybullet

    hand, hand_faces, _, _ = recorded(0, "as_is", "touch")
    thing, faces = angle_iron()
    center = oracles.load("contact_gt_0").obj_verts.mean(0) + np.array([0, 0, 0.6])
    thing = thing - thing.mean(0) + center
    write_obj(tmp_path / "hand.obj", [(hand, hand_faces)], 6)
    write_obj(tmp_path / "whole.obj", [(thing - thing.mean(0), faces)], 6)
    whole, pieces = str(tmp_path / "whole.obj"), str(tmp_path / "parts.obj")
    options = {"resolution": 1000, "concavity": 0.001, "planeDownsampling": 4, "convexhullDownsampling": 4}
    options |= {"alpha": 0.05, "beta": 0.0, "maxNumVerticesPerCH": 64, "minVolumePerCH": 1e-4}
    pybullet.vhacd(whole, pieces, str(tmp_path / "log.txt"), **options)
    client = pybullet.connect(pybullet.DIRECT)
    pybullet.setPhysicsEngineParameter(numSolverIterations=150, fixedTimeStep=1 / 240, enableFileCaching=0)
    pybullet.setGravity(0, 9.8, 0)
    mesh, concave = pybullet.GEOM_MESH, pybullet.GEOM_FORCE_CONCAVE_TRIMESH
    surface = pybullet.createCollisionShape(mesh, fileName=str(tmp_path / "hand.obj"), flags=concave)
    fixed = pybullet.createMultiBody(baseMass=0, baseCollisionShapeIndex=surface)
    pybullet.changeDynamics(fixed, -1, lateralFriction=3, restitution=0)
    shape = pybullet.createCollisionShape(mesh, fileName=pieces)
    body = pybullet.createMultiBody(baseMass=1, baseCollisionShapeIndex=shape, basePosition=thing.mean(0).tolist())
    pybullet.changeDynamics(body, -1, lateralFriction=3, restitution=0.5)
    for _ in range(35):
        pybullet.stepSimulation()
    end, _ = pybullet.getBasePositionAndOrientation(body)
    pybullet.disconnect(client)
    expected = np.linalg.norm(np.asarray(end) - thing.mean(0)) * 1e3
    assert expected < 100, "it meets the hand"
    assert simulation_displacement(hand, hand_faces, thing, faces).millimetres == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("state", RAISED)
@pytest.mark.parametrize("scene", [0, 1])
def test_mujoco_agrees_on_what_is_held(scene: int, state: str) -> None:
    """An object resting on the palm: a few millimetres where it lies, nearly the same fall where it lies deeper."""
    meshes = recorded(scene, "as_is", state)
    bullet = simulation_displacement(*meshes)
    other = simulation_displacement(*meshes, SimulationSettings(engine="mujoco"))
    assert abs(other.millimetres - bullet.millimetres) < 20
    if state == "apart":
        assert other.millimetres == pytest.approx(bullet.millimetres, abs=8)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "change", [{}, {"steps": 12}, {"gravity": (3.0, 0.0, -4.0)}, {"timestep": 1 / 500}, {"linear_damping": 0.0}]
)
def test_free_fall_is_the_closed_form(engine: str, change: dict) -> None:
    settings = SimulationSettings(engine=engine, **change)
    thing, faces = box(BOX, (0.4, -0.4, 2.0))
    found = simulation_displacement(*PLATE, thing, faces, settings)
    assert found.millimetres == pytest.approx(settings.free_fall, abs=1e-5)
    direction = np.array(settings.gravity) / np.linalg.norm(settings.gravity)
    assert np.allclose(np.array(found.shift) / found.millimetres, direction, atol=1e-6)
    assert found.turn < 1e-3
    if not settings.linear_damping:  # semi-implicit Euler: g dt^2 (1 + ... + n)
        expected = 9.8 * settings.timestep**2 * settings.steps * (settings.steps + 1) / 2
        assert settings.free_fall == pytest.approx(expected * 1e3, rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("height", [0.001, 0.02])
def test_box_lands_a_margin_above_the_plate(engine: str, height: float) -> None:
    """Bullet keeps surfaces a millimetre apart, whatever is asked; for the other it is a setting."""
    margin = 0.001 if engine == "pybullet" else 0.003
    settings = SimulationSettings(engine=engine, steps=300, margin=margin)
    thing, faces = box(BOX, (0, -BOX[1] / 2 - height, 0))
    found = simulation_displacement(*PLATE, thing, faces, settings)
    assert found.shift[1] == pytest.approx((height - margin) * 1e3, abs=0.15)
    assert abs(found.shift[0]) < 0.5 and abs(found.shift[2]) < 0.5
    assert found.contacts >= 3 and found.turn < 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("friction", "slides"), [(0.0, True), (3.0, False)])
def test_friction_holds_and_its_absence_does_not(engine: str, friction: float, slides: bool) -> None:
    """On a plate leaning by 30 degrees: g sin(30) t^2 / 2 without friction, at rest with the protocol's."""
    angle = np.radians(30)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    thing, faces = box(BOX, (0, -BOX[1] / 2 - 0.001, 0))
    settings = SimulationSettings(engine=engine, hand_friction=friction)
    found = simulation_displacement(PLATE[0] @ turn.T, PLATE[1], thing @ turn.T, faces, settings)
    if slides:
        assert found.millimetres == pytest.approx(settings.free_fall * np.sin(angle), rel=0.03)
    else:
        assert found.millimetres < 1.5


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_again_and_by_pose(engine: str) -> None:
    hand, hand_faces, thing, faces = recorded(0, "flipped", "touch")
    settings = SimulationSettings(engine=engine)
    first = simulation_displacement(hand, hand_faces, thing, faces, settings)
    assert first == simulation_displacement(hand, hand_faces, thing, faces, settings)
    turn = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], float)  # exact in floats: contacts are chaotic
    center = thing.mean(0)
    pose = np.concatenate([2 * turn, center[:, None]], 1)
    posed = simulation_displacement(hand, hand_faces, (thing - center) @ turn / 2, faces, settings, object_pose=pose)
    assert posed.millimetres == pytest.approx(first.millimetres, abs=0.05)


def test_parts_of_every_pose_or_of_the_object(tmp_path: Path) -> None:
    """As published: in the camera's axes, whatever way the pose is given, and not kept. Or once, in the object's."""
    hand, hand_faces, _, _ = recorded(0, "flipped", "apart")
    thing, faces = angle_iron()
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    pose = np.concatenate([turn, np.array([[0.0], [-0.1], [0.5]])], 1)
    found = simulation_displacement(hand, hand_faces, thing, faces, object_pose=pose)
    assert not list(tmp_path.rglob("convex_parts/*.npz"))
    posed = simulation_displacement(hand, hand_faces, thing @ turn.T + pose[:, 3], faces)
    assert found.parts == posed.parts and len(list(tmp_path.rglob("convex_parts/*.npz"))) == 1
    assert found.millimetres == pytest.approx(posed.millimetres, abs=1e-3)
    own = SimulationSettings(frame="object")
    for k in range(3):
        simulation_displacement(hand, hand_faces, thing, faces, own, object_pose=pose + 0.01 * k * np.eye(3, 4, 3))
    assert len(list(tmp_path.rglob("convex_parts/*.npz"))) == 2


def test_repeats_show_the_spread() -> None:
    meshes = recorded(0, "as_is", "touch")
    once = simulation_displacement(*meshes)
    found = simulation_displacement(*meshes, SimulationSettings(repeats=5))
    assert len(found.runs) == 5 and found.runs[0] == once.millimetres and len(set(found.runs)) == 5
    assert found.millimetres == np.median(found.runs)
    assert found.record()["settings"]["repeats"] == 5 and once.record()["runs"] == (once.millimetres,)


def test_convex_is_recognised() -> None:
    assert is_convex(*box(BOX))
    arrays = oracles.load("contact_gt_1")
    assert is_convex(arrays.obj_verts, arrays.obj_faces.astype(np.int64))
    assert not is_convex(*torus()) and not is_convex(*angle_iron())


def _covered(parts: decomposition.Parts, points: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(points), bool)
    for vertices, _ in parts.meshes:
        planes = ConvexHull(vertices).equations
        inside |= (points @ planes[:, :3].T + planes[:, 3] <= 0).all(1)
    return inside


@pytest.mark.parametrize(("method", "extra"), [("vhacd", 0.35), ("fitted", 0.12), ("coacd", 0.12), ("hull", 0.65)])
def test_parts_are_convex_and_cover_the_object(method: str, extra: float) -> None:
    """``extra``: how much of the object's volume the parts may hold beyond it."""
    if method == "coacd":
        pytest.importorskip("coacd")
    vertices, faces = angle_iron()
    parts = convex_parts(vertices, faces, SimulationSettings(decomposition=method))
    assert len(parts.meshes) >= (1 if method == "hull" else 2) and not parts.convex
    assert all(is_convex(*part) for part in parts.meshes)
    points = np.random.default_rng(0).uniform(vertices.min(0) - 0.01, vertices.max(0) + 0.01, (20000, 3))
    x, y, z = (points + 0.02).T
    inside = (z > 0) & (z < 0.05) & (x > 0) & (y > 0) & (((x < 0.08) & (y < 0.02)) | ((x < 0.02) & (y < 0.06)))
    found = _covered(parts, points)
    assert (found & inside).sum() / inside.sum() > 0.97
    assert (found & ~inside).sum() / inside.sum() < extra


def test_parts_are_kept_and_made_again_when_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    make = decomposition._vhacd
    monkeypatch.setattr(decomposition, "_vhacd", lambda *given: calls.append(1) or make(*given))
    first = convex_parts(*angle_iron(), SimulationSettings())
    again = convex_parts(*angle_iron(), SimulationSettings())
    assert len(calls) == 1 and len(first.meshes) == len(again.meshes)
    for old, new in zip(first.meshes, again.meshes, strict=True):
        assert np.array_equal(old[0], new[0]) and np.array_equal(old[1], new[1])
    convex_parts(*angle_iron(), SimulationSettings(concavity=0.01))
    assert len(calls) == 2, "other settings are other parts"
    decomposition._kept.cache_clear()
    for path in tmp_path.rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    assert len(convex_parts(*angle_iron(), SimulationSettings()).meshes) == len(first.meshes)
    assert len(calls) == 3


def test_open_objects_are_closed_or_named() -> None:
    vertices, faces = torus()
    points, corners = closed_mesh(vertices, faces[1:])
    assert len(corners) == len(faces) and len(points) == len(vertices) and signed_volume(points, corners) > 0
    split = vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)  # every seam open
    assert len(closed_mesh(*split)[0]) == len(vertices)
    half = faces[vertices[faces].mean(1)[:, 0] > 0]
    with pytest.raises(InputError, match=r"not watertight.*edges.*Mesh\.load.*hull"):
        simulation_displacement(*PLATE, vertices, half)
    tall = vertices - np.array([0, 0.3, 0])
    found = simulation_displacement(*PLATE, tall, half, SimulationSettings(decomposition="hull"))
    assert found.millimetres == pytest.approx(found.settings.free_fall, abs=1e-4)


_THING, _FACES = box(BOX)
_SPOILT = np.where(np.arange(8)[:, None] == 3, np.nan, _THING)
BAD = {
    "hand mesh: empty": (PLATE[0], PLATE[1][:0], _THING, _FACES, None),
    r"object mesh: empty \(0 vertices": (*PLATE, _THING[:0], _FACES[:0], None),
    "object mesh: 1 of 8 vertices are not finite": (
        *PLATE,
        _SPOILT,
        _FACES,
        None,
    ),
    r"hand mesh: its longest side is 500.*mm \(multiply by 0\.001\)": (PLATE[0] * 1000, PLATE[1], _THING, _FACES, None),
    r"object mesh: .* is 6, .*cm \(multiply by 0\.01\)": (*PLATE, _THING * 100, _FACES, None),
    "object mesh: .* scale it to metres": (*PLATE, _THING * 1e6, _FACES, None),
    "object mesh: its faces name vertices 0 to 7, but it has 5": (*PLATE, _THING[:5], _FACES, None),
    "in one plane": (*PLATE, np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0.0]]), np.array([[0, 1, 2], [0, 2, 1]]), None),
    "object pose: .* 3 x 4 finite": (*PLATE, _THING, _FACES, np.full((3, 4), np.nan)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_meshes_are_named(message: str) -> None:
    *meshes, pose = BAD[message]
    settings = SimulationSettings(decomposition="hull" if "plane" in message else "vhacd")
    with pytest.raises(InputError, match=message):
        simulation_displacement(*meshes, settings, object_pose=pose)


def test_padding_is_left_out() -> None:
    """Repeated vertices and (0, 0, 0) faces, as a batch of meshes has them, move nothing."""
    thing = np.concatenate([_THING, np.repeat(_THING[-1:], 5, 0)])
    faces = np.concatenate([_FACES, np.zeros((4, 3), np.int64)])
    vertices, corners = fit_mesh("object", thing, faces)
    assert np.array_equal(vertices, _THING) and np.array_equal(corners, _FACES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "pybulet"}, "simulation.engine: there is no 'pybulet'; did you mean 'pybullet'"),
        ({"decomposition": "voxels"}, "simulation.decomposition: there is no 'voxels'; known: coacd, fitted"),
        ({"gravity": (0.0, 9.8)}, r"simulation.gravity: \(0.0, 9.8\) must be three numbers"),
        ({"steps": "35"}, "simulation.steps: '35' is not a finite number"),
        ({"steps": 0}, "simulation.steps: 0 must be above 0"),
        ({"timestep": float("nan")}, "simulation.timestep: nan is not a finite number"),
        ({"engine": "mujoco", "hand_restitution": 1.0}, "do not bounce"),
    ],
)
def test_bad_settings_are_named(change: dict, message: str) -> None:
    settings = SimulationSettings()
    for name, value in change.items():  # past the runtime check of types, which only the tests have
        object.__setattr__(settings, name, value)
    with pytest.raises(ConfigError, match=message):
        settings.__post_init__()


@pytest.mark.parametrize("engine", ENGINES)
def test_missing_engine_is_said_with_the_fix(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    packages.load.cache_clear()
    monkeypatch.setattr(importlib, "import_module", absent)
    grasp = Grasp("a", *PLATE, _THING, _FACES)
    for work in (lambda: single.simulate(grasp, SimulationSettings(engine=engine)), lambda: simulate_all([grasp])):
        with pytest.raises(AssetError, match=r"pip install 'horefine\[sim\]'"):
            work()
    assert packages.installed("no-such-package") is None


@pytest.mark.parametrize("engine", ENGINES)
def test_what_an_engine_refuses_is_an_input_error(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part without volume reaches the engine only past the checks."""
    flat = np.zeros((8, 3)), _FACES
    monkeypatch.setattr(single, "convex_parts", lambda *_, **__: decomposition.Parts((flat,), convex=False))
    if engine == "pybullet":
        import pybullet

        def refuse(**_: object) -> None:
            raise pybullet.error("createMultiBody failed.")

        monkeypatch.setattr(pybullet, "createMultiBody", refuse)
    with pytest.raises(InputError, match=f"simulation: {engine} cannot use these meshes"):
        simulation_displacement(*PLATE, _THING, _FACES, SimulationSettings(engine=engine))


def test_an_object_that_is_lost_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {"pybullet": lambda *_: (np.full(3, np.nan), 0.0, 0)}
    monkeypatch.setattr(single, "_RUN", lost)
    with pytest.raises(InputError, match="pybullet lost the object"):
        simulation_displacement(*PLATE, _THING, _FACES)


def test_benchmark_moves_the_object_apart() -> None:
    from benchmarks.simulation import moved, overlap

    pose = np.concatenate([np.eye(3), np.array([[0.0], [-0.1], [0.0]])], 1)
    grasp = Grasp("a", *PLATE, *angle_iron(), pose)
    shift = moved(grasp, 0.01).object_pose[:, 3] - pose[:, 3]
    assert np.linalg.norm(shift) == pytest.approx(0.01) and shift[1] < 0
    assert overlap(decomposition.Parts((box(BOX),), convex=True), *box(BOX)) == 1
    apart = decomposition.Parts((box(BOX, (0.03, 0, 0)),), convex=True)
    assert overlap(apart, *box(BOX)) == pytest.approx(1 / 3, abs=0.02)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    simulation_displacement(*PLATE, *angle_iron())
    simulation_displacement(*PLATE, *angle_iron(), PROTOCOLS["mujoco"])
    os.write(1, b"heard")
    assert capfd.readouterr() == ("heard", "")


def _grasps() -> list[Grasp]:
    """Boxes at several heights above the plate, one of them not a number."""
    found = []
    for index, height in enumerate((0.001, 0.01, 0.02, 0.15)):
        found.append(Grasp(f"item {index}", *PLATE, *box(BOX, (0, -BOX[1] / 2 - height, 0))))
    spoilt = dataclasses.replace(found[1], name="spoilt", object_vertices=found[1].object_vertices * np.nan)
    return [*found[:2], spoilt, *found[2:]]


def test_many_in_this_process() -> None:
    seen = []
    found = simulate_all(_grasps(), workers=0, done=seen.append)
    assert found.names == ("item 0", "item 1", "spoilt", "item 2", "item 3") and seen == [1, 2, 3, 4, 5]
    assert "not finite" in found.failures["spoilt"] and len(found.failures) == 1
    sd = found.millimetres
    assert np.isnan(sd[2]) and (np.diff(sd[[0, 1, 3, 4]]) > 0).all()
    assert len(simulate_all([], workers=0).millimetres) == 0
    with pytest.raises(InputError, match="'item 0' is the name of more than one"):
        simulate_all([_grasps()[0]] * 2)


class _Deadly(str):
    """A name that ends the process which reads it."""

    def __reduce__(self) -> tuple:
        return os._exit, (139,)


class _Slow(str):
    """A name that takes a minute to read."""

    def __reduce__(self) -> tuple:
        return time.sleep, (60,)


@pytest.mark.slow
def test_a_dying_worker_takes_one_item_with_it() -> None:
    good = _grasps()
    dies = dataclasses.replace(good[0], name=_Deadly("dies"))
    hangs = dataclasses.replace(good[0], name=_Slow("hangs"))
    found = simulate_all([dies, *good[:3], hangs, *good[3:]], workers=2, limit=10)
    alone = simulate_all(good, workers=0)
    assert found.names == ("dies", "item 0", "item 1", "spoilt", "hangs", "item 2", "item 3")
    assert "exit code 139" in found.failures["dies"] and "longer than 10 s" in found.failures["hangs"]
    assert found.failures["spoilt"] == alone.failures["spoilt"] and len(found.failures) == 3
    assert np.array_equal(found.millimetres[[1, 2, 3, 5, 6]], alone.millimetres, equal_nan=True)
