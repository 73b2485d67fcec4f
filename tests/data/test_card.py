"""The card says what the reports and the rows say, shows nothing as markup, and repeats byte for byte."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow
import pytest

from forgeline.config.schema import Data
from forgeline.data import table
from forgeline.data.card import write_card
from forgeline.data.card.distributions import distributions
from forgeline.data.layout import CARD, DECISIONS, KEPT, PAGE, QUARANTINE, REPORTS, SPLITS
from forgeline.errors import DataError
from forgeline.lineage import file_digest

SCRIPT = "<script>alert('x')</script> | `tick` **bold** [link](x)"
CONFIG = {
    "fetch": {"sources": {"letters": {"uri": "postgresql://ann:secret@host/db", "query": "select", "license": "CC0"}}},
    "clean": {
        "rules": {
            "too_short": {"measure": "chars", "min": 5},
            "foreign": {"measure": "language", "languages": ["en"], "min": 0.5, "dry_run": True},
        },
        "pii": {"kinds": ["ip"]},
    },
    "workers": 1,
    "assess": {"groups": {"gender": {"female": ["she"], "male": ["he"]}}, "associations": {}},
}
SHARED = {
    "records": 4,
    "leaks": 1,
    "key": 0,
    "prompt": 1,
    "conversation": 0,
    "near_duplicate": 2,
    "reply": 3,
    "ngrams": {"share": 0.25, "finding": "25.0% of the 4 records share a run of 13 words."},
}
INTERVAL = {"low": 0.1, "high": 0.3}
REPORTED = {
    "fetch": {
        "rows": 10,
        "malformed": 1,
        "erased": 2,
        "sources": {
            "letters": {
                "rows": 10,
                "malformed": 1,
                "erased": 2,
                "files": 1,
                "format": ["sql"],
                "shape": "prompt_completion",
                "license": "CC0",
                "weight": None,
            }
        },
    },
    "clean": {
        "rows": {"in": 10, "kept": 6, "quarantined": 3, "merged": 1},
        "reasons": {"too_short": 2, "malformed": 1},
        "duplicates": {"exact": 1, "normalised": 0, "near": 0},
        "dry": {"foreign": 1},
        "prompts": 6,
        "masked": {"ip": 1234},
        "unmasked_pii": 0,
    },
    "bias": {
        "replies": 6,
        "confidence": 0.95,
        "gates": {"tone_gap": 0.25},
        "representation": [{"category": "gender", "group": SCRIPT, "share": 0.2, **INTERVAL}],
        "association": [
            {"group": "female", "n": 40, "example": "great", "difference": 0.2, "verdict": "more", **INTERVAL},
            {"group": "male", "n": 0, "example": "great", "difference": None, "verdict": "nothing to compare"},
        ],
        "words": [{"group": "female", "n": 40, "word": "lovely", "log_odds": 0.2, **INTERVAL}],
        "counterfactual": [
            {"group": "female", "n": 3, "scorer": "toxicity", "gap": 0.2, "verdict": "too few", **INTERVAL}
        ],
        "tone": [
            {"group": "male", "n": 40, "scorer": "toxicity", "difference": 0, "low": 0, "high": 0, "verdict": "no"}
        ],
        "findings": [f"Female {SCRIPT}: more often."],
    },
    "split": {
        "rows": {"train": 4, "validation": 1, "test": 1},
        "keys": {"train": 4, "validation": 1, "test": 1},
        "dealt": {"train": 4, "validation": 1, "test": 1, "decontaminated": 7, "left_out": 0},
        "strategy": "hash",
        "frozen": {"keys": 5, "rows": 1},
        "test_references": {"1": 1},
        "test_leakage": 1,
        "mitigation": {},
        "leakage": {"validation": SHARED, "test": SHARED},
        "benchmarks": {"quiz": SHARED},
    },
}


def row(name: str, completion: str) -> dict:
    turns = [("system", "Be kind."), ("user", "Who are you?"), ("assistant", completion)]
    return {"id": name, "key": name, "messages": [{"role": role, "content": text} for role, text in turns]}


def lay(root: Path) -> None:
    """Lay the reports, parts and splits that four finished stages leave."""
    for name, report in REPORTED.items():
        path = root / REPORTS / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report))
    kept = [row(f"kept-{number}", "I am the person who answers letters here.") for number in range(5)]
    kept.append(row("kept-5", "Je suis la personne qui répond aux lettres ici."))
    table.write(root / KEPT / "letters" / "a-00000.parquet", table.from_rows(kept[:4]))
    table.write(root / KEPT / "letters" / "a-00001.parquet", table.from_rows(kept[4:]))
    gone = [row("gone-1", SCRIPT), row("gone-2", "Je suis la même."), row("gone-3", "ok"), row("gone-4", "no")]
    gone.append({"id": "torn", "key": "torn", "fault": "not JSON", "raw": '{"text": '})
    removed = table.from_rows(gone)
    rules = ["too_short", "exact_duplicate", "too_short", "too_short", "malformed"]
    for name, values, kind in (
        ("rule", rules, pyarrow.string()),
        ("detail", ["x"] * len(gone), pyarrow.string()),
        ("score", [None] * len(gone), pyarrow.float64()),
        ("duplicate_of", [None, "kept-5", None, None, None], pyarrow.string()),
    ):
        removed = removed.append_column(name, pyarrow.array(values, kind))
    table.write(root / QUARANTINE / "letters" / "a-00000.parquet", removed)
    for path in SPLITS.values():
        table.write_jsonl(root / path, [table.from_rows(kept[:1])])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lay(tmp_path)
    return tmp_path


@pytest.fixture
def config() -> Data:
    return Data.model_validate(CONFIG)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene with its card."""
    root = tmp_path_factory.mktemp("written")
    lay(root)
    write_card(root, Data.model_validate(CONFIG))
    return root


class Seen(HTMLParser):
    """The tags, addresses and ids of a page, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.links += [value for name, value in given.items() if name in ("href", "src") and value]
        self.ids |= {given["id"]} if given.get("id") else set()

    def handle_data(self, data: str) -> None:
        self.text += data


def test_both_forms_tell_the_same_numbers(written, config):
    forms = [(written / CARD).read_text(), Seen((written / PAGE).read_text()).text]
    digests = [file_digest(written / path) for path in SPLITS.values()] + [config.digest()]
    for form in forms:
        for told in ("CC0", "sql as prompt", "1,234", "25.0%", "near", "quiz", "too_short", "7", *digests):
            assert told in form, told
        assert "Je suis la personne" in form, "the kept twin of a copy is shown beside it"
        assert "chars of the completion under 5" in form and "dry run" in form
        assert "secret" not in form and "ann:" not in form
    assert Seen((written / PAGE).read_text()).text.count("gone-") == 3, "two rows of each rule at most"


def test_nothing_from_the_data_becomes_markup(written):
    page = (written / PAGE).read_text()
    seen = Seen(page)
    assert "script" not in seen.tags and "img" not in seen.tags
    assert seen.text.count(SCRIPT) >= 2
    markdown = re.sub(r"```+text\n.*?\n```+", "", (written / CARD).read_text(), flags=re.DOTALL)
    assert "<script" not in markdown.replace(r"\<", "") and "[link](" not in markdown


def test_the_page_stands_alone_and_its_contents_lead_somewhere(written):
    page = (written / PAGE).read_text()
    seen = Seen(page)
    assert seen.links and {link.removeprefix("#") for link in seen.links} == seen.ids
    assert not re.search(r"@import|url\(|https?://", page)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (written / CARD).read_text())
    assert "texts.png" in pictures and (written / REPORTS / "texts.png").stat().st_size > 10_000


def test_the_same_data_give_the_same_bytes_whatever_the_workers(root, config):
    files = [CARD, PAGE, *(f"{REPORTS}/{name}" for name in ("texts.png", "texts.csv", "languages.csv"))]
    write_card(root, config.model_copy(update={"workers": 2}))
    first = [(root / file).read_bytes() for file in files]
    parts = sorted((root / KEPT).rglob("*.parquet"))
    both = pyarrow.concat_tables([table.read(part) for part in parts])
    parts[1].unlink()
    table.write(parts[0], both.take(list(reversed(range(len(both))))))
    write_card(root, config)
    assert [(root / file).read_bytes() for file in files] == first


def test_lengths_and_languages_are_counted(root, config):
    found = distributions(root, config, 6)
    assert found["languages"] == {"sample": 6, "counts": [("en", 5), ("fr", 1)]}
    words = found["lengths"]["completion"]["words and signs"]
    assert (words["rows"], words["least"], words["most"]) == (6, 9, 10)
    assert found["lengths"]["prompt"]["characters"]["mean"] == len("Who are you?"), "without the system turn"


def test_what_people_decided_is_counted(root, config):
    path = root / DECISIONS
    path.parent.mkdir(parents=True)
    lines = [{"id": "a", "verdict": verdict, "who": who} for who, verdict in (("ann", "keep"), ("bob", "drop"))]
    path.write_text(
        "".join(json.dumps({**line, "when": f"2026-01-0{day}"}) + "\n" for day, line in enumerate(lines, 1))
    )
    write_card(root, config)
    assert "| drop | 1 |" in (root / CARD).read_text(), "the newest of two decisions holds"


def test_mitigation_shows_before_and_after(root, config):
    split = json.loads((root / REPORTS / "split.json").read_text())
    split["mitigation"] = {
        "rows": {"before": 4, "augmented": 3, "copied": 0, "after": 7, "effective": 6.7},
        "before": {"gates": {"tone_gap": 0.25}},
        "after": {"gates": {"tone_gap": 0.125}},
        "left_out_as_leaks": 0,
        "findings": ["Mitigation made 7 training rows of 4."],
    }
    (root / REPORTS / "split.json").write_text(json.dumps(split))
    write_card(root, config)
    assert "| `tone_gap` | 0.250 | 0.125 |" in (root / CARD).read_text()


def test_a_missing_report_is_named_and_the_old_card_stays(root, config):
    write_card(root, config)
    before = (root / CARD).read_bytes()
    (root / REPORTS / "bias.json").unlink()
    with pytest.raises(DataError, match=r"bias\.json does not exist: run `forgeline data`"):
        write_card(root, config)
    assert (root / CARD).read_bytes() == before
