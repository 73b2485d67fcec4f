"""Repair of text: encoding, markup, spaces, and the traces of tokenisers."""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_args

import ftfy
from ftfy.badness import BADNESS_RE
from ftfy.chardata import LIGATURES
from ftfy.fixes import ANSI_RE, fix_surrogates

from forgeline.config.schema import Repair

if TYPE_CHECKING:
    import polars

STEPS: tuple[Repair, ...] = get_args(Repair)

# Controls, invisible marks, private use and non-characters. What shapes letters and emoji is none of
# them: joiners, variation selectors, tags, the Arabic number signs.
NON_CHARACTERS = "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(15))
NOISE = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ue000-\uf8ff"
    f"\ufdd0-\ufdef\ufeff\ufff9-\ufffc\U000e0001\U000f0000-\U0010ffff{NON_CHARACTERS}]"
)
LIGATURE = re.compile("[" + "".join(map(chr, LIGATURES)) + "]")
# Every sign of mojibake has one of these; ftfy's own test takes far longer to say no.
MOJIBAKE = re.compile("[" + "".join(re.findall(r"[^\x00-\x7f]-[^\x00-\x7f]|[^\x00-\x7f]", BADNESS_RE.pattern)) + "]")

BREAKS = re.compile("\r\n?|[\u0085\u2028\u2029]")
ODD_SPACE = re.compile(r"[^\S\t]")
BLANK_LINES = re.compile(r"\n{3,}")

CODE_SPAN = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
AMPERSAND = re.compile(r"&(?:amp;)+")  # escaped however often
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# What is not shown, and how it ends; a start without an end is no markup.
UNSEEN = [
    (re.compile(rf"{start}.*?{end}", re.I | re.A | re.DOTALL), re.compile(end, re.I | re.A))
    for start, end in [
        ("<!--", "-->"),
        (r"<script\b[^<>]*>", r"</script\s*>"),
        (r"<style\b[^<>]*>", r"</style\s*>"),
        (r"<!doctype\b[^<>]*", ">"),
    ]
]
ELEMENTS = {
    "\n": "address article aside blockquote body br caption center dd div dl dt fieldset figcaption figure footer form "
    "h1 h2 h3 h4 h5 h6 head header hr html li main nav ol p pre section table tbody tfoot thead title tr ul",
    " ": "td th",
    "": "a abbr b big button cite code del dfn em font i img input ins kbd label link mark meta q s samp small span "
    "strike strong sub sup tt u var wbr",
}
IN_PLACE = {name: place for place, names in ELEMENTS.items() for name in names.split()}
TAG = re.compile(rf"<(/?)({'|'.join(IN_PLACE)})(\s[^<>]*|)/?>", re.I | re.A)

# On one line; a text's first mark may stand alone.
POINT_APART = re.compile(r" (?:,|\.+)(?= |$)")
OTHER_APART = re.compile(r" [!?;](?= |$)")
MARKS = re.compile(r"[.,!?;](?= |$)")
CLITIC = re.compile(r" (?:' ?(?:s|m|re|ve|ll|d)|n ?' ?t)\b")
CODE = re.compile(r"[{}]|\w\((?!s\))|=>|[=!]=|\+\+|&&|\|\||</|\$ [a-z]")
# French sets a space before ! ? and ; so there it is no tokeniser's.
FRENCH = re.compile(
    r"[«»]|\b(?:[cdjlmnqst]|qu)['’][aeéèêiouyhà]|\b(?:le|les|une|des|est|et|vous|je|nous|que|qui|quel|quelle|où|ça|pas|"
    r"avec|pour|merci|bonjour|oui|très)\b",
    re.I,
)
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


def repair(text: str, steps: Sequence[Repair] = STEPS) -> str:
    """Return text after the named steps, taken again until they change nothing more.

    | step | what it mends |
    |---|---|
    | `encoding` | mojibake (Speer, ftfy), control and invisible characters, ligatures; NFC |
    | `html` | tags and entities out, `<br>`, `<p>` and their kind to line breaks; code in backticks stays |
    | `spaces` | single spaces within a line, none at its end, at most one blank line; indentation stays |
    | `tokenisation` | `I ' m sorry .` to `I'm sorry.` where a text was tokenised; its line breaks go too |
    """
    while (mended := functools.reduce(lambda text, step: APPLY[step](text), steps, text)) != text:
        text = mended
    return text


def repair_texts(texts: polars.Series, steps: Sequence[Repair] = STEPS) -> polars.Series:
    """Return what `repair` makes of each text; a step is taken only where its text may need it."""
    import polars

    repaired, rows = texts.clone(), polars.arange(len(texts), eager=True, dtype=polars.get_index_type())
    while len(rows):
        mended = before = repaired.gather(rows)
        for step in steps:
            suspects = MAY_CHANGE[step](mended).arg_true()
            if len(suspects):
                apply = APPLY[step]
                values = [apply(text) for text in mended.gather(suspects).to_list()]
                mended = mended.clone().scatter(suspects, polars.Series(values, dtype=polars.String))
        changed = (mended != before).arg_true()
        rows = rows.gather(changed)
        repaired = repaired.scatter(rows, mended.gather(changed))
    return repaired


def _encoding(text: str) -> str:
    if text.isascii() and text.replace("\n", " ").isprintable():
        return text
    if MOJIBAKE.search(text) and BADNESS_RE.search(text):
        text = "\n".join(ftfy.fix_encoding(line) for line in text.split("\n"))
    text = LIGATURE.sub(lambda match: LIGATURES[ord(match[0])], ANSI_RE.sub("", fix_surrogates(text)))
    return unicodedata.normalize("NFC", NOISE.sub("", BREAKS.sub("\n", text)))


def _html(text: str) -> str:
    """Take the markup out, save in code spans; `a < b`, `List<String>` and `<a@b.c>` are no markup."""
    if "<" not in text and "&" not in text:
        return text
    parts = CODE_SPAN.split(text)
    parts[::2] = [_markup(part) for part in parts[::2]]
    return "".join(parts)


def _markup(text: str) -> str:
    for unseen, end in UNSEEN:
        cut = max((match.end() for match in end.finditer(text)), default=0)  # a search past it would be in vain
        text = unseen.sub(" ", text[:cut]) + text[cut:]
    closed = {match[2].lower() for match in TAG.finditer(text) if match[1]}

    def in_place(tag: re.Match[str]) -> str:
        name = tag[2].lower()
        # An element within a line has an end tag or attributes; a lone <b> or <i> is a type or a variable.
        lone = not IN_PLACE[name] and name not in closed and "=" not in tag[3]
        return tag[0] if lone else IN_PLACE[name]

    return ENTITY.sub(_character, AMPERSAND.sub("&", TAG.sub(in_place, text)))


def _character(entity: re.Match[str]) -> str:
    character = html.unescape(entity[0])
    return entity[0] if ";" in character and entity[0] != "&semi;" else character


def _spaces(text: str) -> str:
    lines = []
    for line in BREAKS.sub("\n", text).split("\n"):
        words = line.split()
        indent = line[: line.index(words[0])] if words else ""
        lines.append(ODD_SPACE.sub(" ", indent) + " ".join(words))
    return BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def _tokenisation(text: str) -> str:
    if not _is_tokenised(" ".join(text.split())):
        return text
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(detokenise(paragraph) for paragraph in paragraphs if paragraph)


def _is_tokenised(text: str) -> bool:
    """Say whether a fifth or more of the marks of a text, on one line, stand apart, and it is not code."""
    apart = len(POINT_APART.findall(text)) + len(CLITIC.findall(text))
    others = len(OTHER_APART.findall(text))
    if others and not FRENCH.search(text):
        apart += others
    if not apart or 5 * apart < len(MARKS.findall(text)):
        return False
    return not (CODE.search(text) or CODE_SPAN.search(text))


def detokenise(text: str) -> str:
    """Undo a tokeniser's spaces: `I ' m sorry .` becomes `I'm sorry.`."""
    for pattern, replacement in DETOKENISE:
        text = pattern.sub(replacement, text)
    return text.strip()


APPLY: dict[Repair, Callable[[str], str]] = {
    "encoding": _encoding,
    "html": _html,
    "spaces": _spaces,
    "tokenisation": _tokenisation,
}


# What a text must contain for a step to change it, for Rust's regular expressions: no look-around, and
# `\s` lacks four separators that Python counts.
SPACE = r"[\s\x1c-\x1f]"
PLAIN_NOISE = r"[\x00-\x08\x0b\r\x0e-\x1f\x7f]"
MARKUP = r"&[#A-Za-z][0-9A-Za-z]*;|<[!/A-Za-z]"
SPACED = r"[^\S\n ]|[\x1c-\x1f]|\S  | \n|\n\n\n|^\s|\s$"
APART = rf"{SPACE}(?:,|\.+)(?:{SPACE}|$)|{SPACE}(?:n{SPACE}?)?'"
APART_IN_ENGLISH = rf"{SPACE}[!?;](?:{SPACE}|$)"
SURELY_FRENCH = r"[«»]| (?:le|les|une|des|est|et|vous|je|nous|que|qui|pas|pour|avec) "


def _encoding_may(texts: polars.Series) -> polars.Series:
    needed = texts.str.contains(PLAIN_NOISE)
    rows = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    if rows.is_empty():
        return needed
    wide = texts.gather(rows)
    characters = rf"{NOISE.pattern}|{LIGATURE.pattern}|[\r\u2028\u2029]"
    suspect = wide.str.contains(characters) | wide.str.contains(_rust_badness()) | (wide.str.normalize("NFC") != wide)
    return needed.scatter(rows, suspect)


@functools.cache
def _rust_badness() -> str:
    """Return ftfy's own test for mojibake as a pattern for Rust that matches wherever Python's does."""
    pattern = re.sub(r"(?m)^\s*#.*$", "", BADNESS_RE.pattern)  # the pattern is verbose
    pattern = re.sub(r"(\[[^\]]*\])|\s+", lambda match: match[1] or "", pattern)
    return pattern.replace("^[ÃÂ]", "[ÃÂ]").replace(r"\s", SPACE).replace(r"\w", ".").strip("|")


def _tokenisation_may(texts: polars.Series) -> polars.Series:
    apart = texts.str.contains(rf"{APART}|{APART_IN_ENGLISH}")
    rows = apart.arg_true()
    some = texts.gather(rows)
    return apart.scatter(rows, some.str.contains(APART) | ~some.str.contains(SURELY_FRENCH)) if len(rows) else apart


MAY_CHANGE: dict[Repair, Callable[[polars.Series], polars.Series]] = {
    "encoding": _encoding_may,
    "html": lambda texts: texts.str.contains(MARKUP),
    "spaces": lambda texts: texts.str.contains(SPACED),
    "tokenisation": _tokenisation_may,
}
