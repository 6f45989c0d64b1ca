"""YAML -> :class:`Config`, with overrides; refuses what it does not know and says what was meant.

A configuration may extend another by name or path (``base: default``): tables are merged, everything else replaced.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator

from horefine.align import HANDS, OBJECTS
from horefine.errors import ConfigError, suggestion
from horefine.losses.prior import factor_prior
from horefine.objective import Term, parse_terms
from horefine.scene import FACTORS
from horefine.tangent import BLOCKS

__all__ = [
    "Align",
    "Clip",
    "Config",
    "LevenbergMarquardt",
    "Optimizer",
    "Skip",
    "Stage",
    "Starts",
    "Variables",
    "config_names",
    "load_config",
]

FOLDER = Path(__file__).parent / "configs"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimizer(_Table):
    """Adam and the coordinates it works in."""

    name: Literal["adam"] = "adam"
    parameters: Literal["tangent", "axis_angle", "quaternion"] = "tangent"
    """``tangent``: turns about the middle of hand and object; ``axis_angle``: the papers' plain numbers;
    ``quaternion``: CPF's."""
    rates: dict[str, float] = Field(default_factory=dict)
    """First step of each block: metres, radians, standard deviations of shape. Not named = held still.
    ``focal`` and ``object_scale`` (logarithms) only where they are ``variables``; a fifth of their sigma if not named.
    """
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = Field(default=1e-12, gt=0)
    least_rate: float = Field(default=0.0, ge=0)
    """No plateau, decay or stage takes a rate below this."""
    keep: Literal["best", "last"] = "best"
    """Which iterate of a stage counts; ``last`` (CPF) may end worse than it began."""
    fused: bool = True
    """On the CPU, steps on plain arrays where parameters and losses allow (``horefine.iteration``); false: by torch."""
    graph: bool = False
    """With CUDA, a step is recorded as a graph and played back (``horefine.captured``); elsewhere it is simply done."""


class LevenbergMarquardt(_Table):
    """Damped Gauss-Newton steps (``horefine.levenberg_marquardt``) in the tangent coordinates."""

    name: Literal["levenberg_marquardt"]
    damping: float = Field(default=1e-5, gt=0)
    """At the start of a stage, relative to the diagonal of the normal equations."""
    tolerance: float = Field(default=1e-4, ge=0, lt=1)
    """An image is done with a stage when a step lowers its cost by less than this share."""
    turn: float = Field(default=0.7, gt=0)
    """No joint turns farther than this in a step, radians."""
    still: list[str] = Field(default_factory=list)
    """Blocks (those of Adam's ``rates``) that do not move."""
    fused: bool = True
    """On the CPU, by kernels; false: by torch (``horefine.torch_steps``), as on every other device."""


OPTIMIZERS: dict[str, type[_Table]] = {"adam": Optimizer, "levenberg_marquardt": LevenbergMarquardt}


def _optimizer_name(table: Any) -> str:
    return str(table.get("name", "adam") if isinstance(table, Mapping) else getattr(table, "name", table))


class Stage(_Table):
    """A run of steps on a choice of the losses."""

    steps: int = Field(default=100, ge=1)
    losses: list[str] | dict[str, Any] | None = None
    """A list: only these. A table: all, with these entries changed. Nothing: all."""
    rate: float = Field(default=1.0, gt=0)
    """Multiplies Adam's rates during this stage."""
    decay: float = Field(default=1.0, gt=0, le=1)
    """What is left of Adam's rate at the stage's end (cosine)."""
    patience: int | None = Field(default=None, ge=1)
    """Adam: cut an image's rate when its loss has not fallen for this many steps; none: never."""
    cut: float = Field(default=0.1, gt=0, lt=1)
    """What such a cut leaves of the rate."""
    tolerance: float | None = Field(default=None, ge=0, lt=1)
    """Levenberg-Marquardt: the optimizer's, for this stage alone (a stage that others follow need not end exactly)."""
    rounds: int = Field(default=1, ge=1)
    """How often the stage is run: each time from where the last one ended, with fresh sigmas."""


class Align(_Table):
    """How hand and object are placed before anything is refined (:mod:`horefine.align`)."""

    hand: Literal["given", "codes"] = "given"
    """``given``: as it comes; ``codes``: turned and moved to where its dense map and the relative depth show it."""
    object: Literal["given", "looks"] = "given"
    """``looks``: in the orientation in which its mesh looks most like the photograph."""
    rotations: int = Field(default=576, ge=24)
    """Orientations that are tried."""
    candidates: int = Field(default=16, ge=1)
    """Of these, how many are improved a little ..."""
    finalists: int = Field(default=4, ge=1)
    """... and how many of those to the end."""

    @property
    def features(self) -> tuple[str, ...]:
        """What it takes."""
        return tuple(dict.fromkeys(OBJECTS[self.object] + HANDS[self.hand]))


class Starts(_Table):
    """Several beginnings for each image; the best end is kept. The first is the pose as given."""

    count: int | Literal["auto"] = 1
    """``auto``: as many as each image's ``Features.pose_spread`` asks for, 1 to ``most`` (:mod:`horefine.starts`)."""
    most: int = Field(default=4, ge=1)
    rotation: float = Field(default=0.7, ge=0)
    """Radians by which wrist and object of the others are turned."""
    translation: float = Field(default=0.02, ge=0)
    """Metres by which they are moved."""

    @field_validator("count", mode="before")
    @classmethod
    def _counts(cls, value: Any) -> Any:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError("give a number of starts, 1 or more, or auto")
        return value


class Skip(_Table):
    """Images that are not refined but handed back as they came."""

    contact: float = Field(default=0.0, ge=0, le=1)
    """Those of whose object's vertices a smaller share than this is predicted to touch the hand ..."""
    probability: float = Field(default=0.8, ge=0, le=1)
    """... with a probability above this."""


class Clip(_Table):
    """What the frames of a clip have to do with one another (:mod:`horefine.clip`; single images: nothing)."""

    shape: Literal["shared", "own"] = "shared"
    """``shared``: one hand, and one focal length and object size where they are ``variables``."""
    warm: bool = True
    """Where the motion breaks, begin again from the frames on the other side of the break."""
    sweeps: int = Field(default=3, ge=0)
    """How often each frame is refined with the loss ``temporal`` beside the others."""
    steps: int | None = Field(default=None, ge=1)
    """Of each such refinement; nothing: 2 of Levenberg-Marquardt, 30 of Adam."""


class Variables(_Table):
    """What is not known besides the poses, and how well: standard deviations of the logarithms of factors about 1."""

    focal: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Of the camera's focal length over the given one (0.05: some 5 %); 0: it is known."""
    object_scale: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Of the object's size over its mesh's; 0: the mesh is true to scale."""

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are not known, keys of ``scene.FACTORS``."""
        return tuple(name for name in FACTORS if getattr(self, name) > 0)

    @property
    def terms(self) -> dict[str, Term]:
        """Their priors, ``NAME_prior``: part of every stage's objective."""
        options = {name: {"variable": name, "sigma": getattr(self, name)} for name in self.names}
        return {f"{name}_prior": Term(f"{name}_prior", factor_prior, 1.0, own) for name, own in options.items()}


class Config(_Table):
    """One refinement recipe."""

    losses: dict[str, Any]
    stages: dict[str, Stage]
    optimizer: Annotated[
        Annotated[Optimizer, Tag("adam")] | Annotated[LevenbergMarquardt, Tag("levenberg_marquardt")],
        Discriminator(_optimizer_name),
    ] = Optimizer()
    align: Align = Align()
    starts: Starts = Starts()
    skip: Skip = Skip()
    variables: Variables = Variables()
    clip: Clip = Clip()

    def terms(self, stage: str | None = None) -> dict[str, Term]:
        """The terms of one stage, or of all stages together."""
        if stage is None:
            return {name: term for key in self.stages for name, term in self.terms(key).items()}
        tables = self.losses, self.stages[stage].losses
        try:
            terms = _terms_in(pickle.dumps(tables))
        except (pickle.PicklingError, AttributeError, TypeError):  # an option that only Python can write
            terms = _stage_terms(*tables)
        return {**terms, **self.variables.terms}

    @property
    def rates(self) -> dict[str, float]:
        """Adam's rate of each block, those of the variables included."""
        assert isinstance(self.optimizer, Optimizer)
        return {name: getattr(self.variables, name) / 5 for name in self.variables.names} | self.optimizer.rates

    @property
    def features(self) -> tuple[str, ...]:
        """What is extracted: what the way in and at least one active loss cannot do without, and the confidences of
        the losses' maps and the spread of the first pose (None where nobody knows them)."""
        terms = self.terms().values()
        of_losses = [n for term in terms if not term.optional for n in term.features]
        of_losses += [n for term in terms if not term.optional for n in term.confidences]
        of_skip = ["contact"] if self.skip.contact > 0 else []
        of_starts = ["pose_spread"] if self.starts.count == "auto" else []
        every = dict.fromkeys([*self.align.features, *of_losses, *of_skip, *of_starts])
        return tuple(name for name in every if name != "neighbours")  # a clip makes them, nobody extracts them

    @property
    def wishes(self) -> tuple[str, ...]:
        """Further features that optional losses would use."""
        names = dict.fromkeys(n for term in self.terms().values() if term.optional for n in term.features)
        return tuple(n for n in names if n not in (*self.features, "neighbours"))

    def dump(self) -> str:
        """YAML that loads to the same configuration."""
        return yaml.safe_dump(json.loads(self.model_dump_json()), sort_keys=False)

    def one_step(self) -> Config:
        """The recipe with one step of each stage: compiles and fills caches, so that what follows can be timed."""
        stages = {name: stage.model_copy(update={"steps": 1, "rounds": 1}) for name, stage in self.stages.items()}
        return self.model_copy(update={"stages": stages})

    def digest(self) -> str:
        """Ten characters that change when anything in the configuration does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:10]


@functools.lru_cache(maxsize=256)
def _terms_in(tables: bytes) -> Mapping[str, Term]:
    """Of the pickled arguments of :func:`_stage_terms`, once: a refinement asks for its terms again and again.

    What is kept belongs to nobody: it is made of a copy of the tables, and cannot be written to.
    """
    terms = _stage_terms(*pickle.loads(tables))
    return {name: replace(term, options=MappingProxyType(term.options)) for name, term in terms.items()}


def _stage_terms(losses: Mapping[str, Any], chosen: list[str] | Mapping[str, Any] | None) -> dict[str, Term]:
    """The terms of a stage that chooses so (``Stage.losses``) of a recipe's losses."""
    if isinstance(chosen, list):
        everything = parse_terms(losses)
        return {name: everything[name] for name in chosen if name in everything}
    changed = {name: _merged_loss(losses.get(name), entry) for name, entry in (chosen or {}).items()}
    # A loss switched off as a whole stays off whatever a stage says: that is what an ablation sets.
    off = [n for n in changed if n in losses and n not in parse_terms({n: losses[n]})]
    return parse_terms({**losses, **{n: e for n, e in changed.items() if n not in off}})


def config_names() -> list[str]:
    """Names of the shipped refinement recipes."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.stem.startswith(("train_", "ablations")))


def load_config(source: str | Path | Mapping[str, Any] = "default", overrides: Sequence[str] = ()) -> Config:
    """Reads a recipe by name (``default``, ``song2022``), path or table and applies ``a.b=value`` overrides.

    Raises:
        ConfigError: naming the key, its value and the way out.
    """
    table = _read(source)
    for override in overrides:
        _apply(table, override)
    try:
        config = Config.model_validate(table)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(entry, table) for entry in error.errors())) from None
    _check(config)
    return config


def _check(config: Config) -> None:
    if not config.stages:
        raise ConfigError("stages: empty; name at least one, e.g. stages: {refine: {steps: 300}}")
    if isinstance(config.optimizer, Optimizer):
        for name in config.optimizer.rates:
            if name not in BLOCKS and name not in FACTORS:
                raise ConfigError(f"optimizer.rates.{name}: no such block{suggestion(name, [*BLOCKS, *FACTORS])}")
            if name in FACTORS and name not in config.variables.names:
                raise ConfigError(
                    f"optimizer.rates.{name}: not a variable; set variables.{name}, or leave the rate out"
                )
    else:
        for name in config.optimizer.still:
            if name not in BLOCKS:
                raise ConfigError(f"optimizer.still: {name!r}: no such block{suggestion(name, BLOCKS)}")
    parse_terms(config.losses)
    for key, stage in config.stages.items():
        for name in stage.losses or ():
            if isinstance(stage.losses, list) and name not in config.losses:
                raise ConfigError(f"stages.{key}.losses: {name!r} is not in losses{suggestion(name, config.losses)}")
        config.terms(key)
    if not set(config.terms()) - set(config.variables.terms):
        raise ConfigError("losses: every loss is off; there is nothing to minimise")


def _read(source: str | Path | Mapping[str, Any], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if isinstance(source, Mapping):
        table, where = dict(source), "the given table"
    else:
        path = Path(source)
        if path.suffix not in (".yaml", ".yml"):
            path = FOLDER / f"{source}.yaml"
        where = str(path)
        if where in seen:
            raise ConfigError(f"base: {where} extends itself")
        if not path.is_file():
            raise ConfigError(
                f"config {str(source)!r}: no such recipe or file{suggestion(str(source), config_names())}"
            )
        try:
            table = copy.deepcopy(_parsed(path.read_text()))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not readable as YAML ({str(error).splitlines()[0]})") from None
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: expected a table with losses, stages, optimizer; got {type(table).__name__}")
    base = table.pop("base", None)
    return _merge(_read(base, (*seen, where)), table) if base is not None else table


@functools.lru_cache(maxsize=32)
def _parsed(text: str) -> Any:
    """What a recipe's text says; kept, for the parser takes longer than anything else between a name and a config."""
    return yaml.safe_load(text)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        if key == "optimizer" and both:  # another optimizer has other keys: nothing of the one below holds
            both = _optimizer_name(value) == _optimizer_name(merged[key]) or "name" not in value
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _merged_loss(below: Any, above: Any) -> Any:
    """A stage's entry for a loss on top of the general one: a number changes the weight, a table what it names."""
    as_table = [dict(e) if isinstance(e, Mapping) else {} if e is None else {"weight": e} for e in (below, above)]
    return {**as_table[0], **as_table[1]}


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value, for instance losses.segmentation=0")
    *parents, last = key.strip().split(".")
    for parent in parents:
        below = table.get(parent)
        below = {"weight": below} if isinstance(below, (int, float)) else dict(below or {})
        table[parent] = below
        table = below
    try:
        table[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {override}: {text!r} is not readable as YAML ({str(error).splitlines()[0]})"
        ) from None


def _explain(error: Any, table: Mapping[str, Any]) -> str:
    """A pydantic complaint in our words: path, value, way out."""
    where = error["loc"]
    if where[0] == "optimizer":
        if error["type"] == "union_tag_invalid":
            name = _optimizer_name(error["input"])
            return f"optimizer.name: {name!r}: no such optimizer{suggestion(name, OPTIMIZERS)}"
        where = where[:1] + where[2:]  # without the optimizer's name
    path = ".".join(str(part) for part in where)
    if error["type"] == "extra_forbidden":
        return f"{path}: no such key{suggestion(str(where[-1]), _known(where[:-1], table))}"
    if error["type"] == "missing":
        return f"{path}: missing"
    return f"{path}: {error['input']!r}: {error['msg']}"


def _known(parents: Sequence[Any], table: Mapping[str, Any]) -> list[str]:
    optimizer = OPTIMIZERS.get(_optimizer_name(table.get("optimizer")))
    tables = {"optimizer": optimizer, "starts": Starts, "align": Align, "skip": Skip, "variables": Variables,
              "clip": Clip}  # fmt: skip
    model = {0: Config, 1: tables.get(str(parents[0])) if parents else None, 2: Stage}
    chosen = model.get(len(parents))
    return list(chosen.model_fields) if chosen else []
