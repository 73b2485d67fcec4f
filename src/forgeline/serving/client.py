"""The official client, pointed at a deployment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from forgeline.config.schema.serve.access import Tls
from forgeline.errors import ServingError

if TYPE_CHECKING:
    from openai import OpenAI


def client(url: str, key: str, tls: Tls | None = None) -> OpenAI:
    """Return a client that shows an API key and, with TLS, trusts the deployment's own certificate alone.

    What answers in something else than JSON, such as a sign-in page, is an OpenAIError.
    """
    from openai import DefaultHttpxClient, OpenAI

    http = None
    if tls:
        from forgeline.serving.gateway.access.tls import pinned

        http = DefaultHttpxClient(verify=pinned(tls))
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, http_client=http, _strict_response_validation=True)


def await_key(url: str, key: str, tls: Tls | None, seconds: float = 30.0) -> None:
    """Return once a deployment knows a key that was made just now; it reads keys anew every `access.refresh`.

    Raises:
        ServingError: if it does not in so many seconds.
    """
    from openai import OpenAIError

    deadline = time.monotonic() + seconds
    while True:
        try:
            client(url, key, tls).models.list()
        except OpenAIError as fault:
            if time.monotonic() > deadline:
                raise ServingError(f"{url} does not take the key that was made for its smoke test: {fault}") from fault
            time.sleep(0.2)
        else:
            return
