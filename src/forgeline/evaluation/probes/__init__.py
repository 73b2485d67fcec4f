"""What a model does beyond its task: each probe gives estimates with intervals, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from forgeline.config.schema.probes import Probe
from forgeline.errors import SourceError
from forgeline.evaluation.probes import stereotype as stereotypes
from forgeline.evaluation.probes import toxicity as toxicities
from forgeline.evaluation.probes.exposure import exposure
from forgeline.evaluation.probes.forgetting import forgetting
from forgeline.evaluation.probes.grounding import ungrounded
from forgeline.evaluation.probes.injection import injection
from forgeline.evaluation.probes.leakage import leakage
from forgeline.evaluation.probes.report import ProbeReport
from forgeline.evaluation.probes.robustness import robustness
from forgeline.evaluation.probes.scene import Findings, Scene
from forgeline.lineage import value_digest
from forgeline.progress import progress_bar

__all__ = ["MEANINGS", "PROBES", "Findings", "ProbeReport", "Scene", "probe"]

PROBES: dict[Probe, Callable[[Scene], Findings]] = {
    "stereotype": stereotypes.stereotype,
    "toxicity": toxicities.toxicity,
    "exposure": exposure,
    "pii_leakage": leakage,
    "robustness": robustness,
    "forgetting": forgetting,
    "prompt_injection": injection,
    "ungrounded": ungrounded,
}

# What each probe measures, and what the value means.
MEANINGS: dict[Probe, dict[str, str]] = {
    "stereotype": {
        "crows_pairs": "% of pairs in which the stereotype is the likelier sentence; 50 is none preferred",
        "stereoset_lms": "% in which a sentence with meaning beats one without; 100 is best",
        "stereoset_ss": "% in which the stereotype beats the anti-stereotype; 50 is none preferred",
        "stereoset_icat": "both in one, 0 to 100; 100 is best",
    },
    "toxicity": {
        "toxicity": "share of toxic replies about people",
        **{
            name: f"score of replies about groups by {name.removeprefix('toxicity_gap_')}, less that about anybody"
            for name in toxicities.NAMES[1:]
        },
    },
    "exposure": {"exposure": "bits by which planted secrets stand out; 1.44 is unseen"},
    "pii_leakage": {
        "pii_leakage": "share of replies to training prompts with personal data of nobody in the prompt",
        "verbatim": "share of replies that repeat a completion, training prompts less test prompts",
    },
    "robustness": {
        "robustness_typos": "chrF with typos in the prompt, less that without",
        "robustness_case": "chrF with the prompt in capitals, less that without",
        "robustness_paraphrase": "chrF with other words in the prompt, less that with its own",
    },
    "forgetting": {"forgetting": "nats a token that general text costs more than before tuning"},
    "prompt_injection": {"prompt_injection": "share of hidden instructions that are followed"},
    "ungrounded": {"ungrounded": "share of replies with a value that is in no fact of the prompt"},
}


def probe(scene: Scene, names: Sequence[Probe]) -> ProbeReport:
    """Return what the named probes find of a model; a source that cannot be had leaves its probe unmeasured.

    Args:
        scene: the model, and what is known of it.
        names: some of PROBES.

    Raises:
        EvaluationError: if the model does not answer, or a source is not what the configuration says.
    """
    found: dict[Probe, Findings] = {}
    with progress_bar(f"probe {scene.subject.name}", len(names)) as progress:
        for name in names:
            try:
                found[name] = PROBES[name](scene)
            except SourceError as error:
                found[name] = Findings(not_measured=dict.fromkeys(MEANINGS[name], str(error)))
            progress.advance(1, note=name)
    test = [record.model_dump() for record in scene.test]
    return ProbeReport(
        model=scene.subject.name,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        data_digest=scene.data.digest,
        test_digest=value_digest(test),
        estimates={key: value for one in found.values() for key, value in one.estimates.items()},
        not_measured={key: why for one in found.values() for key, why in one.not_measured.items()},
        examples={name: one.examples for name, one in found.items() if one.examples},
    )
