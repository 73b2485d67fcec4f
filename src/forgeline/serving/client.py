"""The official client, pointed at a deployment of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forgeline.config.schema.serve.access import Tls

if TYPE_CHECKING:
    from openai import OpenAI


def client(url: str, key: str, tls: Tls | None = None) -> OpenAI:
    """Return a client that shows an API key and, with TLS, trusts the deployment's own certificate alone."""
    from openai import DefaultHttpxClient, OpenAI

    http = None
    if tls:
        from forgeline.serving.gateway.access.tls import pinned

        http = DefaultHttpxClient(verify=pinned(tls))
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, http_client=http)
