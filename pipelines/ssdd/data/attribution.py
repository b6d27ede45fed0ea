"""Authors and licences of the embedded sample's photographs."""

import csv
from collections.abc import Container
from pathlib import Path

FOLDER = Path(__file__).parent / "photographs"
TABLES = ("SCIKIT-IMAGE.csv", "ATTRIBUTION.csv")  # the first as scikit-image's docstrings state it


def photograph_credits(names: Container[str]) -> list[dict[str, str]]:
    """Returns file, split, author, licence and source of those photographs that are named."""
    rows = []
    for table in TABLES:
        with open(FOLDER / table, newline="", encoding="utf-8") as file:
            rows += [row for row in csv.DictReader(file) if row["file"] in names]
    return sorted(rows, key=lambda row: row["split"])
