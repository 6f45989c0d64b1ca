"""What an ablation compares: one recipe, and the same recipe without some of its losses, or with other values.

Losses are named in groups, after Song et al. 2022 (table 3) where the paper has a name; what stands for a loss of the
paper in our recipes belongs to the same group, so that one ``--drop`` fits every recipe.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from horefine.config import Config, load_config
from horefine.errors import ConfigError, suggestion
from horefine.objective import parse_terms

__all__ = ["DROPS", "FULL", "GROUPS", "UNIONS", "Group", "Variant", "active", "dropped", "groups_of", "named_losses",
           "plain", "without"]  # fmt: skip

FULL = "full"
"""Title of the recipe as it is."""


@dataclass(frozen=True)
class Group:
    """Losses that say the same kind of thing."""

    name: str
    sign: str
    """Heading of its column of check marks."""
    losses: tuple[str, ...]


GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        Group("segmentation", "S", ("segmentation", "silhouette")),
        Group("dense mapping", "M", ("dense_mapping", "rendered_code", "surface_reprojection")),
        Group("relative depth", "D", ("relative_depth", "rendered_depth")),
        Group("correspondence depth", "Z", ("correspondence_depth", "surface_depth")),
        Group("measured depth", "R", ("measured_depth",)),
        Group("photograph", "P", ("photometric",)),
        Group("contact", "C", (
            "penetration", "contact", "spring_length", "attraction", "repulsion", "capsule_contact",
            "normal_penetration", "obman_contact",
        )),
        Group("distance fields", "F", ("sdf_consistency",)),
        Group("anatomy", "A", ("anatomy", "pose_prior", "shape_prior", "edge_length")),
        Group("offset", "O", ("offset", "articulation", "orientation")),
        Group("motion", "T", ("temporal",)),
    )
}  # fmt: skip
"""Every loss of horefine is in one of them."""
UNIONS: dict[str, tuple[str, ...]] = {"depth": ("relative depth", "correspondence depth")}
"""Groups that are one row together: the D of the paper's table 3."""
TABLE3 = ("segmentation", "dense mapping", "depth")
"""S, M and D of the paper's table 3."""
DROPS = ("each", "each-loss", "pairs", "table3")
"""Sets of variants by name; else names of groups and losses: ``segmentation,depth,segmentation+depth``."""


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    title: str
    config: Config | None
    """None where it cannot be used; ``problem`` says why."""
    problem: str = ""

    @property
    def slug(self) -> str:
        """Its title as a folder's name."""
        words = "".join(c if c.isalnum() or c in ".=" else " " for c in self.title).split()
        return "_".join(words).strip(".")


def active(config: Config) -> tuple[str, ...]:
    """Losses that are on in some stage; the priors of the recipe's variables left out."""
    return tuple(name for name in config.terms() if name not in config.variables.terms)


def groups_of(losses: Iterable[str]) -> dict[str, Group]:
    """The groups of these losses, cut to them; somebody else's loss is a group of its own."""
    losses = tuple(losses)
    found = {name: Group(name, group.sign, tuple(loss for loss in losses if loss in group.losses))
             for name, group in GROUPS.items()}  # fmt: skip
    known = {loss for group in GROUPS.values() for loss in group.losses}
    others = {loss: Group(loss, loss.rpartition(":")[2], (loss,)) for loss in losses if loss not in known}
    return {name: group for name, group in found.items() if group.losses} | others


def without(config: Config, losses: Iterable[str]) -> Config:
    """The recipe with these losses off in every stage; all that are off are written as 0.

    Raises:
        ConfigError: nothing is left to minimise.
    """
    table = json.loads(config.model_dump_json())
    off = {*losses, *(name for name in config.losses if name not in parse_terms(config.losses))}
    return load_config({**table, "losses": {**table["losses"], **dict.fromkeys(sorted(off), 0)}})


def plain(name: str) -> str:
    """How names are compared: ``Dense-Mapping``, ``dense_mapping`` and ``dense mapping`` are one."""
    return name.strip().lower().replace("_", " ").replace("-", " ")


def named_losses(config: Config, name: str) -> tuple[str, ...]:
    """The active losses behind the name of a group, a union of groups or a loss.

    Raises:
        ConfigError: no such name, or the recipe has no such loss on; says which it has.
    """
    on = active(config)
    groups = {plain(key): group.losses for key, group in GROUPS.items()}
    groups |= {plain(key): tuple(loss for part in parts for loss in GROUPS[part].losses)
               for key, parts in UNIONS.items()}  # fmt: skip
    single = {plain(loss): (loss,) for loss in (*on, *(loss for losses in groups.values() for loss in losses))}
    wanted = {**single, **groups}.get(plain(name))
    if wanted is None:
        raise ConfigError(f"drop: {name.strip()!r}: no such loss or group{suggestion(plain(name), [*groups, *single])}")
    found = tuple(loss for loss in on if loss in wanted)
    if not found:
        has = ", ".join(f"{key} ({', '.join(group.losses)})" for key, group in groups_of(on).items())
        raise ConfigError(f"drop: {name.strip()!r}: the recipe has no such loss ({', '.join(wanted)}); it has {has}")
    return found


def dropped(config: Config, drop: str | Sequence[str]) -> list[Variant]:
    """The recipe, and the recipe without losses.

    Args:
        drop: ``each`` (group), ``each-loss``, ``pairs`` (of groups), ``table3`` (the rows of the paper's table 3: every
            choice of its three losses), or names of groups and losses, ``+`` between those that go together.

    Raises:
        ConfigError: a name that the recipe does not have.
    """
    names = [part for part in drop.split(",") if part.strip()] if isinstance(drop, str) else list(drop)
    if len(names) == 1 and names[0].strip() in DROPS:
        return [Variant(FULL, config), *_DROPS[names[0].strip()](config)]
    if not names:
        raise ConfigError(f"drop: nothing named; give {', '.join(DROPS)}, or names of groups and losses")
    return [Variant(FULL, config), *(_dropping(config, name.split("+")) for name in names)]


def _dropping(config: Config, names: Sequence[str]) -> Variant:
    losses = tuple(dict.fromkeys(loss for name in names for loss in named_losses(config, name)))
    return _variant("without " + " + ".join(name.strip() for name in names), config, losses)


def _variant(title: str, config: Config, losses: Iterable[str]) -> Variant:
    try:
        return Variant(title, without(config, losses))
    except ConfigError as error:
        return Variant(title, None, str(error))


def _each(config: Config) -> list[Variant]:
    """Each group alone, and each union of groups after its last part."""
    names: list[str] = []
    present = groups_of(active(config))
    for name in present:
        names.append(name)
        names += [key for key, parts in UNIONS.items() if parts[-1] == name and all(part in present for part in parts)]
    return [_variant(f"without {name}", config, named_losses(config, name)) for name in names]


def _each_loss(config: Config) -> list[Variant]:
    return [_variant(f"without {loss}", config, [loss]) for loss in active(config)]


def _pairs(config: Config) -> list[Variant]:
    return [_dropping(config, pair) for pair in itertools.combinations(groups_of(active(config)), 2)]


def _table3(config: Config) -> list[Variant]:
    """Of the paper's three losses, each alone and each pair."""
    losses: Mapping[str, tuple[str, ...]] = {name: named_losses(config, name) for name in TABLE3}
    found = []
    for count in (1, 2):
        for kept in itertools.combinations(TABLE3, count):
            off = [loss for name in TABLE3 if name not in kept for loss in losses[name]]
            found.append(_variant(f"only {' + '.join(kept)}", config, off))
    return found


_DROPS = {"each": _each, "each-loss": _each_loss, "pairs": _pairs, "table3": _table3}
