from __future__ import annotations

import pytest

from forgeline.config.schema import Assess
from forgeline.data.assess import bias_report, newcombe, wilson


def test_wilson_and_newcombe_match_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17: 81/263 and the difference 56/70 - 48/80, 95 %.
    assert wilson(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert newcombe((56, 48), (70, 80), 0.95) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert wilson(0, 0, 0.95) == (0.0, 1.0)


def test_report_counts_words_and_says_small_n() -> None:
    config = Assess.model_validate(
        {
            "groups": {"gender": {"female": ["she", "her"], "male": ["he"]}},
            "associations": {"tone": {"first": ["great"], "second": ["sorry"]}},
        }
    )
    replies = ["She is great."] * 40 + ["He is sorry."] * 5 + ["The other was here; sheer luck."] * 55
    report = bias_report(replies, config)
    female, male = report["representation"]
    assert (female["replies"], male["replies"]) == (40, 5)
    assert female["low"] < 0.4 < female["high"]
    verdicts = {(row["group"], row["words"]): row["verdict"] for row in report["association"]}
    assert verdicts["female", "first"] == "more often than elsewhere"
    assert verdicts["female", "second"] == "no difference shown"
    assert verdicts["male", "second"] == "too few mentions to conclude from"
    assert any("too few mentions" in finding for finding in report["findings"])
