"""`marketd profile-queries`: how the database comes by its answers, over the user's own data."""

from __future__ import annotations

from pathlib import Path

import click

from marketd.cli.arguments import config_option
from marketd.cli.store import configured, opened, run
from marketd.cli.text import table


@click.command("profile-queries")
@config_option
@click.pass_context
def profile_queries(context: click.Context, path: Path | None) -> None:
    """Show how the database runs each of marketd's statements, and how long.

    The statements are those that the store itself runs, over what is stored. Each that only reads is
    run once, for the series with the longest history; of the others there is the plan alone. On
    PostgreSQL it is what EXPLAIN (ANALYZE, BUFFERS) says, with the rows and pages of each step. Ends
    with 1 if one of them looks at a whole table. Works while the daemon runs and while it does not.

    \b
    marketd profile-queries
    """
    from marketd.storage.records import QueryPlan

    config = configured(path)

    async def work() -> list[QueryPlan]:
        async with opened(config) as store:
            return await store.profile()

    plans = run(work)
    rows = [
        [
            plan.name,
            "" if plan.took_ms is None else f"{plan.took_ms:.2f}",
            "; ".join(plan.steps) or "straight to the row",
        ]
        for plan in plans
    ]
    click.echo(table(["statement", "ms", "how"], rows))
    scanning = [plan for plan in plans if plan.scans]
    for plan in scanning:
        click.echo(f"{plan.name} looks at more rows than it needs: {plan.statement}", err=True)
    if scanning:
        context.exit(1)
