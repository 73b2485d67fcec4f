"""Which addresses the gateway itself may call for its users: public ones, and those that the settings name.

The address that was checked is the one to connect to: a name could be made to mean another one a moment later.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from forgeline.errors import ServingError

if TYPE_CHECKING:
    from httpx2 import URL

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]
TRANSLATED = IPv6Network("64:ff9b::/96")  # IPv4 behind NAT64 (RFC 6052)


class Unreachable(ServingError):
    """An address that the gateway does not call."""


async def addresses_of(url: URL, networks: Networks) -> list[Address]:
    """Return the addresses of a URL's host, if all of them may be called.

    Raises:
        Unreachable: saying why not.
    """
    try:
        host = url.raw_host.decode("ascii")  # as it goes over the wire: not every such name can be shown
    except UnicodeError:
        raise Unreachable("The URL's host is no name.") from None
    if url.scheme not in ("https", "http") or not host or url.userinfo:
        raise Unreachable("The URL must be https://host/path, without a user name.")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, url.port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as fault:
        raise Unreachable(f"The host {host} is not known ({fault}).") from None
    addresses = [_true(ip_address(address[0])) for *_, address in found]
    for address in addresses:
        named = any(address in network for network in networks)
        if not named and not (address.is_global and not address.is_multicast):
            raise Unreachable(f"{host} is not at a public address; people.webhooks.networks may name others.")
        if url.scheme == "http" and not (named and address.is_loopback):
            raise Unreachable("The URL must begin with https://.")
    return addresses


def _true(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, IPv6Address):
        embedded = IPv4Address(int(address) & 0xFFFFFFFF) if address in TRANSLATED else None
        return address.ipv4_mapped or address.sixtofour or embedded or address
    return address
