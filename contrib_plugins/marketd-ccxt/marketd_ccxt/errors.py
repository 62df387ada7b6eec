"""ccxt's errors in marketd's words. ccxt puts whole addresses into its own, so none of them is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from marketd.domain.errors import (
    MarketdError,
    ProviderFailed,
    ProviderRateLimited,
    ProviderTimeout,
    UnknownSymbol,
    Unsupported,
)


@contextmanager
def translated(client: Any) -> Iterator[None]:
    """Raises what ccxt's `client` raises inside as a MarketdError."""
    from ccxt.base.errors import BaseError

    try:
        yield
    except BaseError as error:
        raise _translation(client, error) from error


def _translation(client: Any, error: Exception) -> MarketdError:
    from ccxt.base import errors

    exchange = client.id
    match error:
        case errors.RateLimitExceeded() | errors.DDoSProtection():
            return ProviderRateLimited(
                f"{exchange} asks for patience.", retry_after_s=_retry_after_s(client)
            )
        case errors.RequestTimeout():
            return ProviderTimeout(f"{exchange} did not answer in time.")
        case errors.NetworkError():
            return ProviderFailed(f"{exchange} cannot be reached.")
        case errors.AuthenticationError():
            return ProviderFailed(f"{exchange}: key refused by the provider.", transient=False)
        case errors.BadSymbol():
            return UnknownSymbol(f"{exchange} does not know the symbol.")
        case errors.BadResponse():
            return ProviderFailed(f"{exchange} answered with something that cannot be read.")
        case errors.NotSupported():
            return Unsupported(f"{exchange} does not have that.")
    return ProviderFailed(
        f"{exchange} answered with an error ({type(error).__name__}).",
        transient=isinstance(error, errors.OperationFailed),
    )


def _retry_after_s(client: Any) -> float | None:
    """The figure of the last answer, where it gave one in seconds."""
    headers = getattr(client, "last_response_headers", None) or {}
    told = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    return float(told) if told.isascii() and told.isdigit() else None
