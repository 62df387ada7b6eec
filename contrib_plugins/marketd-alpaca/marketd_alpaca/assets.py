"""What each asset class is called by, and where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from marketd.domain.instrument import SymbolInfo
from marketd_alpaca.settings import CRYPTO, US_EQUITY, US_OPTION


class AssetClass(NamedTuple):
    """The paths of its history by kind, of its latest bars, and of its stream if that has bars."""

    history: Mapping[str, str]
    latest: str = ""
    stream: str = ""


def _history(path: str) -> Mapping[str, str]:
    return {kind: f"{path}/{kind}" for kind in ("bars", "trades")}


ASSETS = {
    US_EQUITY: AssetClass(_history("/v2/stocks"), "/v2/stocks/bars/latest", "/v2/{feed}"),
    CRYPTO: AssetClass(
        _history("/v1beta3/crypto/us"), "/v1beta3/crypto/us/latest/bars", "/v1beta3/crypto/us"
    ),
    US_OPTION: AssetClass(_history("/v1beta1/options")),
}


def stock_of(row: Mapping[str, Any]) -> SymbolInfo:
    return SymbolInfo(row["symbol"], US_EQUITY, name=row["name"] or "", quote="USD")


def pair_of(row: Mapping[str, Any]) -> SymbolInfo:
    base, _, quote = row["symbol"].partition("/")
    return SymbolInfo(row["symbol"], CRYPTO, name=row["name"] or "", base=base, quote=quote)


def contract_of(row: Mapping[str, Any]) -> SymbolInfo:
    symbol, name, base = row["symbol"], row["name"] or "", row["underlying_symbol"]
    return SymbolInfo(symbol, US_OPTION, name=name, base=base, quote="USD")


def is_fed(row: Mapping[str, Any], feed: str) -> bool:
    """True of a stock that `feed` has: those traded over the counter have one of their own."""
    is_otc: bool = row["exchange"] == "OTC"
    return is_otc == (feed == "otc")
