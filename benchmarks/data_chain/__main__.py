"""The data line beside datatrove and data-juicer, in one run.

Command: python -m benchmarks.data_chain
Each chain reads the same corpus with planted truth and does the same: repair of encoding and spaces,
filters by length, symbols, repetition and function words, masking of personal data, removal of exact,
normalised and near-duplicates, a record of what was dropped. Each runs on one core, in processes of its
own. The rate is bytes by core-seconds (user and system, children included) above what the same chain
takes for 100 rows: importing and compiling, which a longer corpus would hide. The peers' environments
are made below .forgeline/bench on the first run (data-juicer's takes 5 GB).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.data_chain import chains, corpus
from benchmarks.data_chain.scoring import Figures, score

COLUMNS = {
    "exact R": "exact_recall",
    "norm R": "normalised_recall",
    "ex/no P": "exact_precision",
    "near R": "near_recall",
    "near P": "near_precision",
    "garb R": "garbage_recall",
    "garb P": "garbage_precision",
    "PII R": "pii_recall",
    "PII P": "pii_precision",
    "mail R": "pii_email_recall",
    "IP R": "pii_ip_recall",
}


def main() -> None:
    """Make the corpora, run every chain on them in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000, help="rows of the corpus, of about 490 bytes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--only", nargs="*", help="chains to run, by the beginning of their names")
    parser.add_argument("--datatrove", type=Path, metavar="PYTHON", help="an environment that has it already")
    parser.add_argument("--data-juicer", type=Path, metavar="PYTHON", help="an environment that has it already")
    parser.add_argument("--json", type=Path, help="where to write every figure")
    arguments = parser.parse_args()
    pythons = {"datatrove": arguments.datatrove, "data-juicer": arguments.data_juicer}

    wanted = [name for name in ("forgeline", *pythons) if not arguments.only or name.startswith(tuple(arguments.only))]
    run = [chains.forgeline()] if "forgeline" in wanted else []
    for name in pythons.keys() & set(wanted):
        python = pythons[name] or chains.environment(name)
        run += [chains.peer(name, python.absolute(), minhash) for minhash in ("default", "tuned")]
    run.sort(key=lambda chain: chain.name != "forgeline")

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        whole, truth, few = work / "corpus.jsonl", work / "truth.jsonl", work / "few.jsonl"
        size = corpus.write(whole, arguments.rows, arguments.seed, truth) / 1e6
        corpus.write(few, 100, arguments.seed)
        print(f"corpus: {arguments.rows:,} rows, {size:.1f} MB, seed {arguments.seed}")
        results: dict[str, list[Figures]] = {chain.name: [] for chain in run}
        for number in range(arguments.rounds):
            for chain in run:
                place = work / f"{chain.name.replace(' ', '-')}-{number}"
                start = chain.run(few, place / "few")
                cost = chain.run(whole, place / "whole")
                figures = score(whole, truth, chain.outcome(place / "whole"))
                rates = {"rate": size / (cost.core - start.core), "gross": size / cost.core, "start": start.core}
                results[chain.name].append({**rates, "wall": cost.wall, "peak": cost.peak / 1e9, **figures})
                print(
                    f"round {number + 1}: {chain.name}: {cost.core:.1f} core-seconds, {start.core:.1f} for 100 rows",
                    flush=True,
                )
    medians = {
        name: {figure: statistics.median(one[figure] for one in rounds) for figure in rounds[0]}
        for name, rounds in results.items()
    }
    report(medians)
    if arguments.json:
        arguments.json.write_text(json.dumps({"megabytes": size, "seed": arguments.seed, "chains": medians}, indent=2))


def report(medians: dict[str, Figures]) -> None:
    """Print the medians: rates first, then recall (R) and precision (P) by what was planted."""
    ours = medians.get("forgeline", {}).get("rate")
    print(f"\n{'':<20}{'MB/core-s':>10}{'ours is':>9}{'with start':>11}{'peak GB':>9}")
    for name, figures in medians.items():
        ratio = f"{ours / figures['rate']:.1f}×" if ours and name != "forgeline" else ""
        print(f"{name:<20}{figures['rate']:>10.2f}{ratio:>9}{figures['gross']:>11.2f}{figures['peak']:>9.2f}")
    print(f"\n{'':<20}" + "".join(f"{column:>8}" for column in COLUMNS))
    for name, figures in medians.items():
        print(f"{name:<20}" + "".join(f"{figures[key]:>8.3f}" for key in COLUMNS.values()))


if __name__ == "__main__":
    main()
