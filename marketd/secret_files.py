"""Secrets in files of their own, as systemd hands them to a service: `LoadCredential=`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from marketd.domain.errors import ConfigError

_PREFIX = "providers."
_LARGEST = 64 * 1024


class SecretFile(NamedTuple):
    """The file `name`, and the credential that it holds: `provider`'s `key`."""

    name: str
    provider: str
    key: str
    text: str


def secret_files(folder: Path) -> Iterator[SecretFile]:
    """Each file `providers.<name>.<key>` of `folder`, without the ends of its last line.

    Others are not marketd's. Raises ConfigError, which says no word of what is in a file.
    """
    try:
        for path in sorted(folder.iterdir()):
            provider, _, key = path.name.removeprefix(_PREFIX).partition(".")
            if path.name.startswith(_PREFIX) and provider and key:
                with path.open(encoding="utf-8") as file:
                    yield SecretFile(path.name, provider, key, file.read(_LARGEST).rstrip("\r\n"))
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: a credential is UTF-8 text.") from None
