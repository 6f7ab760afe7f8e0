"""The files in analysis/seeds/data in; claims, model shapes, hardware figures and what the texts themselves report out."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.seeds.claims import Claim, half_unit
from analysis.seeds.formulas import link_bytes_per_s
from analysis.stats.bounds import Bounded, within
from pdslurm.plan.model import ModelShape, shape_of

FOLDER = Path(__file__).parent / "data"
Row = Mapping[str, str]


@dataclass(frozen=True)
class Data:
    """Inputs of the recomputation. Table rows keep their text, whose digits say how well a number is known."""

    claims: tuple[Claim, ...]
    models: Mapping[str, ModelShape]
    hardware: Mapping[tuple[str, str], float]
    pcie_ab: tuple[Row, ...]
    lab_serving: tuple[Row, ...]
    silver_bullet: tuple[Row, ...]

    def link(self, name: str) -> float:
        """Peak of one direction, B/s."""
        coding = self.hardware.get((name, "coding"), 1.0)
        return link_bytes_per_s(int(self.hardware[name, "lanes"]), self.hardware[name, "gigabit_per_s"], coding=coding)

    def link_in_use(self, name: str) -> float:
        """What is reached of it, B/s; the peak where no figure is known."""
        return self.link(name) * self.hardware.get((name, "in_use"), 1.0)

    def digitised(self, arm: str, input_len: int, output_len: int, column: str) -> Bounded | None:
        """A value read off the figures with its error of reading; None where it was not read."""
        error = column.replace("_ms", "_err") if column.endswith("_ms") else f"{column}_err"
        for row in self.silver_bullet:
            if (row["config"], row["input_len"], row["output_len"]) == (arm, str(input_len), str(output_len)) and row[column]:
                return within(float(row[column]), float(row[error]))
        return None


def load(folder: Path = FOLDER) -> Data:
    """Everything in `folder`. Raises KeyError or ValueError where a file is not as it should be."""
    architectures = json.loads((folder / "architectures.json").read_text())
    return Data(
        claims=tuple(map(_claim, rows(folder / "seed_claims.csv"))),
        models={name: shape_of(config) for name, config in architectures.items()},
        hardware={(row["item"], row["quantity"]): float(row["value"]) for row in rows(folder / "hardware.csv")},
        pcie_ab=tuple(rows(folder / "pcie_ab.csv")),
        lab_serving=tuple(rows(folder / "lab_serving.csv")),
        silver_bullet=tuple(rows(folder / "silver_bullet.csv")),
    )


def rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV file whose comments begin with #."""
    with path.open(newline="") as file:
        yield from csv.DictReader(line for line in file if not line.startswith("#"))


def as_written(text: str) -> Bounded:
    """A number from a table: known within half a unit of its last digit; of a whole number, two digits count at least."""
    return within(float(text), half_unit(text))


def _claim(row: Row) -> Claim:
    return Claim(
        id=row["id"],
        source=row["source"],
        claim=row["claim"],
        claimed=row["claimed"],
        unit=row["unit"],
        about=row["about"] == "yes",
        formula=row["formula"],
        inputs=dict(part.split("=", 1) for part in row["inputs"].split()),
        remark=row["remark"],
    )
