"""An ablation from a YAML file: named variants and grids over one recipe (``configs/ablations.yaml`` is an example)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from horefine.ablate.variants import FULL, Variant, dropped, named_losses, without
from horefine.config import FOLDER, Config, load_config
from horefine.errors import ConfigError, suggestion

__all__ = ["KEYS", "Plan", "load_plan", "make_plan"]

KEYS = ("recipe", "set", "drop", "variants", "grid", "reference")
_OWN = ("recipe", "set", "drop")
"""Keys of a variant."""


@dataclass(frozen=True)
class Plan:
    """What is compared with what."""

    recipe: str
    variants: tuple[Variant, ...]
    base: Config
    """The recipe itself."""
    reference: str
    """Title of the variant that the others stand against."""

    @property
    def configs(self) -> tuple[Config, ...]:
        """Of the variants that can be used."""
        return tuple(variant.config for variant in self.variants if variant.config is not None)


def make_plan(recipe: str, overrides: Sequence[str] = (), drop: str | Sequence[str] = "each") -> Plan:
    """The recipe with and without its losses (:func:`horefine.ablate.variants.dropped`).

    Raises:
        ConfigError: no such recipe, or it has no such loss.
    """
    base = load_config(recipe, overrides)
    return Plan(recipe, tuple(dropped(base, drop)), base, FULL)


def load_plan(source: str, recipe: str | None = None, overrides: Sequence[str] = ()) -> Plan:
    """Reads a plan by path, or by name from the shipped ones.

    Args:
        recipe: Instead of the file's.
        overrides: Of the recipe, after the file's ``set``.

    Raises:
        ConfigError: naming the key, its value and the way out.
    """
    path = Path(source) if Path(source).suffix in (".yaml", ".yml") else FOLDER / f"{source}.yaml"
    if not path.is_file():
        known = [own.stem for own in FOLDER.glob("ablations*.yaml") if "hoisdf" not in own.stem]
        raise ConfigError(f"--config {source}: no such file or shipped ablation{suggestion(source, known)}")
    try:
        table = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML ({str(error).splitlines()[0]})") from None
    where = path.name
    table = _table(table, KEYS, where)
    base = recipe or str(table.get("recipe", "default"))
    sets = [*_sets(table.get("set"), f"{where}: set"), *overrides]
    variants = _variants(table, base, sets, where)
    titles, slugs = [variant.title for variant in variants], [variant.slug.lower() for variant in variants]
    for title, slug in zip(titles, slugs, strict=True):
        if not slug or slugs.count(slug) > 1:
            problem = "two variants are called (nearly)" if slug else "no letter in the name"
            raise ConfigError(f"{where}: {problem} {title!r}; give each a name of its own")
    reference = str(table.get("reference", titles[0]))
    if reference not in titles:
        raise ConfigError(f"{where}: reference: no variant {reference!r}{suggestion(reference, titles)}")
    return Plan(base, tuple(variants), load_config(base, sets), reference)


def _variants(table: Mapping[str, Any], base: str, sets: Sequence[str], where: str) -> list[Variant]:
    config = load_config(base, sets)
    drop = table.get("drop")
    found = dropped(config, drop) if drop is not None else [Variant(FULL, config)]
    named = _table(table.get("variants") or {}, None, f"{where}: variants")
    for title, own in named.items():
        own = _table(own or {}, _OWN, f"{where}: variants.{title}")
        found.append(_attempt(str(title), own, base, sets, f"{where}: variants.{title}"))
    grid = _table(table.get("grid") or {}, None, f"{where}: grid")
    return found + _grid(grid, base, sets, f"{where}: grid")


def _attempt(title: str, own: Mapping[str, Any], base: str, sets: Sequence[str], where: str) -> Variant:
    """A variant; one that cannot be used is a row that says why."""
    try:
        config = load_config(str(own.get("recipe", base)), [*sets, *_sets(own.get("set"), f"{where}.set")])
        return Variant(title, _less(config, own.get("drop")))
    except ConfigError as error:
        return Variant(title, None, str(error))


def _less(config: Config, names: Any) -> Config:
    if names is None:
        return config
    listed = names.split(",") if isinstance(names, str) else [str(name) for name in names]
    return without(config, [loss for name in listed for loss in named_losses(config, name)])


def _grid(grid: Mapping[str, Any], base: str, sets: Sequence[str], where: str) -> list[Variant]:
    """Every combination of the listed values."""
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}.{key}: {values!r}; expected a list of values")
    found = []
    for combination in itertools.product(*grid.values()) if grid else ():
        cell = dict(zip(grid, combination, strict=True))
        title = ", ".join(f"{key.removeprefix('losses.')}={value}" for key, value in cell.items())
        found.append(_attempt(title, {"set": cell}, base, sets, where))
    return found


def _sets(value: Any, where: str) -> list[str]:
    """``{a.b: 1}`` or ``["a.b=1"]`` as overrides."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [f"{key}={yaml.safe_dump(one, default_flow_style=True).strip().removesuffix('...').strip()}"
                for key, one in value.items()]  # fmt: skip
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    raise ConfigError(f"{where}: {value!r}; expected a table of values by key, or a list of key=value")


def _table(value: Any, known: Sequence[str] | None, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a table, got {type(value).__name__}")
    for key in value:
        if known is not None and key not in known:
            raise ConfigError(f"{where}: {key}: no such key{suggestion(str(key), known)}")
    return value
