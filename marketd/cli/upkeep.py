"""`marketd check`, `marketd backup` and `marketd restore`: looking after the database."""

from __future__ import annotations

from pathlib import Path

import click

from marketd.cli.arguments import config_option
from marketd.cli.store import configured, database_file, inspected, run

_BY_SERVER = "PostgreSQL has tools of its own for this: "


@click.command()
@config_option
def check(path: Path | None) -> None:
    """Say whether the database is sound.

    Has SQLite look through the whole file, and compares what the tables say of each other: bars and
    the coverage that they are part of. Ends with 1 if anything is wrong. Works while the daemon runs
    and while it does not; changes nothing.

    \b
    marketd check
    """
    from marketd.storage.sqlite import checkup

    config = configured(path)
    database = database_file(
        config, f"{_BY_SERVER}pg_amcheck says whether what is stored in a database is sound."
    )
    found = run(lambda: inspected(config, lambda store: store.check(), checkup.check))
    click.echo(f"{database}: {', '.join(found.facts)}")
    for problem in found.problems:
        click.echo(problem, err=True)
    if found.problems:
        raise click.ClickException(
            f"{database} is not sound. Stop the daemon, keep a copy of the file as it is, and put back "
            "a backup: marketd restore FILE"
        )
    click.echo("ok")


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
