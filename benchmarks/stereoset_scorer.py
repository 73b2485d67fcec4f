"""Our StereoSet scorer beside the published scores of published predictions, without a model.

Command: python benchmarks/stereoset_scorer.py GOLD PREDICTIONS… --published SCORES
GOLD is the authors' dev.json (or any file with its ids, targets and gold labels), PREDICTIONS their
code/predictions/predictions_*.json, SCORES their code/predictions.json (repository moinnadeem/StereoSet).
Exit code 1 if a score differs in the fourth decimal.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from forgeline.evaluation.probes.stereotype import Scores, by_target, composite

PUBLISHED = {"LM Score": 0, "SS Score": 1, "ICAT Score": 2}  # and our columns
KINDS = {"intrasentence": ["intrasentence"], "overall": ["intrasentence", "intersentence"]}


def scored(gold: dict[str, Any], predictions: dict[str, Any], kinds: list[str]) -> list[Scores]:
    """Return the predicted scores of each triple of some kinds."""
    score = {row["id"]: row["score"] for rows in predictions.values() for row in rows}
    triples = []
    for example in (example for kind in kinds for example in gold["data"][kind]):
        by_label = {sentence["gold_label"]: score[sentence["id"]] for sentence in example["sentences"]}
        triples.append(
            Scores(example["target"], *(by_label[k] for k in ("stereotype", "anti-stereotype", "unrelated")))
        )
    return triples


def main() -> int:
    """Print ours and the published scores; return 1 if they are not the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gold", type=Path)
    parser.add_argument("predictions", type=Path, nargs="+")
    parser.add_argument("--published", type=Path, required=True)
    given = parser.parse_args()
    gold, published = json.loads(given.gold.read_text()), json.loads(given.published.read_text())
    worst = 0.0
    for path in given.predictions:
        model = path.name.split("_")[1]
        for kind, kinds in KINDS.items():
            triples = scored(gold, json.loads(path.read_text()), kinds)
            ours = composite(by_target(triples).mean(axis=0)[None])[0]
            theirs = published[model][kind] if kind == "overall" else published[model][kind]["overall"]
            worst = max(worst, *(abs(ours[column] - theirs[name]) for name, column in PUBLISHED.items()))
            cells = "  ".join(f"{name[:-6]} {ours[at]:.4f} ({theirs[name]:.4f})" for name, at in PUBLISHED.items())
            print(f"{model:20} {kind:14} n={len(triples)}  {cells}")
    print(f"largest difference {worst:.1e}")
    return int(worst >= 5e-5)


if __name__ == "__main__":
    sys.exit(main())
