"""The data card: what the data are, where each row went, what was found; generated, never edited."""

from __future__ import annotations

import os
from pathlib import Path

from forgeline.config.schema import Data
from forgeline.data import charts
from forgeline.data.card.facts import gather
from forgeline.data.card.sections import sections
from forgeline.data.layout import CARD, PAGE, REPORTS
from forgeline.page import html, markdown

TITLE = "Data card"


def write_card(root: Path, config: Data) -> None:
    """Write the card beside the reports that it draws on: as Markdown with pictures, and as a page by itself.

    Raises:
        DataError: if a stage's report is missing.
    """
    facts = gather(root, config)
    charts.texts(root / REPORTS, facts["languages"]["counts"], facts["lengths"])
    said = sections(facts)
    for path, text in ((CARD, markdown.render(TITLE, said)), (PAGE, html.render(TITLE, said))):
        partial = (root / path).with_suffix(".part")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, root / path)
