"""Alpaca's addresses, and what its answers mean that are no data."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from marketd.domain.errors import (
    MarketdError,
    ProviderFailed,
    ProviderRateLimited,
    ProviderTimeout,
    UnknownSymbol,
)
from marketd.plugins import Clock
from marketd.plugins.http import HttpClient, http_error

NAME = "Alpaca"
_LONGEST_PATIENCE_S = 60.0


class Hosts(NamedTuple):
    """Who is asked for listings and the calendar (with the version of that interface), and for data."""

    trading: str
    data: str
    stream: str


_HOSTS = {
    "paper": Hosts("paper-api.alpaca.markets/v2", "data.alpaca.markets", "stream.data.alpaca.markets"),
    "live": Hosts("api.alpaca.markets/v2", "data.alpaca.markets", "stream.data.alpaca.markets"),
    "sandbox": Hosts(
        "broker-api.sandbox.alpaca.markets/v1",
        "data.sandbox.alpaca.markets",
        "stream.data.sandbox.alpaca.markets",
    ),
}


def addresses(settings: Mapping[str, Any]) -> Hosts:
    """Where the settings say that Alpaca is."""
    hosts = _HOSTS[settings["environment"]]
    base: str | None = settings["base_url"]
    if base is None:
        return Hosts(f"https://{hosts.trading}", f"https://{hosts.data}", f"wss://{hosts.stream}")
    base = base.rstrip("/")
    socket_base = "ws" + base.removeprefix("http")
    return Hosts(f"{base}/{hosts.trading}", f"{base}/{hosts.data}", f"{socket_base}/{hosts.stream}")


def headers_of(settings: Mapping[str, Any], credentials: Mapping[str, Any]) -> Mapping[str, str]:
    """What tells Alpaca who asks: a broker's key goes by another way than a trader's."""
    key, secret = credentials["key"], credentials["secret"]
    if settings["environment"] == "sandbox":
        return {"Authorization": f"Basic {base64.b64encode(f'{key}:{secret}'.encode()).decode()}"}
    return {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}


class AlpacaHttp(HttpClient):
    """One of Alpaca's hosts, which says more than a status does."""

    def __init__(self, base_url: str, headers: Mapping[str, str], clock: Clock) -> None:
        super().__init__(NAME, base_url, headers=headers)
        self._clock = clock

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> MarketdError:
        said = _message(body)
        if status == 403 and "subscription" in said:
            told = f"{NAME}: the plan does not include this data; another feed may."
            return ProviderFailed(told, transient=False)
        if status in (400, 422) and "invalid symbol" in said:
            return UnknownSymbol(f"{NAME} does not know the symbol.")
        error = super().refusal(status, headers, body)
        if isinstance(error, ProviderRateLimited) and error.retry_after_s is None:
            error.retry_after_s = self._until_reset_s(headers)
        return error

    def _until_reset_s(self, headers: Mapping[str, str]) -> float | None:
        """How long it is until there is room again, which is told as a time."""
        told = headers.get("X-RateLimit-Reset", "")
        if not (told.isascii() and told.isdigit()):
            return None
        return min(max(0.0, int(told) - self._clock.now_ms() / 1000), _LONGEST_PATIENCE_S)


def stream_error(code: Any, feed: str) -> MarketdError:
    """What an error of the stream says; `feed` is what the stream is of."""
    match code:
        case 401 | 402:
            return http_error(NAME, 401)
        case 404:
            return ProviderTimeout(f"{NAME} did not hear the key in time.")
        case 405:
            told = f"{NAME}: the plan allows no more symbols on the stream."
            return ProviderFailed(told, transient=False)
        case 406:
            return ProviderFailed(
                f"{NAME}: another connection uses the only stream that the account may have."
            )
        case 407:
            return ProviderFailed(f"{NAME} hung up, because it was not read fast enough.")
        case 408 | 409:
            told = f"{NAME}: the plan does not include the stream {feed}."
            return ProviderFailed(told, transient=False)
        case 400 | 410:
            return ProviderFailed(f"{NAME}: the stream {feed} does not have that.", transient=False)
    number = code if isinstance(code, int) else "without a number"
    return ProviderFailed(f"{NAME}'s stream failed with an error ({number}).")


def _message(body: bytes) -> str:
    try:
        answered = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    return str(answered.get("message", "")).lower() if isinstance(answered, dict) else ""
