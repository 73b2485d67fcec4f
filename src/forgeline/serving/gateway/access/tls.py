"""TLS 1.2 and later, served natively, and who may be listened to without it."""

from __future__ import annotations

import ipaddress
import ssl
import stat
from pathlib import Path

from forgeline.config.schema import Serve
from forgeline.config.schema.serve.access import Tls
from forgeline.errors import ServingError
from forgeline.sources.environment import expand

TOO_OPEN = stat.S_IRWXO | stat.S_IWGRP  # a group may read, as Debian's ssl-cert does


def check_exposure(serve: Serve) -> None:
    """Refuse to listen where others could read along, or ask without a key.

    Raises:
        ServingError: saying what to set.
    """
    if _is_loopback(serve.host):
        return
    if serve.access.tls is None and not serve.access.behind_proxy:
        raise ServingError(
            f"serve.host is {serve.host}: others on the network could read keys and prompts. Set serve.access.tls to a "
            "certificate and its key, or serve.access.behind_proxy if something in front ends TLS."
        )
    if serve.access.anonymous:
        raise ServingError(f"serve.host is {serve.host}: serve.access.anonymous is for loopback only; make keys.")


def server_context(tls: Tls) -> ssl.SSLContext:
    """Return what the server offers.

    Raises:
        ServingError: if the key can be read by every user of the machine, or the files do not fit.
    """
    key = Path(tls.key)
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError as fault:
        raise ServingError(f"serve.access.tls.key: {fault}.") from fault
    if mode & TOO_OPEN:
        raise ServingError(f"serve.access.tls.key: others can read or change {key} (mode {mode:o}): chmod 600 {key}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    password = expand(tls.password or "")
    try:
        context.load_cert_chain(tls.certificate, key, lambda: password)  # without a password, OpenSSL would ask for one
    except (OSError, ValueError) as fault:  # ssl.SSLError is an OSError
        raise ServingError(
            f"serve.access.tls: {tls.certificate} and {key} are not a certificate and its key, "
            f"or the password is wrong ({fault})."
        ) from fault
    return context


def pinned(tls: Tls) -> ssl.SSLContext:
    """Return what a client on this machine trusts: the deployment's own certificate, whatever name is on it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(tls.certificate)
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
