"""Where the data line keeps its files, relative to the project's root."""

SOURCE = "data/source"  # the user's own files: the one local folder whose changes DVC watches
RAW = "data/raw/records.jsonl"
CLEAN = "data/clean/records.jsonl"
QUARANTINE = "data/clean/quarantine.jsonl"
REPORTS = "data/reports"
CARD = "data/reports/card.md"
NAMES = ("train", "validation", "test")
SPLITS = {name: f"data/splits/{name}.jsonl" for name in NAMES}
