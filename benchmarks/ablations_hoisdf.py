"""HOISDF's tables 7, 8 and 9 with our network: which points are chosen, how they are weighed, what fields exchange.

    python -m benchmarks.ablations_hoisdf --rows no_cross,cross_image --data FOLDER --out runs/ablations
    python -m benchmarks.ablations_hoisdf --smoke                # every row for a few steps, on a few scenes

``configs/ablations_hoisdf.yaml`` says what the rows are. Each is trained with the recipe it names into ``OUT/ROW`` (and
goes on where it was stopped), measured on the held-out scenes, and printed beside the paper's numbers, which are
DexYCB's: only the order of rows can be compared. Results go to ``results/ablations_hoisdf.*``, those of ``--smoke``
nowhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks._common import ROOT, markdown_table, write_result
from horefine.errors import ConfigError, suggestion

CONFIG = ROOT / "configs" / "ablations_hoisdf.yaml"
PAPER = ("MJE", "PA_MJE", "OCE", "MCE", "ADD_S")
OURS = {"MJE": "hand_mje_mm", "PA_MJE": "hand_pa_mje_mm", "OCE": "object_oce_mm", "ADD_S": "object_add_s_mm"}
"""Columns to the names in a network's validation."""


@dataclass(frozen=True)
class Row:
    """One row of the paper's tables."""

    tables: tuple[int, ...]
    network: dict[str, Any]
    """What differs from the recipe's network."""
    paper: dict[str, float]
    """The paper's numbers, mm."""

    @property
    def overrides(self) -> list[str]:
        """As ``horefine train RECIPE --set`` takes them."""
        return [f"network.{key}={value}" for key, value in self.network.items()]


def read_rows(path: Path = CONFIG) -> tuple[str, dict[str, Row]]:
    """The recipe that all rows share, and the rows by name."""
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = {
        name: Row(tuple(row["tables"]), row["network"], dict(zip(PAPER, row["paper"], strict=True)))
        for name, row in table["rows"].items()
    }
    return table["recipe"], rows


def chosen_rows(names: str | None, known: Mapping[str, Row]) -> list[str]:
    """Of ``a,b``; all where nothing is named.

    Raises:
        ConfigError: a row that there is not.
    """
    wanted = names.split(",") if names else list(known)
    for name in wanted:
        if name not in known:
            raise ConfigError(f"rows: {name!r}: there is none{suggestion(name, known)}")
    return wanted


def train_rows(
    names: Sequence[str], data: str, out: Path, smoke: bool = False, overrides: Sequence[str] = ()
) -> list[dict[str, object]]:
    """Trains and measures rows; returns the table. ``synthetic`` data is made once, in the first row's folder."""
    from horefine.train import load_train_config, train

    recipe, rows = read_rows()
    table = []
    for name in names:
        config = load_train_config(recipe, [*overrides, *rows[name].overrides])
        print(f"{name}: horefine train {recipe} " + " ".join(f"--set {o}" for o in rows[name].overrides), flush=True)
        train(config, data=data, out=out / name, smoke=smoke)
        data = str(out / name / "data") if data == "synthetic" else data
        found = json.loads((out / name / "validation.json").read_text(encoding="utf-8"))
        ours: dict[str, object] = {f"{column}_mm": found[key] for column, key in OURS.items()}
        paper = {f"{column}_paper": value for column, value in rows[name].paper.items()}
        tables = " ".join(map(str, rows[name].tables))
        table.append({"row": name, "tables": tables, **ours, "images": found["images"], **paper})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="names, commas between; all when left out")
    parser.add_argument("--data", default="synthetic", help="folder of training shards; made when left out")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    parser.add_argument("--smoke", action="store_true", help="a few steps on few scenes")
    options = parser.parse_args()
    names = chosen_rows(options.rows, read_rows()[1])
    table = train_rows(names, options.data, options.out, options.smoke, options.set)
    if options.smoke:
        print(markdown_table(table))
    else:
        notes = ["paper: DexYCB, official network. Ours: compact network, held-out synthetic scenes, equal training"]
        write_result("ablations_hoisdf", rows=table, notes=notes)


if __name__ == "__main__":
    main()
