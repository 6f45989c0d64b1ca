"""A file imports only from floors below its own, and nobody imports a second copy of the package."""

import ast
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (  # lowest first; modules of one package (losses, render, ...) may import one another
    ("errors", "heap", "processes", "overlap", "compiling", "threads"),
    ("cluster",),
    ("geometry", "adam"),
    ("assets", "cache", "distance_kernels", "draw_kernels", "jacobian_kernels", "hand_kernels", "anatomy"),
    ("repair", "mano", "normal_kernels", "iteration_kernels"),
    ("distance", "object_meshing"),
    ("mesh_file", "intersection", "object_shapes", "symmetry"),
    ("mesh", "object_textures"),
    ("objects", "hand"),
    ("render",),
    ("scene",),
    ("motion", "fused", "torch_jacobian"),
    ("contact_truth",),
    ("losses",),
    ("align",),
    ("objective", "muon", "tangent"),
    ("jacobian", "factors"),
    ("hand_slopes",),
    ("fused_render", "descent"),
    ("fused_objective", "captured"),
    ("iteration",),
    ("inverse_kinematics",),
    ("normal_equations", "posing", "torch_equations", "torch_curvature"),
    ("levenberg_marquardt",),
    ("curvature", "torch_steps"),
    ("config", "configs"),
    ("starts", "batching", "refined", "setting"),
    ("verdict",),
    ("refinement",),
    ("stream",),
    ("clip_starts",),
    ("clip",),
    ("__init__",),  # the public surface; below the command and what serves only it
    ("metrics", "simulation", "exchange", "draw", "report_page"),
    ("exchange_hands", "exchange_objects", "exchange_challenges"),
    ("data", "export"),
    ("video",),
    ("extractors",),
    ("items", "surface_files"),
    ("reconstruction",),
    ("outcome", "suite"),
    ("job",),
    ("failures",),
    ("preparation",),
    ("networks", "pipeline", "train_recipe", "train_devices", "train_log"),
    ("clip_run",),
    ("train_loop",),
    ("evaluate", "train", "report", "distribute", "doctor", "shards"),
    ("ablate", "pose_files", "merge"),
    ("headline",),
    ("console", "options"),
    ("run_command", "data_command"),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FILES = [
    Path(folder, name).relative_to(ROOT / "horefine")
    for folder, _, names in os.walk(ROOT / "horefine", followlinks=True)
    for name in sorted(names)
    if name.endswith(".py") and Path(folder, name).exists()
]


def imports(source: str, package: str = "horefine") -> set[str]:
    """Every module name that ``source`` imports, relative imports resolved against ``package``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {f"horefine.{alias.name}" if base == "horefine" else base for alias in node.names}
    return found


def module_of(name: str) -> str | None:
    """``horefine.render.cpu`` -> ``render``; ``from horefine import Pose`` -> ``__init__``; others -> None."""
    top, _, rest = name.partition(".")
    if top != "horefine":
        return None
    known = rest.split(".")[0]
    return known if known in FLOOR or (ROOT / "horefine" / f"{known}.py").exists() else "__init__"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_only_from_below(file: Path) -> None:
    own = file.parts[0].removesuffix(".py")
    assert own in FLOOR, f"{file} has no floor: give it one in FLOORS of {__file__}"
    package = ".".join(["horefine", *file.parts[:-1]])
    for name in imports((ROOT / "horefine" / file).read_text(encoding="utf-8"), package):
        assert name.partition(".")[0] not in {"losses", "extractors", "configs", "cli"}, (
            f"{file}: import horefine.{name}"
        )
        used = module_of(name)
        if used is None or (used == own and len(file.parts) > 1):
            continue
        assert used in FLOOR, f"{file} imports {name}, which has no floor"
        assert FLOOR[used] < FLOOR[own], f"{file} (floor of {own}) imports {name}, which is not below it"


def test_the_check_sees_what_it_should() -> None:
    source = "import horefine.cli\nfrom . import scene\nfrom .render import cpu\ndef f():"
    source += "\n    from horefine import Pose, mesh\n"
    assert imports(source) == {"horefine.cli", "horefine.scene", "horefine.render", "horefine.Pose", "horefine.mesh"}
    assert imports("from .image import segmentation", "horefine.losses") == {"horefine.losses.image"}
    assert [module_of(n) for n in ("horefine.Pose", "horefine.mesh", "horefine", "torch.nn")] == [
        "__init__",
        "mesh",
        "__init__",
        None,
    ]
