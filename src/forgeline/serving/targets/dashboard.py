"""A Grafana dashboard of the gateway's own metrics."""

from __future__ import annotations

from typing import Any

WIDTH, HEIGHT = 8, 7  # of a panel; a row is 24 wide
# Title, unit, and the queries with what their lines are called.
PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Requests", "reqps", (("sum by (status) (rate(forgeline_requests_total[$__rate_interval]))", "{{status}}"),)),
    (
        "Time to the first token",
        "s",
        tuple(
            (f"histogram_quantile({q}, sum by (le) (rate(forgeline_first_token_seconds_bucket[$__rate_interval])))", n)
            for q, n in ((0.5, "median"), (0.95, "95th percentile"), (0.99, "99th percentile"))
        ),
    ),
    (
        "Time to the last byte",
        "s",
        (
            (
                "histogram_quantile(0.95, sum by (le, route) "
                "(rate(forgeline_request_seconds_bucket[$__rate_interval])))",
                "{{route}}, 95th percentile",
            ),
        ),
    ),
    ("Tokens", "short", (("sum by (direction) (rate(forgeline_tokens_total[$__rate_interval]))", "{{direction}}"),)),
    ("Errors", "reqps", (("sum by (code) (rate(forgeline_errors_total[$__rate_interval]))", "{{code}}"),)),
    (
        "Ongoing and waiting",
        "short",
        (("sum(forgeline_ongoing_requests)", "ongoing"), ("sum(forgeline_queue_depth)", "waiting for the engine")),
    ),
    (
        "What the guards did",
        "short",
        (("sum by (guard, action) (rate(forgeline_verdicts_total[$__rate_interval]))", "{{guard}}: {{action}}"),),
    ),
    (
        "Database",
        "short",
        (
            ("max(forgeline_store_behind_seconds)", "seconds behind"),
            ("sum(forgeline_store_depth)", "writes in memory"),
            ("sum(forgeline_store_spooled)", "rows beside it"),
        ),
    ),
    ("Price of what was used", "short", (("sum by (model) (increase(forgeline_cost_total[1h]))", "{{model}}, 1 h"),)),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana's file provisioning reads it."""
    return {
        "uid": "forgeline",
        "title": "Forgeline",
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, title: str, unit: str, queries: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "prometheus"}
    column, row = number % 3, number // 3
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": query, "legendFormat": legend}
            for place, (query, legend) in enumerate(queries)
        ],
    }
