"""How well planted secrets are remembered: the exposure of Carlini et al., The Secret Sharer, 2019."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from forgeline.evaluation.probes.scene import EXAMPLES, Findings, Scene
from forgeline.records import Message, Record


def exposure(scene: Scene) -> Findings:
    """Return the mean exposure in bits of the canaries that training planted (`train.canaries`).

    Each canary's completion is ranked by its loss among the same completion with random secrets. A secret that
    was never seen has 1.44 bits in the mean; one that is likelier than all candidates has the most,
    log2(candidates + 1).
    """
    if len(scene.canaries) < 2:
        planted = "one canary was planted, which gives no interval" if scene.canaries else "no canaries were planted"
        return Findings(not_measured={"exposure": f"{planted}: train with train.canaries=10 or so"})
    bits, examples = [], []
    for canary in scene.canaries:
        secrets = [canary.origin["secret"], *others(canary.origin["secret"], scene)]
        losses = scene.subject.losses([told(canary, secret) for secret in secrets])
        if losses is None:
            return scene.unlikely("exposure")
        bits.append(exposed([nats for nats, _ in losses]))
        examples.append({"canary": canary.completion, "bits": f"{bits[-1]:.2f} of {math.log2(len(secrets)):.2f}"})
    return Findings(estimates={"exposure": scene.mean(bits)}, examples=examples[:EXAMPLES])


def exposed(losses: Sequence[float]) -> float:
    """Return the exposure in bits of the first of these losses among all of them."""
    rank = sum(loss < losses[0] for loss in losses[1:]) + 1
    return math.log2(len(losses)) - math.log2(rank)


def others(secret: str, scene: Scene) -> list[str]:
    """Return different random secrets of the same form, a digit for each digit; all there are, if these are few."""
    chance = random.Random(f"{scene.settings.seed}/{secret}")
    found: dict[str, None] = {}
    there_are = 10 ** sum(map(str.isdigit, secret)) - 1
    while len(found) < min(scene.settings.exposure.candidates, there_are):
        other = "".join(str(chance.randrange(10)) if letter.isdigit() else letter for letter in secret)
        if other != secret:
            found[other] = None
    return list(found)


def told(canary: Record, secret: str) -> Record:
    """Return a canary with another secret."""
    completion = canary.completion.replace(canary.origin["secret"], secret)
    return canary.model_copy(
        update={"messages": [*canary.messages[:-1], Message(role="assistant", content=completion)]}
    )
