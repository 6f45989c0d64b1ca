"""Whether a dataset on disk is read the way it was meant: what is there, what is missing, what is not plausible.

A wrong unit, axis or order of joints gives numbers that look like any others; drawn on the photograph it is seen at
once. So a few samples of each recording are opened, measured (:mod:`horefine.data.look`) and handed on to be drawn.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from horefine.data import Dataset, Sample, Sequenced
from horefine.data.look import Look, look_at
from horefine.errors import ConfigError
from horefine.hand import HandModel

__all__ = ["Check", "check_dataset"]


@dataclass(frozen=True)
class Check:
    """What was found of a dataset."""

    dataset: str
    root: str
    samples: int
    facts: Mapping[str, Any]
    """What the dataset tells of itself."""
    sequences: Mapping[str, int]
    """Every recording and its number of samples."""
    looks: Mapping[str, tuple[Look, ...]]
    """Of the recordings that were looked at."""
    models: Mapping[str, str]
    """Of the objects that were met: sides in cm, faces, symmetries."""
    seconds: float

    @property
    def every(self) -> list[Look]:
        return [look for looks in self.looks.values() for look in looks]

    @property
    def unreadable(self) -> list[Look]:
        return [look for look in self.every if look.error is not None]

    @property
    def doubtful(self) -> list[Look]:
        return [look for look in self.every if look.doubts]

    @property
    def verdict(self) -> str:
        """One sentence."""
        count, bad, odd = len(self.every), len(self.unreadable), len(self.doubtful)
        if bad == count:
            return f"none of the {count} samples looked at can be read: {self.unreadable[0].error}"
        said = f"{count - bad} of {count} samples read"
        judged = [look for look in self.every if look.numbers]
        if not judged:
            return f"{said}; none has an annotation that could be judged"
        if not odd:
            return f"{said}; all {len(judged)} annotated ones are plausible: compare the outlines with the pictures"
        reason, times = Counter(re.sub(r"[-\d.]+", "#", d) for k in self.doubtful for d in k.doubts).most_common(1)[0]
        wrong = "a convention is read wrongly" if 2 * odd > len(judged) else "look at them"
        return f"{said}; {odd} of {len(judged)} annotated ones are implausible ({times} times: {reason}): {wrong}"

    @property
    def ok(self) -> bool:
        """Whether everything looked at can be read, and most of it is plausible."""
        return not self.unreadable and 2 * len(self.doubtful) <= max(1, len(self.every))

    def table(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        looks = {name: [asdict(look) for look in looks] for name, looks in self.looks.items()}
        return {
            "dataset": self.dataset, "root": self.root, "verdict": self.verdict, "ok": self.ok,
            "samples": self.samples, "facts": dict(self.facts), "counts": self.counts(),
            "sequences": dict(self.sequences), "models": dict(self.models), "looked_at": looks,
            "seconds": round(self.seconds, 2),
        }  # fmt: skip

    def text(self) -> str:
        """A short table for people."""
        counts = self.counts()
        rows = [("dataset", f"{self.dataset}, {self.samples} samples, {len(self.sequences)} recordings")]
        rows += [(key, _short(value)) for key, value in self.facts.items() if key not in ("dataset", "samples", "root")]
        rows += [(f"{part} (of {len(self.every)})", _short(counts[part])) for part in ("hands", "sides", "objects")]
        rows += [(f"model {name}", line) for name, line in list(self.models.items())[:8]]
        rows += [(f"note, {times} times", note) for note, times in list(counts["notes"].items())[:5]]
        rows += [(f"ERROR, {times} times", error) for error, times in list(counts["errors"].items())[:5]]
        rows += [("IMPLAUSIBLE", f"{look.name}: {'; '.join(look.doubts)}") for look in self.doubtful[:5]]
        width = min(28, max(len(key) for key, _ in rows))
        lines = [f"{key:{width}}  {value}" for key, value in rows if value]
        return "\n".join([*lines, f"{'verdict':{width}}  {self.verdict}"]) + "\n"

    def counts(self) -> dict[str, dict[str, int]]:
        """Of the samples looked at: sides, hands, objects, notes, errors and doubts, most frequent first."""
        read = [look for look in self.every if look.error is None]

        def count(values: Sequence[str]) -> dict[str, int]:
            return dict(Counter(values).most_common())

        return {
            "sides": count([k.side for k in read if k.hand != "none"]), "hands": count([k.hand for k in read]),
            "objects": count([k.object for k in read]),
            "notes": count([note for k in read for note in k.notes]),
            "errors": count([str(k.error) for k in self.unreadable]),
        }  # fmt: skip


def check_dataset(
    name: str, root: Path, dataset: Dataset, hand: HandModel, *, recordings: int = 12, each: int = 6,
    show: Callable[[str, Look, Sample | None], None] | None = None,
) -> Check:  # fmt: skip
    """Opens up to ``each`` samples of up to ``recordings`` recordings, evenly spread.

    Args:
        show: Called with recording, look and sample (None where it cannot be read).
    """
    began = time.perf_counter()
    sequenced = isinstance(dataset, Sequenced)
    sequences: Mapping[str, Sequence[int]] = dataset.sequences() if sequenced else {"all": range(len(dataset))}
    sequences = {key: rows for key, rows in sequences.items() if len(rows)}
    if not sequences:
        raise ConfigError(f"{root}: {name} has no samples there")
    looks: dict[str, tuple[Look, ...]] = {}
    models: dict[str, str] = {}
    for key in _spread(list(sequences), recordings):
        found = []
        for index in _spread(sequences[key], each):
            look, sample = look_at(dataset, index, hand)
            if sample is not None and sample.mesh is not None:
                models[sample.mesh.name[0]] = _model_line(sample)
            if show is not None:
                show(key, look, sample)
            found.append(look)
        looks[key] = tuple(found)
    facts = dataset.describe() if isinstance(dataset, Sequenced) else {}
    lengths = {key: len(rows) for key, rows in sequences.items()}
    seconds = time.perf_counter() - began
    return Check(name, str(root), len(dataset), facts, lengths, looks, models, seconds)


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    """``count`` of the values, evenly spread, the first and the last among them."""
    places = np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))
    return [values[int(place)] for place in places]


def _model_line(sample: Sample) -> str:
    assert sample.mesh is not None
    low, high = sample.mesh.box
    sides = " x ".join(f"{100 * side:.1f}" for side in (high - low)[0].tolist())
    count = 0 if sample.mesh.symmetries is None else sample.mesh.symmetries.shape[1] - 1
    faces = int(sample.mesh.counts[0, 1])
    return f"{sides} cm, {faces} faces" + (f", {count} symmetries" if count else "")


def _short(value: Any) -> str:
    """A fact in a line; nothing for what is empty."""
    if isinstance(value, Mapping):
        pairs = [f"{key} {inner}" for key, inner in value.items()]
        return ", ".join(pairs[:8]) + (f" and {len(pairs) - 8} more" if len(pairs) > 8 else "")
    if isinstance(value, (list, tuple)):
        return ", ".join(str(inner) for inner in value[:5]) + (f" and {len(value) - 5} more" if len(value) > 5 else "")
    return "" if value is None else str(value)
