"""The command `marketd`.

A command imports what it needs when it runs: `marketd --help` is to be there at once.
"""

from __future__ import annotations

import click

from marketd import __version__
from marketd.cli.aggregates import aggregates
from marketd.cli.backfill import backfill
from marketd.cli.bars import bars
from marketd.cli.check_config import check_config
from marketd.cli.export import export
from marketd.cli.import_bars import import_bars
from marketd.cli.plugins import plugins
from marketd.cli.profile_queries import profile_queries
from marketd.cli.serve import serve
from marketd.cli.tail import tail
from marketd.cli.ticks import ticks
from marketd.cli.upkeep import backup, check, restore


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="marketd")
def main() -> None:
    """One daemon that keeps, fills and serves market data from any provider.

    \b
    marketd serve                             start it, here with a simulated exchange
    marketd bars crypto/sim/BTC/USD 1h        read bars, in another terminal
    marketd tail                              watch prices as they form

    Each command says more: marketd tail --help
    """


for _command in (
    serve,
    check_config,
    plugins,
    bars,
    ticks,
    tail,
    backfill,
    import_bars,
    export,
    check,
    backup,
    restore,
    aggregates,
    profile_queries,
):
    main.add_command(_command)
