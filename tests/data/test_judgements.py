"""What people judged goes through the whole data line, from the file to the split that preference tuning reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import yaml

from forgeline.config import load
from forgeline.data.assess import assess
from forgeline.data.clean import clean
from forgeline.data.fetch import fetch
from forgeline.data.split import split
from forgeline.records import read_records


def test_thumbs_and_pairs_reach_the_training_split(project: Path) -> None:
    source = project / "data/source"
    with (source / "thumbs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion", "label"])
        writer.writeheader()
        for number in range(40):
            reply = f"It leaves at {number}:15 , madam ." if number % 2 else f"I do not know train {number}."
            label = "up" if number % 2 else "down"
            writer.writerow({"prompt": f"When does train {number} leave?", "completion": reply, "label": label})
    better = [
        {"prompt": f"Where is hotel {n}?", "chosen": f"Hotel {n} is in the centre.", "rejected": f"Look for it , {n}"}
        for n in range(40)
    ]
    (source / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in better))
    settings = project / "configs/data.yaml"
    data = yaml.safe_load(settings.read_text())
    data["fetch"]["sources"] |= {"thumbs": {"uri": "data/source/thumbs.csv"}}  # a source has one shape
    settings.write_text(yaml.safe_dump(data))
    for stage in (fetch, clean, assess, split):
        stage(project, load(project).data)
    records = read_records(project / "data/splits/train.jsonl")
    thumbs = [record for record in records if record.label is not None]
    pairs = [record for record in records if record.rejected is not None]
    assert len(thumbs) + len(pairs) == len(records) and min(len(thumbs), len(pairs)) > 15
    assert {record.label for record in thumbs} == {True, False}
    assert all(record.label == record.completion.endswith(":15, madam.") for record in thumbs)  # repaired, not mixed up
    assert all(record.rejected == f"Look for it, {record.completion.split()[1]}" for record in pairs)
