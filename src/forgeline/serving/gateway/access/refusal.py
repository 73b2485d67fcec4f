"""The answers to those who may not, in OpenAI's shape."""

from __future__ import annotations

from forgeline.serving.gateway.protocol import ApiError


class Unauthenticated(ApiError):
    """401: nobody knows who asks. `code` says why, to the caller and to the counter."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(401, message, code)
        error = "" if code == "missing_credentials" else ', error="invalid_token"'  # RFC 6750, section 3.1
        self.headers = {"WWW-Authenticate": f'Bearer realm="forgeline"{error}'}


def forbidden(message: str, code: str = "insufficient_role") -> ApiError:
    """Return a 403."""
    return ApiError(403, message, code)
