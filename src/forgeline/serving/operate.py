"""Ask a running gateway what its operators may: how a roll-out goes, and to change it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from forgeline.config.schema import Serve
from forgeline.config.schema.serve.access import Tls
from forgeline.errors import ServingError
from forgeline.serving.client import client
from forgeline.serving.order import Order

CHALLENGER = "challenger.json"  # beside a gateway's order: another one, whose bundle and engine are to be tried
LOOK_EVERY = 1.0  # seconds


class Operator:
    """Speaks to the gateway at a URL; `key` is an API key of the role operator or admin."""

    def __init__(self, url: str, key: str, tls: Tls | None) -> None:
        self._url = url
        self._client = client(url, key, tls)

    def rollout(self) -> dict[str, Any]:
        """Return what is live, the roll-out that is on or was last, and what is warm; raises ServingError."""
        return self._asked("GET", "/rollout", None)

    def change(self, verb: str, **body: Any) -> dict[str, Any]:
        """Promote, abort, rollback, or change the share of a roll-out; return what `rollout` does then.

        Raises:
            ServingError: saying why it cannot be.
        """
        return self._asked("POST", f"/rollout/{verb}", body)

    def start(
        self, bundle: Path, serve: Serve, questions: Sequence[tuple[list[dict[str, str]], str]], most: int, **body: Any
    ) -> dict[str, Any]:
        """Have the gateway load a bundle, with the engine of these settings, beside what is live; return once it has.

        It must say to each of the questions what goes with it, in `most` tokens, before it is let at any caller.

        Raises:
            ServingError: if it cannot be tried, or does not load, or says something else; what was live answers on.
        """
        order = self.rollout()["order"]
        if order is None:
            raise ServingError(f"{self._url} was not started from an order: run `forgeline deploy`.")
        beside = Path(order).with_name(CHALLENGER)
        Order(bundle=bundle.resolve(), serve=serve).save(beside)
        smoke = [{"messages": messages, "reply": reply, "max_tokens": most} for messages, reply in questions]
        self._asked("POST", "/rollout", {**body, "smoke": smoke})
        return self.loaded()

    def loaded(self) -> dict[str, Any]:
        """Return what `rollout` does, once what is being loaded is, or cannot be.

        Raises:
            ServingError: if it cannot; what was live answers on.
        """
        while (found := self.rollout())["rollout"] and found["rollout"]["state"] == "loading":
            time.sleep(LOOK_EVERY)
        rollout = found["rollout"]
        if rollout and rollout["state"] == "aborted":
            live, why = found["live"]["version"], rollout["why"].rstrip(".")
            raise ServingError(f"The roll-out is aborted: {why}. Version {live} is live, as before.")
        return found

    def _asked(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        from openai import APIStatusError, OpenAIError

        ask: Any = self._client.get if method == "GET" else self._client.post
        options = {} if body is None else {"body": body}
        try:
            return cast(dict[str, Any], ask(path, cast_to=object, **options))
        except APIStatusError as fault:
            said = fault.body if isinstance(fault.body, dict) else {}
            raise ServingError(
                said.get("message") or f"{self._url} answered with status {fault.status_code}."
            ) from None
        except OpenAIError as fault:
            raise ServingError(f"{self._url} does not answer ({fault}): see `forgeline status`.") from fault
