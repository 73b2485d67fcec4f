"""datatrove's chain, in datatrove's environment: python datatrove_chain.py CORPUS FOLDER default|tuned.

The local executor with one task and one worker: reader, ftfy, spaces, Gopher's quality and repetition
filters, PII, exact and MinHash deduplication, writer; what each step drops is written too, as Forgeline's
quarantine is. `default` is MinHash as shipped (word 5-grams, 14 × 8); `tuned` catches pairs with a tenth
of their words edited (word 2-grams, 20 × 5).
"""

from __future__ import annotations

import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from datatrove.pipeline.formatters.base import BaseFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.text import TextNormConfig, simplify_text

MINHASH = {
    "default": MinhashConfig(),
    "tuned": MinhashConfig(n_grams=2, num_buckets=20, hashes_per_bucket=5),
}
# Gopher's bounds are for web pages: 50 words, and marks count as words without a letter.
QUALITY = {"min_doc_words": 15, "max_non_alpha_words_ratio": 0.6}
WORDS = TextNormConfig(norm_numbers=False)


class SpaceFormatter(BaseFormatter):
    """Single spaces; datatrove has no step for it."""

    name = "spaces"

    def format(self, text: str) -> str:
        """Return the text with every run of spaces as one."""
        return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def normalised(document) -> str:
    """Return what two documents share that say the same: words without case, accents, punctuation and spaces."""
    return simplify_text(document.text, WORDS)


def main(corpus: Path, folder: Path, config: MinhashConfig) -> None:
    """Run the chain; what is kept lies in FOLDER/kept, what was dropped in FOLDER/dropped/<step>."""

    def run(tasks: int, *pipeline: PipelineStep) -> None:
        run.number += 1
        logs = str(folder / "logs" / str(run.number))
        LocalPipelineExecutor(list(pipeline), tasks=tasks, workers=1, logging_dir=logs).run()

    def writer(name: str) -> JsonlWriter:
        return JsonlWriter(str(folder / name), output_filename="${rank}.jsonl", compression=None)

    def reader(name: str) -> JsonlReader:
        return JsonlReader(str(folder / name), doc_progress=False)

    run.number = 0
    exact = ExactDedupConfig(content_getter=normalised)
    work = {name: str(folder / "work" / name) for name in ("signatures", "found", "hashes", "buckets", "clusters")}
    run(
        1,
        JsonlReader(str(corpus.parent), glob_pattern=corpus.name),
        FTFYFormatter(fix_character_width=True, uncurl_quotes=True, normalization="NFC"),
        SpaceFormatter(),
        GopherRepetitionFilter(exclusion_writer=writer("dropped/filter/repetition")),
        GopherQualityFilter(**QUALITY, exclusion_writer=writer("dropped/filter/quality")),
        PIIFormatter(),
        writer("clean"),
    )
    run(1, reader("clean"), ExactDedupSignature(work["signatures"], exact))
    run(1, ExactFindDedups(work["signatures"], work["found"], exact))
    run(
        1,
        reader("clean"),
        ExactDedupFilter(work["found"], exact, exclusion_writer=writer("dropped/exact")),
        writer("unique"),
    )
    run(1, reader("unique"), MinhashDedupSignature(work["hashes"], config))
    run(config.num_buckets, MinhashDedupBuckets(work["hashes"], work["buckets"], config=config))
    run(1, MinhashDedupCluster(work["buckets"], work["clusters"], config))
    run(
        1,
        reader("unique"),
        MinhashDedupFilter(work["clusters"], exclusion_writer=writer("dropped/near")),
        writer("kept"),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), MINHASH[sys.argv[3]])
