"""What is shipped is what is in the tree, under one name, and nothing that may not be shipped."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINKS = {"losses": "../losses", "extractors": "../extractors", "configs": "../configs", "cli.py": "../cli.py"}
PRIVATE = re.compile(rb"(?<![\w.])/(work|root|opt/pypi|opt/wheels|tmp/[a-z])[\w/.-]*")
LICENSED = re.compile(r"MANO_(RIGHT|LEFT)|\.pkl$|\.pth(\.tar)?$|textured_simple|SMPL", re.IGNORECASE)


def committed() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name]


@pytest.mark.parametrize("name", LINKS)
def test_links_are_relative_links(name: str) -> None:
    link = ROOT / "horefine" / name
    assert link.is_symlink(), f"horefine/{name} is a copy, not a link: on Windows, git config core.symlinks true"
    assert str(link.readlink()) == LINKS[name]
    assert link.resolve() == ROOT / name


def test_packages_equal_the_tree() -> None:
    listed = {name.split(".", 1)[-1] for name in PROJECT["tool"]["setuptools"]["packages"]} - {"horefine"}
    found = {p.parent.name for p in (ROOT / "horefine").glob("*/__init__.py")}
    deeper = [p for p in ROOT.glob("horefine/*/*/__init__.py")]
    assert listed == found, f"pyproject lists {sorted(listed - found)} in vain and lacks {sorted(found - listed)}"
    assert not deeper, f"{deeper}: list packages two levels down in pyproject, and in this test"


def test_linked_packages_are_mapped() -> None:
    mapping = PROJECT["tool"]["setuptools"]["package-dir"]
    for name in ("losses", "extractors", "configs"):
        assert mapping[f"horefine.{name}"] == name


def test_every_data_file_of_the_packages_is_shipped() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package in ("assets", "configs"):
        folder = ROOT / "horefine" / package
        shipped = {p for pattern in data[f"horefine.{package}"] for p in folder.glob(pattern)}
        files = {p for p in folder.iterdir() if p.is_file() and p.suffix not in {".py", ".pyc", ".md"}}
        assert files <= shipped, f"not in package-data: {sorted(p.name for p in files - shipped)}"


def test_version_is_one() -> None:
    version = PROJECT["project"]["version"]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_constraints_lie_in_the_ranges_of_pyproject() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [requirements.Requirement(line) for line in lines if line and not line.startswith("#")]
    version = {pin.name.lower(): str(pin.specifier).removeprefix("==") for pin in pins}
    asked = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    for wanted in map(requirements.Requirement, asked):
        assert wanted.name.lower() in version, f"constraints.txt does not pin {wanted.name}"
        assert wanted.specifier.contains(version[wanted.name.lower()]), (
            f"{wanted} against {version[wanted.name.lower()]}"
        )


def test_nothing_committed_is_private_or_licensed_or_huge() -> None:
    for path in committed():
        if path.is_symlink() or not path.exists():
            continue
        name = path.relative_to(ROOT)
        assert not LICENSED.search(str(name)), f"{name} looks like licensed data"
        assert path.stat().st_size < 25 * 2**20, f"{name} is over 25 MB"
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".txt", ".json", ".cff", ".html", ""} and path != Path(
            __file__
        ):
            found = PRIVATE.search(path.read_bytes())
            assert not found, f"{name} names a path of one machine: {found[0].decode()}"


def test_the_private_pattern_can_fail() -> None:
    assert PRIVATE.search(b"see /" + b"work/shared/x.md") and PRIVATE.search(b"'/" + b"root/a'")
    assert not PRIVATE.search(b"a/work/b framework/x https://x.org/work/1")
