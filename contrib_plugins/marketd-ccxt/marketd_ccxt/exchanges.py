"""ccxt's classes, one exchange at a time.

ccxt's packages import all of their hundred exchanges as they begin, which takes most of a second and
some 75 MB. With packages that import an exchange when it is asked for, one is there after a tenth of
a second, for 18 MB.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from marketd.domain.errors import ProviderFailed

_PLAIN, _STREAMING = "ccxt.async_support", "ccxt.pro"
# What of its packages ccxt's own modules ask for beside exchanges is in these.
_BASE = ("base.errors", "base.exchange")


def exchange_class(exchange: str) -> type[Any]:
    """The class of an exchange, with streams if ccxt has them; ProviderFailed if there is none.

    Takes a moment: it is for another thread than the event loop's.
    """
    for package in ("ccxt", _PLAIN, _STREAMING):
        _prepare(package)
    for package in (_STREAMING, _PLAIN):
        if find_spec(f"{package}.{exchange}") is not None:
            importlib.import_module(f"{package}.{exchange}")
            found = getattr(sys.modules[package], exchange)
            if isinstance(found, type):
                return found
    raise ProviderFailed(f"ccxt has no exchange {exchange[:50]}.", transient=False)


class _Package(ModuleType):
    """A package of ccxt that imports what it is asked for, and not everything at once."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for home in (*_BASE, name):
            try:
                module = importlib.import_module(f"{self.__name__}.{home}")
            except ModuleNotFoundError:
                continue
            if hasattr(module, name):
                setattr(self, name, getattr(module, name))
                return vars(self)[name]
        # Somebody else in this process wants more of ccxt than an exchange: then all of it.
        spec: Any = self.__spec__
        spec.loader.exec_module(self)
        if name not in vars(self):
            raise AttributeError(name)
        return vars(self)[name]

    def __setattr__(self, name: str, value: Any) -> None:
        # As in ccxt, the name of an exchange is that of its class there, and not of its module.
        if isinstance(value, ModuleType):
            value = vars(value).get(name, value)
        super().__setattr__(name, value)


def _prepare(name: str) -> None:
    """Puts a package there without what it would import, unless it has been imported already."""
    if name in sys.modules:
        return
    spec: Any = find_spec(name)
    package = _Package(name)
    package.__spec__, package.__path__ = spec, spec.submodule_search_locations
    parent, _, child = name.rpartition(".")
    there = sys.modules.setdefault(name, package)
    if parent:
        setattr(sys.modules[parent], child, there)
