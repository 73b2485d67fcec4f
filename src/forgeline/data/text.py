"""Repair of text: encoding, control characters, spaces, and the traces of tokenisers."""

from __future__ import annotations

import functools
import re
import unicodedata

import ftfy

from forgeline.records import Record

TOKENISED = re.compile(
    r"\S (?:[.,!?;]|\.{2,})(?=\s|$)|\w ' ?(?:s|m|re|ve|ll|d)\b|\w n ?' ?t\b|\( \S.* \)|(?<!\S)' [^']*\S '(?!\w)"
)
UNUSUAL = re.compile(r"[^\x20-\x7e\n]")
SPACES = re.compile(r"[^\S\n]+")
JOINERS = "\u200c\u200d"  # they shape letters and emoji; other format characters are noise
DETOKENISE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"(\w) ' ?(s|m|re|ve|ll|d)\b", r"\1'\2"),
        (r"(\w) n ?' ?t\b", r"\1n't"),
        (r"([(\[]) ", r"\1"),
        (r" ([)\]])", r"\1"),
        (r'(?<!\S)" ([^"]*\S) "(?!\w)', r'"\1"'),
        (r"(?<!\S)' ([^']*\S) '(?!\w)", r"'\1'"),
        (r"(\w) / (\w)", r"\1/\2"),
        (r"([$£€]) (\d)", r"\1\2"),
        (r"(\d) (%)", r"\1\2"),
        (r"(?i)\b(good|wi|check|pick|drop|must|e) - (bye|fi|in|up|off|see|mail)\b", r"\1-\2"),
        (r" +([.,!?;:]+)(?=\s|$|[)\"'])", r"\1"),
        (r",(?=[.!?])|(?<!\.)\.(?=\.(?!\.))", ""),
    ]
]


@functools.lru_cache(maxsize=4096)  # system turns repeat on every row
def repair(text: str) -> str:
    """Return text in NFC with mended encoding, no control characters, and single spaces.

    Line breaks stay, unless the text comes from a tokeniser: there they are noise, like the
    spaces before its punctuation, and both go. Repairing twice changes nothing more.
    """
    if not text.isascii() or "&" in text:
        text = ftfy.fix_text(text, normalization="NFC")
    text = UNUSUAL.sub(lambda match: _printable(match[0]), text)
    lines = [SPACES.sub(" ", line).strip() for line in text.split("\n")]
    joined = " ".join(line for line in lines if line)
    if TOKENISED.search(joined):
        return detokenise(joined)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def detokenise(text: str) -> str:
    """Undo a tokeniser's spaces: `I ' m sorry .` becomes `I'm sorry.`."""
    for pattern, replacement in DETOKENISE:
        text = pattern.sub(replacement, text)
    return text.strip()


def normalise(text: str) -> str:
    """Return what two texts must share to count as the same: words and signs, whatever their case and spacing."""
    text = unicodedata.normalize("NFKC", text).casefold()
    bare = re.sub(r"[.,;:!?]+(?=\s|$)|[\"'\u2019]", "", text)
    return " ".join((bare if bare.strip() else text).split())


def normalise_prompt(record: Record) -> str:
    """Return what two records must share to have the same prompt: roles and normalised turns."""
    return "\n".join(f"{turn.role}: {normalise(turn.content)}" for turn in record.messages[:-1])


def _printable(character: str) -> str:
    category = unicodedata.category(character)
    if category in {"Zs", "Zl", "Zp"} or character in "\t\r\v\f":
        return " "
    return "" if category in {"Cc", "Cf", "Cs", "Co", "Cn"} and character not in JOINERS else character
