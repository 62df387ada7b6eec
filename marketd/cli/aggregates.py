"""`marketd aggregates`: the coarse bars that the store computes ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from marketd.cli.arguments import InstrumentType, TimeType, url_option
from marketd.cli.running import ask

if TYPE_CHECKING:
    from marketd.client import MarketdClient
    from marketd.domain.instrument import Instrument


@click.group()
def aggregates() -> None:
    """Look after the coarse bars that are computed ahead.

    \b
    marketd aggregates refresh
    """


@aggregates.command()
@click.argument("instrument", required=False, type=InstrumentType())
@click.option("-t", "--timeframe", help="Only of this base timeframe, such as 1m.")
@click.option("--since", type=TimeType(), help="Only from this time on.")
@click.option("--before", type=TimeType(), help="Only before this time.")
@url_option
def refresh(
    instrument: Instrument | None,
    timeframe: str | None,
    since: int | None,
    before: int | None,
    url: str,
) -> None:
    """Bring them up to date now: of INSTRUMENT (MARKET/PROVIDER/SYMBOL), or of all that is stored.

    Nothing is wrong without it: what is out of date is computed when it is asked for.

    \b
    marketd aggregates refresh
    marketd aggregates refresh crypto/sim/BTC/USD --since 2024-01-01
    """

    async def work(client: MarketdClient) -> int:
        buckets, complete = 0, False
        while not complete:
            done = await client.refresh_aggregates(
                instrument.market if instrument else None,
                instrument.provider if instrument else None,
                instrument.symbol if instrument else None,
                timeframe,
                since=since,
                before=before,
            )
            buckets += done.buckets
            complete = done.complete
        return buckets

    click.echo(f"{ask(url, work):,} bars computed.")
