"""What two texts must share to count as the same."""

from __future__ import annotations

import re
import unicodedata

from forgeline.records import Record


def normalise(text: str) -> str:
    """Return what two texts must share to count as the same: words and signs, whatever their case and spacing."""
    text = unicodedata.normalize("NFKC", text).casefold()
    bare = re.sub(r"[.,;:!?]+(?=\s|$)|[\"'\u2019]", "", text)
    return " ".join((bare if bare.strip() else text).split())


def normalise_prompt(record: Record) -> str:
    """Return what two records must share to have the same prompt: roles and normalised turns."""
    return "\n".join(f"{turn.role}: {normalise(turn.content)}" for turn in record.messages[:-1])
