"""What the benchmarks share: the interval, the table and the files."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _common


def test_median_interval_covers_the_median_it_should() -> None:
    """A 95 % interval of 40 normal draws holds the true median in about 95 % of 200 repetitions."""
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, middle, high = _common.median_interval(random.normal(3.0, 1.0, 40), rounds=400)
        assert low <= middle <= high
        hits += low <= 3.0 <= high
    assert 0.9 < hits / 200 < 0.99
    assert _common.median_interval([1.0, float("nan"), 3.0, 2.0])[1] == 2.0
    assert np.isnan(_common.median_interval([float("nan")])).all()


def test_table_has_a_dash_for_what_is_missing() -> None:
    table = _common.markdown_table([{"a": "x", "n": 3.14159}, {"a": "y"}]).splitlines()
    assert [line.replace(" ", "") for line in table] == ["|a|n|", "|---|------:|", "|x|3.142|", "|y|-|"]


def test_result_files_say_how_they_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_common, "RESULTS", tmp_path)
    monkeypatch.setattr(_common.sys, "argv", [str(_common.ROOT / "benchmarks" / "refine.py"), "--scenes", "3"])
    path = _common.write_result("demo", {"raw": np.arange(2)}, rows=[{"a": 1}], notes=["three scenes"])
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["command"] == "python -m benchmarks.refine --scenes 3"
    assert stored["raw"] == [0, 1] and stored["rows"] == [{"a": 1}]
    assert "three scenes" in path.with_suffix(".md").read_text(encoding="utf-8")
    with pytest.raises(TypeError, match="object does not belong"):
        _common.write_result("bad", {"raw": object()})
