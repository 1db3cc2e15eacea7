"""Which HTTP proxy stands on the way to a host, by the environment as gRPC reads it. Zone: outside the session."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

# In the order in which gRPC looks; it reads no upper-case names.
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
BYPASS_VARIABLES = ("no_grpc_proxy", "no_proxy")
PROXY_PORT = 3128  # where a URL names none


def proxy_for(host: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The proxy that gRPC would take for ``host``; None for none."""
    url = next((environment[name] for name in PROXY_VARIABLES if environment.get(name)), None)
    bypass = next((environment[name] for name in BYPASS_VARIABLES if environment.get(name)), "")
    return None if url is None or any(_covers(entry.strip(), host) for entry in bypass.split(",")) else url


def _covers(entry: str, host: str) -> bool:
    """Whether an entry of ``no_proxy`` (a name, a domain, or ``*``) is about ``host``. Address ranges are not read."""
    domain = entry.removeprefix("*").removeprefix(".").lower()
    return entry == "*" or (domain != "" and (host.lower() == domain or host.lower().endswith(f".{domain}")))


def split_proxy(url: str) -> SplitResult:
    """The parts of a proxy's URL, ``http://`` where it names no scheme.

    Raises:
        ValueError: it does not read.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if not parts.hostname or parts.port == 0:
        raise ValueError("a proxy's URL names a host")
    return parts


def credentials_of(proxy: SplitResult) -> str | None:
    """What ``Proxy-Authorization`` says; None where the URL names no user."""
    if not proxy.username:
        return None
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return f"Basic {b64encode(pair.encode()).decode()}"
