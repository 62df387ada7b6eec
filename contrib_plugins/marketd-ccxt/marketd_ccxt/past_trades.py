"""The exchanges whose past trades are told, and how each is asked for them.

ccxt's `since` proves nothing: some exchanges ignore it and send their newest trades, some answer for a
stretch of time, and ccxt itself makes an hour of Binance's and whole seconds of Kraken's. So there are
only those here that say themselves that they give the first trades from a time on, and they are asked in
their own words. Of these a page that is not full is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PastTrades:
    """How one exchange tells the trades of some `types` of its markets, at most `size` a page.

    `fetch_trades` asks by ccxt's `method`, and `rows` finds the rows in its answer to a request. `since`
    makes of epoch milliseconds what is to be sent along, and `stream` is what `watch_trades` has to be
    told so that its trades are the same ones.
    """

    types: frozenset[str]
    size: int
    method: str
    rows: Callable[[Any, Mapping[str, Any]], Any]
    since: Callable[[int], Mapping[str, Any]]
    stream: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self, client: Any) -> None:
        """Lets `fetch_trades` take no other answer for silence, and read each row when it is asked for.

        It gives an iterator, for another thread: to read a page takes a dozen milliseconds. Nor are rows
        without a time dropped then, or ids sorted as text.
        """
        from ccxt.base.errors import BadResponse

        ask = getattr(client, self.method)

        async def asked(request: Mapping[str, Any]) -> Any:
            answer = await ask(request)
            try:
                rows = self.rows(answer, request)
            except (TypeError, LookupError):
                rows = None
            if not (isinstance(rows, list) and all(isinstance(row, list | dict) for row in rows)):
                raise BadResponse(f"{client.id} sent no trades")
            return answer

        def parse_trades(rows: Any, market: Any, *_: Any) -> Iterator[Any]:
            return (client.parse_trade(row, market) for row in rows)

        setattr(client, self.method, asked)
        client.parse_trades = parse_trades


# Trades of one order at one price are one here, with ids of their own, in the history as on the stream.
# That a startTime without an endTime gives the first trades from there, however far away, both exchanges
# say of GET /api/v3/aggTrades in the changelogs of their spot interfaces (the end of 2022). Of its
# contracts Binance keeps a year, and does not say what it answers for the time before.
_BINANCE = PastTrades(
    types=frozenset({"spot"}),
    size=1_000,
    method="publicGetAggTrades",
    rows=lambda answer, request: answer,
    since=lambda since_ms: {"startTime": since_ms},
    stream={"name": "aggTrade"},
)

# All trades from the beginning on, ascending, at most a thousand: docs.kraken.com, Get Recent Trades. It
# takes nanoseconds, and gives what comes after them.
_KRAKEN = PastTrades(
    types=frozenset({"spot"}),
    size=1_000,
    method="publicGetTrades",
    rows=lambda answer, request: answer["result"][request["pair"]],
    since=lambda since_ms: {"since": str(max(0, since_ms * 1_000_000 - 1))},
)

_EXCHANGES = {"binance": _BINANCE, "binanceus": _BINANCE, "kraken": _KRAKEN}


def past_trades_of(exchange: str, types: Sequence[str]) -> PastTrades | None:
    """How `exchange` tells past trades, if it is known to do so for each of `types`."""
    found = _EXCHANGES.get(exchange)
    return found if found is not None and found.types.issuperset(types) else None
