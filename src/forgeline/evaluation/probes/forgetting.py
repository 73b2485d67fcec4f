"""What tuning cost the model of its general language."""

from __future__ import annotations

from forgeline.errors import EvaluationError
from forgeline.evaluation.probes.scene import EXAMPLES, Findings, Scene
from forgeline.records import read_jsonl
from forgeline.sources import resolve


def forgetting(scene: Scene) -> Findings:
    """Return how many more nats a token of general text costs the model than what it was tuned from.

    The exponential of it is the ratio of their perplexities. Paired bootstrap over texts.

    Raises:
        EvaluationError: if the texts lack the field.
    """
    settings = scene.settings.forgetting
    if scene.base is None:
        return Findings(not_measured={"forgetting": f"it is not known what {scene.subject.name} was tuned from"})
    path = resolve(settings.source, scene.root)[0]
    rows = list(read_jsonl(path))
    if not all(isinstance(row.get(settings.field), str) for row in rows):
        raise EvaluationError(f"{path} (probes.forgetting): not every row has a text in {settings.field!r}.")
    texts = scene.sample([row[settings.field] for row in rows if row[settings.field].strip()], settings.sample)
    mine = scene.subject.text_losses(texts, settings.max_tokens)
    if mine is None:
        return scene.unlikely("forgetting")
    base = scene.base()
    before = base.text_losses(texts, settings.max_tokens)
    if before is None or base.vocabulary != scene.subject.vocabulary:
        why = f"{scene.subject.name} and {base.name} cut text into different tokens"
        return Findings(not_measured={"forgetting": why})
    nats = [now - then for (now, _), (then, _) in zip(mine, before, strict=True)]
    tokens = [float(count) for _, count in mine]
    worst = sorted(range(len(texts)), key=lambda place: -nats[place] / tokens[place])[:EXAMPLES]
    return Findings(
        estimates={"forgetting": scene.ratio(nats, tokens)},
        examples=[
            {"text": texts[place][:200], "nats more a token": f"{nats[place] / tokens[place]:.3f}"} for place in worst
        ],
    )
