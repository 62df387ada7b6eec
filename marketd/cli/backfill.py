"""`marketd backfill`: history fetched by the daemon, watched from the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from marketd.cli.arguments import InstrumentType, TimeType, url_option
from marketd.cli.running import ask
from marketd.cli.text import iso, table

if TYPE_CHECKING:
    from marketd.client import Backfill, MarketdClient
    from marketd.domain.instrument import Instrument

_HEADING = ("id", "instrument", "timeframe", "since", "before", "state", "known", "bars", "left")
_EVERY_S = 0.25
_STEPS = 1000
# Where there is no terminal, a line for every so much of it.
_LINE_EVERY = 0.1


@click.command()
@click.argument("instrument", required=False, type=InstrumentType())
@click.argument("timeframe", required=False)
@click.option("--since", type=TimeType(), help="The bars from this time on.")
@click.option("--before", type=TimeType(), help="Only bars that open before this time; else up to now.")
@click.option("--repair", is_flag=True, help="Fetch what is stored, too, and tell what has changed.")
@click.option("--detach", is_flag=True, help="Begin it and return at once.")
@url_option
def backfill(
    instrument: Instrument | None,
    timeframe: str | None,
    since: int | None,
    before: int | None,
    repair: bool,
    detach: bool,
    url: str,
) -> None:
    """Have the daemon fetch the history of an instrument, or list what it fetches.

    INSTRUMENT is written MARKET/PROVIDER/SYMBOL, the symbol with any slashes of its own. TIME is an ISO
    date or time, UTC unless it says otherwise, or epoch milliseconds.

    The daemon works, and goes on after Ctrl-C and after a restart of its own. The exit code is 0 once
    all is there. Without arguments every backfill is listed.

    \b
    marketd backfill crypto/sim/BTC/USD 1m --since 2024-01-01
    marketd backfill
    """
    if instrument is None:
        if since is not None or before is not None or repair or detach:
            raise click.UsageError("Of which instrument? It is written MARKET/PROVIDER/SYMBOL.")
        _print(ask(url, lambda client: client.backfills()))
        return
    if timeframe is None:
        raise click.UsageError("TIMEFRAME is missing. Write one like 1m, 1h or 1d.")
    if since is None:
        raise click.UsageError("--since is missing. Write one like 2024-01-01.")

    async def begin(client: MarketdClient) -> Backfill:
        return await client.begin_backfill(
            instrument.market,
            instrument.provider,
            instrument.symbol,
            timeframe,
            since=since,
            before=before,
            repair=repair,
        )

    one = ask(url, begin)
    begun = f"backfill {one.id} of {instrument} {timeframe} has begun"
    if detach:
        click.echo(f"{begun}.")
        return
    try:
        click.echo(f"{begun}; Ctrl-C leaves it running.", err=True)
        one = ask(url, lambda client: _watch(client, one.id))
    except KeyboardInterrupt:
        click.echo(
            "\nIt goes on in the daemon. `marketd backfill` lists it, and this ends it:", err=True
        )
        click.echo(f"curl -X DELETE {url.rstrip('/')}/api/v1/backfills/{one.id}", err=True)
        sys.exit(1)
    click.echo(f"{one.state}: {_brought(one)}.")
    if one.state != "done":
        raise click.ClickException(one.message or f"The backfill was {one.state}.")


async def _watch(client: MarketdClient, backfill_id: str) -> Backfill:
    """Draws how far it is, on standard error, until it has ended; gives how it stood then."""
    import asyncio

    is_terminal = sys.stderr.isatty()
    drawn, told, noted = 0, 0.0, ""
    with click.progressbar(
        length=_STEPS,
        file=sys.stderr,
        hidden=not is_terminal,
        show_eta=False,
        item_show_func=lambda text: text,
        update_min_steps=0,
        width=0,
    ) as bar:
        while True:
            one = await client.backfill(backfill_id)
            # What it waits for may be longer than a line of the terminal: it stays, above the bar.
            if one.message not in ("", noted) and not one.has_ended:
                noted = one.message
                click.echo(f"\r\x1b[K{noted}" if is_terminal else noted, err=True)
            steps = int(one.progress * _STEPS)
            bar.update(steps - drawn, _pace(one))
            drawn = steps
            if one.has_ended:
                return one
            if not is_terminal and one.progress >= told + _LINE_EVERY:
                told = one.progress
                click.echo(f"{one.progress:.0%}  {_pace(one)}", err=True)
            await asyncio.sleep(_EVERY_S)


def _pace(one: Backfill) -> str:
    """`12,000 bars, 4,000/s, 0:01:30 left`, or in which state it is."""
    parts = [f"{one.bars:,} bars"]
    if one.state != "running":
        parts.append(one.state)
    else:
        parts.append(f"{one.bars_per_s:,.0f}/s")
        if one.eta_s is not None:
            parts.append(f"{_left(one.eta_s)} left")
    return ", ".join(parts)


def _brought(one: Backfill) -> str:
    text = f"{one.bars:,} bars fetched, {one.new:,} new, {one.revised:,} revised"
    return f"{text}, {one.refused:,} ranges that cannot be right" if one.refused else text


def _left(eta_s: float) -> str:
    return str(timedelta(seconds=round(eta_s)))


def _print(backfills: Iterable[Backfill]) -> None:
    rows = [
        [
            one.id,
            f"{one.market}/{one.provider}/{one.symbol}",
            one.timeframe,
            iso(one.since_ms),
            iso(one.before_ms),
            one.state,
            f"{one.progress:.0%}",
            f"{one.bars:,}",
            "-" if one.eta_s is None else _left(one.eta_s),
            _note(one),
        ]
        for one in backfills
    ]
    if not rows:
        click.echo("no backfills.", err=True)
        return
    click.echo(table([*_HEADING, ""], rows))


def _note(one: Backfill) -> str:
    """Why it failed or what it waits for, and when it begins again."""
    return one.message if one.next_ms is None else f"{one.message} Again at {iso(one.next_ms)}.".strip()
