"""`marketd tail`: bars as they form and close, or trades, in the terminal."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from marketd.cli.arguments import InstrumentType, TimeType, url_option
from marketd.cli.running import ask
from marketd.cli.screen import BARS, TICKS, Screen

if TYPE_CHECKING:
    from marketd.client import MarketdClient, StreamEvent, TickStreamEvent
    from marketd.domain.instrument import Instrument

# Without --since a symbol begins with this many bars or trades of the past.
_PAST_ROWS = 10
_DEFAULT_SYMBOLS = 3


@click.command()
@click.argument("instruments", nargs=-1, type=InstrumentType(), metavar="[INSTRUMENT]...")
@click.option("-t", "--timeframe", help="Such as 1s, 5m, 1d, 100t or 2.5v.  [default: 1m]")
@click.option("--ticks", is_flag=True, help="Trades instead of bars.")
@click.option("--since", type=TimeType(), help="Closed bars, or trades, from this time on come first.")
@url_option
def tail(
    instruments: Sequence[Instrument], timeframe: str | None, ticks: bool, since: int | None, url: str
) -> None:
    """Follow instruments live, until Ctrl-C.

    Each INSTRUMENT is written MARKET/PROVIDER/SYMBOL, the symbol with any slashes of its own. Without
    one, the first symbols of the daemon's first provider are followed.

    Prints a line for every bar that closes, or every trade, after a few of the past, and in a terminal
    the forming bars below. A lost connection is taken up again, and no closed bar or trade is left out.

    \b
    marketd tail
    marketd tail crypto/sim/BTC/USD us_equity/sim/SPY --timeframe 5m
    marketd tail crypto/sim/BTC/USD --ticks
    """
    import asyncio

    if ticks and timeframe is not None:
        raise click.UsageError("--timeframe is for bars, not for --ticks.")

    async def work(client: MarketdClient) -> None:
        chosen = instruments or await _first_of(client)
        screen = Screen(chosen, TICKS if ticks else BARS)
        followed = [
            _ticks(client, one, since) if ticks else _bars(client, one, timeframe or "1m", since)
            for one in chosen
        ]
        tasks = [
            asyncio.create_task(_follow(events, one, screen))
            for events, one in zip(followed, chosen, strict=True)
        ]
        tasks.append(asyncio.create_task(_watch_reader()))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    try:
        ask(url, work)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # Who read this has had enough; what Python still flushes at its exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _follow(
    events: AsyncGenerator[StreamEvent | TickStreamEvent, None], instrument: Instrument, screen: Screen
) -> None:
    async with aclosing(events):
        async for event in events:
            screen.show(instrument, event)


async def _bars(
    client: MarketdClient, what: Instrument, timeframe: str, since: int | None
) -> AsyncGenerator[StreamEvent, None]:
    if since is None:
        page = await client.ohlcv(what.market, what.provider, what.symbol, timeframe, limit=_PAST_ROWS)
        since = page.bars[0][0] if page.bars else None
    stream = client.stream(what.market, what.provider, [what.symbol], timeframe, since=since)
    async with aclosing(stream):
        async for event in stream:
            yield event


async def _ticks(
    client: MarketdClient, what: Instrument, since: int | None
) -> AsyncGenerator[TickStreamEvent, None]:
    if since is None:
        page = await client.ticks(what.market, what.provider, what.symbol, limit=_PAST_ROWS)
        since = page.ticks[0][0] if page.ticks else None
    stream = client.stream_ticks(what.market, what.provider, [what.symbol], since=since)
    async with aclosing(stream):
        async for event in stream:
            yield event


async def _watch_reader() -> None:
    """Raises BrokenPipeError as soon as nobody reads what is printed; a write may be a long time off."""
    import asyncio

    out = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(out).st_mode):
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    # A pipe's writing end is never readable; it only reports that its reader has gone.
    loop.add_reader(out, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(out)
    raise BrokenPipeError


async def _first_of(client: MarketdClient) -> Sequence[Instrument]:
    """What to follow for who does not say what."""
    from marketd.domain.instrument import Instrument

    for info in await client.providers():
        for market in info.markets if info.state != "down" else ():
            chosen: list[Instrument] = []
            async for symbol in client.symbols(market, info.provider):
                chosen.append(Instrument(market, info.provider, symbol.symbol))
                if len(chosen) == _DEFAULT_SYMBOLS:
                    break
            if chosen:
                return chosen
    raise click.ClickException(
        "No provider of this daemon has symbols to follow now. See: marketd plugins"
    )
