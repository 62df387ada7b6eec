"""`marketd check`, `marketd backup` and `marketd restore`: looking after the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from marketd.cli.arguments import config_option
from marketd.cli.store import configured, database_file, inspected, run

if TYPE_CHECKING:
    from marketd.config import Config
    from marketd.storage.records import Checkup

_BY_SERVER = "PostgreSQL has tools of its own for this: "


@click.command()
@config_option
def check(path: Path | None) -> None:
    """Say whether the database is sound.

    Compares what the tables say of each other: bars and the coverage that they are part of. Has SQLite
    look through the whole file; of PostgreSQL it tells how the server is set, and which indexes are not
    usable (its pages are looked through by pg_amcheck). Ends with 1 if anything is wrong. Works while
    the daemon runs and while it does not; changes nothing.

    \b
    marketd check
    """
    config = configured(path)
    database = str(config.storage)
    found = run(lambda: _checked(config))
    click.echo(f"{database}: {', '.join(found.facts)}")
    for problem in found.problems:
        click.echo(problem, err=True)
    if found.problems:
        raise click.ClickException(
            f"{database} is not sound. Stop the daemon, keep a copy of it as it is, and put back a "
            f"backup: {'pg_restore' if config.storage.is_postgres else 'marketd restore FILE'}"
        )
    click.echo("ok")


async def _checked(config: Config) -> Checkup:
    if config.storage.is_postgres:
        from marketd.storage.postgres.checkup import check_at

        return await check_at(config.storage.url)
    from marketd.storage.sqlite import checkup

    return await inspected(config, lambda store: store.check(), checkup.check)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the file if it is there already.")
@config_option
def backup(file: Path, force: bool, path: Path | None) -> None:
    """Copy the database into FILE, as it is at one instant.

    Works while the daemon runs, which goes on meanwhile, and while it does not. FILE is one SQLite
    file that only its owner may read; it is there as a whole or not at all.

    \b
    marketd backup /srv/backups/marketd.db
    """
    from marketd.storage.sqlite import upkeep

    config = configured(path)
    database_file(config, f"{_BY_SERVER}pg_dump copies a database, also while the daemon runs.")
    target = file.absolute()
    run(
        lambda: inspected(
            config,
            lambda store: store.back_up(target, replace=force),
            lambda database, stop: upkeep.back_up(database, target, replace=force, stop=stop),
        )
    )
    click.echo(f"{file}: {target.stat().st_size:,} bytes")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@config_option
def restore(file: Path, path: Path | None) -> None:
    """Put a backup in the place of the database.

    The daemon has to be stopped. FILE is checked before, and the database that was there is kept
    beside, under a name that is told.

    \b
    marketd restore /srv/backups/marketd.db
    """
    from marketd.domain.errors import StorageFailed
    from marketd.storage.sqlite import checkup, upkeep

    database = database_file(
        configured(path), f"{_BY_SERVER}pg_restore puts back what pg_dump copied, the daemon stopped."
    )

    async def work() -> Path | None:
        found = await upkeep.apart(lambda stop: checkup.check(file, stop, still=True))
        if found.problems:
            raise StorageFailed("\n".join([f"{file} is no sound backup.", *found.problems]))
        return await upkeep.apart(lambda stop: upkeep.restore(database, file, stop))

    aside = run(work)
    if aside is not None:
        click.echo(f"The database that was there is now {aside}")
    click.echo(f"{database} is restored. Start the daemon: marketd serve")
