"""What a package may add beside providers: addresses of its own, and a reaction to stored bars."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema

from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.plugins.base import NoFields

_PATH = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Route:
    """`GET /api/v1/plugins/<plugin>/<path>`, where the plugin is called as its entry point is.

    `handle` is given the query as `query` has loaded it, and returns what JSON can hold. What it raises
    as a MarketdError is told to the client; of anything else, only the kind. It is given up when a
    request may take no longer. `answer`, if there is one, describes the answer for OpenAPI.
    """

    path: str
    summary: str
    handle: Callable[[Mapping[str, Any]], Awaitable[Any]]
    query: type[Schema] = NoFields
    answer: type[Schema] | None = None

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path):
            raise ValueError(f"{self.path!r} is no path of a-z, 0-9, _ and -, such as 'series'")


class Extension:
    """Derive from it, override what is needed, and hand an object out by `marketd_extensions`."""

    def routes(self) -> Sequence[Route]:
        """The addresses to add. Called once at start."""
        return ()

    async def bars_stored(self, series: Series, span: TimeRange) -> None:
        """Called after this process has stored bars of `series` that are new or revised.

        All of them open in `span`, epoch milliseconds. One call at a time; what is stored meanwhile is
        told together, so a span may hold other bars, too. Bars wait for nobody here: it is called
        later, and given up after some seconds.
        """
