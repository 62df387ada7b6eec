"""`python doomed.py`: a process that imports everything once, and forks daemons that can be killed.

Each line on its input, the URLs of a database, a vendor and perhaps a Redis, forks a daemon. On its
output it says `started <pid>`, then the daemon's `serves <url>`, and once that is gone
`ended <exit code>`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from importlib.metadata import EntryPoint

import stand_in_plugin  # noqa: F401 - so that no child has to
from stand_in import ENTRY

from marketd.config import Config, ProviderConfig, RedisConfig, ServerConfig, StorageConfig
from marketd.daemon import Daemon


def say(words: str) -> None:
    os.write(1, f"{words}\n".encode())


async def serve(database: str, vendor: str, redis: str = "") -> None:
    config = Config(
        server=ServerConfig(port=0),
        storage=StorageConfig(url=database),
        redis=RedisConfig(url=redis),
        providers={"vendor": ProviderConfig("vendor", "stand_in", {"url": vendor})},
    )
    daemon = Daemon(config, found=lambda: [EntryPoint(*ENTRY, "marketd")])
    await daemon.start()
    say(f"serves {daemon.url}")
    await asyncio.Event().wait()


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(serve(*line.split()))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)  # a child never returns into its parent's loop
        say(f"started {pid}")
        _, status = os.waitpid(pid, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
