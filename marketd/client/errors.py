"""What can go wrong between a client and the daemon."""

from __future__ import annotations

import aiohttp


class MarketdClientError(Exception):
    """The daemon said no, or did not answer.

    `status` is the HTTP status, or None where there is none. `code` is stable, for programs: one of the
    daemon's, or `unreachable`, `timeout`, `not_marketd` or `invalid_url`. `message` is a sentence for
    people. `field` names the input at fault, or is None.
    """

    def __init__(self, status: int | None, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field


def not_marketd(url: str, status: int) -> MarketdClientError:
    """Somebody answers at `url`, but not as a daemon does."""
    return MarketdClientError(
        status, "not_marketd", f"What answers at {url} (with {status}) is not marketd."
    )


def failure(url: str, error: aiohttp.ClientError | OSError) -> MarketdClientError:
    """What a fault of the connection to the daemon at `url` is to a user."""
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        message = f"{url} is not the address of a daemon, which looks like http://127.0.0.1:8710."
        return MarketdClientError(None, "invalid_url", message)
    if isinstance(error, aiohttp.ClientResponseError):
        return not_marketd(url, error.status)
    if isinstance(error, TimeoutError):
        return MarketdClientError(None, "timeout", f"The daemon at {url} did not answer in time.")
    message = f"No daemon answers at {url}. Start one with: marketd serve"
    return MarketdClientError(None, "unreachable", message)
