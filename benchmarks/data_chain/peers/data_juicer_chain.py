"""data-juicer's chain, in data-juicer's environment: python data_juicer_chain.py CORPUS FOLDER default|tuned.

A recipe of its own operators, run by its own executor's parts with one process, operators fused and the
resource monitor off: ftfy, spaces, PII, filters, exact and MinHash deduplication, export. `default` is
MinHash as shipped (word 5-grams, similarity 0.7); `tuned` catches pairs with a tenth of their words edited
(word 2-grams, 20 × 5).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from data_juicer.config import init_configs
from data_juicer.core import DefaultExecutor
from data_juicer.ops.load import load_ops
from data_juicer.ops.op_fusion import fuse_operators

MINHASH: dict[str, dict[str, Any]] = {
    "default": {},
    "tuned": {"window_size": 2, "num_permutations": 100, "num_bands": 20, "num_rows_per_band": 5},
}
STOPWORDS = ["the", "be", "to", "of", "and", "that", "have", "with"]  # Gopher's
OFF = ("paths", "secrets", "ids", "channel_ids", "platform_open_ids", "pem", "jwt", "ips", "macs")


def recipe(minhash: dict[str, Any], words: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the operators of each part of the chain."""
    return {
        "filter": [
            {"fix_unicode_mapper": {"normalization": "NFC"}},
            {"whitespace_normalization_mapper": {}},
            {"clean_ip_mapper": {"repl": "[IP]"}},
            {"pii_redaction_mapper": {f"mask_{name}": False for name in OFF}},
            {"text_length_filter": {"min_len": 100, "max_len": 20_000}},
            {"special_characters_filter": {"max_ratio": 0.4}},  # spaces and digits count
            {"character_repetition_filter": {"rep_len": 10, "max_ratio": 0.3}},
            {"word_repetition_filter": {"rep_len": 5, "max_ratio": 0.3}},
            {"stopwords_filter": {"min_ratio": 0.02, "stopwords_dir": str(words)}},
        ],
        "exact": [{"document_deduplicator": {"lowercase": True, "ignore_non_character": True}}],
        "near": [{"document_minhash_deduplicator": minhash}],
    }


def main(corpus: Path, folder: Path, minhash: dict[str, Any]) -> None:
    """Run the chain; kept rows lie in FOLDER/kept, the ids that each part dropped in FOLDER/dropped/<part>."""
    words = folder / "words"
    words.mkdir(parents=True)
    (words / "stopwords.json").write_text(json.dumps({"en": STOPWORDS}))
    parts = recipe(minhash, words)
    config = {
        "dataset_path": str(corpus),
        "export_path": str(folder / "kept" / "kept.jsonl"),
        "work_dir": str(folder / "work"),
        "ds_cache_dir": str(folder / "cache"),
        "np": 1,
        "open_monitor": False,
        "auto_op_parallelism": False,
        "op_fusion": True,
        "process": [operator for operators in parts.values() for operator in operators],
    }
    (folder / "recipe.json").write_text(json.dumps(config))
    executor = DefaultExecutor(init_configs(["--config", str(folder / "recipe.json")]))
    dataset = executor.dataset_builder.load_dataset()
    here = list(dataset["id"])
    given = iter(executor.cfg.process)
    for part, operators in parts.items():
        chosen = load_ops([next(given) for _ in operators])
        dataset = dataset.process(fuse_operators(chosen), open_monitor=False)
        left = list(dataset["id"])
        path = folder / "dropped" / part / "ids.jsonl"
        path.parent.mkdir(parents=True)
        gone = set(here) - set(left)
        path.write_text("".join(json.dumps({"id": name}) + "\n" for name in here if name in gone))
        here = left
    executor.exporter.export(dataset)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), MINHASH[sys.argv[3]])
