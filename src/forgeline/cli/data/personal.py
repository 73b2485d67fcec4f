"""`forgeline data pii`: how well personal data are found."""

from __future__ import annotations

from typing import Any

from forgeline.cli.options import Json


def pii(as_json: Json = False) -> None:
    """Measure recall and precision of the recognisers on planted personal data, for the configured kinds."""
    from forgeline.cli.output import emit, table
    from forgeline.config import load
    from forgeline.data.pii.measure import measure

    measured = measure(load().data.clean.pii)
    if as_json:
        emit(measured)
        return
    rows = [
        (kind, one["planted"], *_share(one, "recall"), one["finds"], *_share(one, "precision"))
        for kind, one in {**measured["kinds"], "all": measured["overall"]}.items()
    ]
    sentences = measured["sentences"]
    title = f"personal data planted in {sentences['with']:,} sentences, {sentences['without']:,} without any"
    table(title, ("kind", "planted", "recall", "95 %", "found", "precision", "95 %"), rows)
    for kind, regions in measured["not_covered"].items():
        print(f"{kind}: no forms known for {', '.join(regions)}")


def _share(scores: dict[str, Any], name: str) -> tuple[str, str]:
    """Return a share and its interval, as printed."""
    if scores[name] is None:
        return "-", "-"
    low, high = scores[f"{name}_interval"]
    return f"{scores[name]:.4f}", f"{low:.4f}-{high:.4f}"
