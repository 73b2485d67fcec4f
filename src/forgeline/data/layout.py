"""Where the data line keeps its files, relative to the project's root."""

SOURCE = "data/source"  # the user's own files: the one local folder whose changes DVC watches
RAW = "data/raw"  # parts: <source>/<digest of file and settings>-<number>.parquet
KEPT = "data/clean/kept"  # parts, named like the raw parts they come from
QUARANTINE = "data/clean/quarantine"
REPORTS = "data/reports"
CARD = "data/reports/card.md"
PAGE = "data/reports/card.html"
NAMES = ("train", "validation", "test")
SPLITS = {name: f"data/splits/{name}.jsonl" for name in NAMES}
BENCHMARKS = "data/benchmarks"  # files that no training row may repeat
FROZEN = "data/frozen/test_keys.txt"  # keys that are test keys for good
TOMBSTONES = "data/erased/tombstones.jsonl"  # subjects whose rows are no longer fetched
DECISIONS = "data/review/decisions.jsonl"  # what people decided about single rows
CACHE = ".forgeline/data"  # what the line can make again
