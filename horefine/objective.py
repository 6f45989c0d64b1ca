"""What is minimised: named losses with weights and options, read from the ``losses:`` table of a configuration.

A loss is a function of a :class:`~horefine.scene.Scene`; what else it needs it asks for by name (``losses/__init__``
says how). A :class:`Term` is one such function with its weight and options; an :class:`Objective` evaluates several.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from horefine.errors import ConfigError, suggestion
from horefine.hand import HandModel
from horefine.losses import LOSSES, PREPARED
from horefine.scene import CONFIDENCES, Features, Scene

__all__ = ["Objective", "Term", "parse_terms", "prepare", "usable"]

FEATURES = tuple(f.name for f in fields(Features))
ALWAYS = ("camera", "object")
AUTOMATIC = {"sigma": "spread", "repeats": "repeats"}
"""Options that may be ``auto``, and the attribute of a loss that then finds them when a stage begins."""


@dataclass(frozen=True)
class Term:
    """A loss, its weight and its options."""

    name: str
    function: Callable[..., Tensor]
    weight: float
    options: Mapping[str, Any]
    optional: bool = False
    """Left out, instead of an error, where a feature that it needs is missing."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Features and prepared quantities that the loss asks for, by name; confidences may be missing (None)."""
        return required(self.function) + tuple(n for n in accepted(self.function) if n in CONFIDENCES.values())

    @property
    def features(self) -> tuple[str, ...]:
        """Features that must be there, those behind prepared quantities included."""
        asked = required(self.function)
        names = [n for name in asked for n in (required(PREPARED[name]) if name in PREPARED else (name,))]
        return tuple(dict.fromkeys(n for n in names if n in FEATURES and n not in ALWAYS))

    @property
    def confidences(self) -> tuple[str, ...]:
        """The confidences of its maps that the loss uses where they are known."""
        if not {**options_of(self.function), **self.options}.get("confidence", False):
            return ()
        return tuple(CONFIDENCES[name] for name in self.features if name in CONFIDENCES)


@functools.lru_cache(maxsize=256)
def required(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the positional parameters without a default, the first (``scene``) left out."""
    return tuple(p.name for p in _positional(function) if p.default is inspect.Parameter.empty)


@functools.lru_cache(maxsize=256)
def accepted(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the positional parameters with a default: what the function uses where it is there."""
    return tuple(p.name for p in _positional(function) if p.default is not inspect.Parameter.empty)


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return [p for p in _parameters(function) if p.kind in kinds][1:]


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters and their defaults: what the YAML may set."""
    return {p.name: p.default for p in _parameters(function) if p.kind is inspect.Parameter.KEYWORD_ONLY}


@functools.lru_cache(maxsize=256)
def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(function).parameters.values())


def parse_terms(table: Mapping[str, Any], path: str = "losses") -> dict[str, Term]:
    """Terms of a ``losses:`` table, those with weight 0 left out.

    An entry is a weight, ``off``, or a table of ``weight``, ``optional`` (true: left out where a feature is missing)
    and options. The name is one of ``LOSSES`` or ``package.module:function`` for somebody else's loss.

    Raises:
        ConfigError: for an unknown loss or option or a value of the wrong kind, naming the key and the way out.
    """
    terms = {name: _parse_term(name, entry, f"{path}.{name}") for name, entry in table.items()}
    return {name: term for name, term in terms.items() if term.weight != 0}


def _parse_term(name: str, entry: Any, path: str) -> Term:
    function = _find(name, path)
    entry = dict(entry) if isinstance(entry, Mapping) else {"weight": entry}
    weight = entry.pop("weight", 1.0)
    weight = 0.0 if weight is False or weight is None else _number(weight, f"{path}.weight")
    if weight < 0:
        raise ConfigError(f"{path}.weight: {weight:g} is negative; a loss is minimised, give a weight of 0 or more")
    optional = entry.pop("optional", False)
    if not isinstance(optional, bool):
        raise ConfigError(f"{path}.optional: {optional!r} is neither true nor false")
    known = options_of(function)
    for key, value in entry.items():
        if key not in known:
            raise ConfigError(f"{path}.{key}: no such option; known: {', '.join(['weight', *known])}")
        if value == "auto" and key in AUTOMATIC and hasattr(function, AUTOMATIC[key]):
            continue
        if isinstance(known[key], bool) and not isinstance(value, bool):
            raise ConfigError(f"{path}.{key}: {value!r} is neither true nor false")
        if isinstance(known[key], float) and not isinstance(known[key], bool):
            entry[key] = _number(value, f"{path}.{key}")
        elif isinstance(known[key], str) and not isinstance(value, (str, int, float)):
            raise ConfigError(f"{path}.{key}: {value!r} is not usable here; the default is {known[key]!r}")
    return Term(name, function, weight, entry, optional)


def _number(value: Any, path: str) -> float:
    """``value`` as a finite float, or an error that knows YAML 1.1's ``1e-4`` trap."""
    if isinstance(value, str):
        hint = ""
        try:
            hint = f" ({value} is {float(value):.1e} in YAML)".replace("e-0", "e-").replace("e+0", "e+")
        except ValueError:
            pass
        raise ConfigError(f"{path}: {value!r} is not a number{hint}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{path}: {value!r} is not a finite number")
    return float(value)


def _find(name: str, path: str) -> Callable[..., Tensor]:
    if ":" not in name:
        if name not in LOSSES:
            raise ConfigError(f"{path}: no such loss{suggestion(name, LOSSES)}")
        return LOSSES[name]
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot import {attribute!r} from {module!r} ({error})") from error


def usable(terms: Mapping[str, Term], features: Features) -> dict[str, Term]:
    """The terms without the optional ones whose features are missing."""
    there = {name for name in FEATURES if getattr(features, name) is not None}
    return {name: term for name, term in terms.items() if not term.optional or there.issuperset(term.features)}


def prepare(terms: Mapping[str, Term], features: Features, hand_model: HandModel) -> dict[str, Any]:
    """What the terms ask for by name: features as they are, prepared quantities found once, without gradients.

    Raises:
        ConfigError: when a term needs a feature that is missing.
    """
    for term in terms.values():
        for name in term.features:
            if getattr(features, name) is None:
                raise ConfigError(
                    f"loss {term.name!r} needs features.{name}, which is missing: extract it, "
                    f"or set losses.{term.name} to 0"
                )
    inputs: dict[str, Any] = {}
    with torch.no_grad():
        for name in dict.fromkeys(n for term in terms.values() for n in term.inputs):
            if name in PREPARED:
                find = PREPARED[name]
                wanted = [n for n in inspect.signature(find).parameters if n in FEATURES]
                given = {n: getattr(features, n) for n in wanted}
                inputs[name] = find(hand_model, **{n: value for n, value in given.items() if value is not None})
            else:
                inputs[name] = getattr(features, name)
    return inputs


@dataclass(frozen=True)
class Objective:
    """A weighted sum of losses, one number for each image."""

    terms: Mapping[str, Term]
    inputs: Mapping[str, Any]
    """From :func:`prepare`; may hold more than these terms need."""

    def evaluate(self, scene: Scene) -> dict[str, Float[Tensor, "B"]]:
        """Each term's *weighted* value; the objective is their sum."""
        return {
            name: term.weight * term.function(scene, **self._given(term), **term.options)
            for name, term in self.terms.items()
        }

    @torch.no_grad()
    def settle(self, scene: Scene) -> Objective:
        """The same objective with every ``sigma: auto`` replaced by the spread of the residuals at ``scene``
        (and ``repeats: auto`` by how many pixels tell the same there).

        A stage settles once at its start, so that what is minimised does not move while it is minimised
        (a sigma that follows the residuals would reward making them small in any way).
        """
        terms = {name: self._settled(term, scene) for name, term in self.terms.items()}
        return replace(self, terms=terms)

    def _settled(self, term: Term, scene: Scene) -> Term:
        options, given, found = options_of(term.function) | dict(term.options), self._given(term), {}
        for key, attribute in AUTOMATIC.items():
            find = getattr(term.function, attribute, None)
            if find is not None and options.get(key) == "auto":
                found[key] = find(scene, **given, **term.options)
        return replace(term, options={**term.options, **found}) if found else term

    def _given(self, term: Term) -> dict[str, Any]:
        return {name: self.inputs[name] for name in term.inputs}
