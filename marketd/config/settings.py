"""What a setting is: how it is declared, what its kind takes, and what is said of a wrong one.

A duration is a whole number with a unit, `"250ms"` to `"100y"`: ms, s, m (minute), h, d, w (7 days),
y (365 days). A size is one too, `"64KB"` or `"1MB"`: B, KB (1,024 bytes), MB, GB.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import SequenceMatcher, get_close_matches
from typing import Any, Generic, NewType, TypeVar

from marketd.domain.rate_limit import RateLimit

T = TypeVar("T")
N = TypeVar("N", bound=int)

Millis = NewType("Millis", int)
ByteCount = NewType("ByteCount", int)

_DAY_MS = 86_400_000
_DURATIONS: Mapping[str, int] = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": _DAY_MS,
    "w": 7 * _DAY_MS,
    "y": 365 * _DAY_MS,
}
_SIZES: Mapping[str, int] = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_QUANTITY = re.compile(r"(0|[1-9][0-9]{0,14})([A-Za-z]+)")
_RATE = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})?([a-z]{1,2})")
# What may carry a password: a URL, whole or mistyped, or `key=value` pairs.
_MAY_TELL = re.compile(r"://|[@?=]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,20}:(?=/)")
_LONGEST_SHOWN = 60
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")
# How alike two names are, 0 to 1, when one may be a slip for the other.
_ALIKE = 0.6


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What one setting takes.

    `name` is for tables of the documentation, `wanted` completes the sentence "saw 5, wanted …".
    TOML has its values as `written`; `parse` makes the setting's of one, or raises ValueError, and
    `format` is the inverse, as text; of what holds a secret, without that.
    """

    name: str
    wanted: str
    written: type
    parse: Callable[[Any], T]
    format: Callable[[T], str]

    def read(self, value: object) -> T:
        """The setting's value from one of a TOML file; ValueError if it is none."""
        if type(value) is not self.written:
            raise ValueError(self.wanted)
        return self.parse(value)

    def read_text(self, text: str) -> T:
        """The setting's value from the text of an environment variable; ValueError if it is none."""
        return self.read(text if self.written is str else toml_value(text))

    def toml(self, value: T) -> str:
        """`value` as a TOML file has it."""
        text = self.format(value)
        return json.dumps(text, ensure_ascii=False) if self.written is str else text


def setting(kind: Kind[T], default: object, says: str, *, is_secret: bool = False) -> T:
    """A dataclass field for a setting: `default` as a TOML file has it, and one sentence of help.

    One that may hold a secret is no part of the repr.
    """
    value: T = field(
        default=kind.read(default), metadata={"kind": kind, "help": says}, repr=not is_secret
    )
    return value


def needed(kind: Kind[T], says: str) -> T:
    """A dataclass field for a setting that has no default."""
    value: T = field(metadata={"kind": kind, "help": says})
    return value


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting; `default` is written as in TOML, and empty if it is needed.

    `help` is one sentence.
    """

    section: str
    key: str
    kind: Kind[Any]
    default: str
    help: str

    @property
    def name(self) -> str:
        """Such as `server.port`."""
        return f"{self.section}.{self.key}"

    @property
    def type(self) -> str:
        """What it takes, in a few words."""
        return self.kind.name


def declared(section: str, cls: type) -> Iterator[Setting]:
    """The settings of a section's dataclass, in the order of their declaration."""
    for each in fields(cls):
        kind = each.metadata["kind"]
        default = "" if each.default is MISSING else kind.toml(each.default)
        yield Setting(section, each.name, kind, default, each.metadata["help"])


def text(wanted: str, fits: Callable[[str], bool]) -> Kind[str]:
    """The text that `wanted` describes and `fits` takes."""

    def parse(value: str) -> str:
        if not fits(value):
            raise ValueError(wanted)
        return value

    return Kind("text", wanted, str, parse, str)


def one_of(*words: str) -> Kind[str]:
    """One of a few words."""
    wanted = "one of " + ", ".join(f'"{word}"' for word in words)
    return Kind(wanted, wanted, str, text(wanted, words.__contains__).parse, str)


def whole(least: int, most: int) -> Kind[int]:
    """A whole number within bounds, both included."""
    wanted = f"a whole number from {least} to {most}"
    return Kind("whole number", wanted, int, lambda value: _bounded(value, least, most), str)


def duration(least: str = "1ms") -> Kind[Millis]:
    """A duration from `least` to 100 years."""
    units = ", ".join(_DURATIONS)
    wanted = f'a duration from {least} to 100y, with its unit, such as "30s" (units: {units})'
    bounds = parse_duration(least), parse_duration("100y")
    return Kind(
        "duration", wanted, str, lambda text: _bounded(parse_duration(text), *bounds), format_duration
    )


def size() -> Kind[ByteCount]:
    """A number of bytes, up to 1 GB."""
    units = ", ".join(_SIZES)
    wanted = f'a size from 1B to 1GB, with its unit, such as "64KB" (units: {units})'
    bounds = ByteCount(1), parse_size("1GB")
    return Kind("size", wanted, str, lambda text: _bounded(parse_size(text), *bounds), format_size)


def parse_duration(text: str) -> Millis:
    """Milliseconds of `"30s"` and the like; ValueError for anything else."""
    return Millis(_parse(text, _DURATIONS))


def format_duration(ms: Millis) -> str:
    """What `parse_duration` reads as `ms`, in the largest unit that divides it."""
    return _format(ms, _DURATIONS)


def parse_size(text: str) -> ByteCount:
    """Bytes of `"64KB"` and the like; ValueError for anything else."""
    return ByteCount(_parse(text, _SIZES))


def format_size(count: ByteCount) -> str:
    """What `parse_size` reads as `count`, in the largest unit that divides it."""
    return _format(count, _SIZES)


def parse_rate(value: object) -> RateLimit:
    """The rate limit of `"10/s"`, `"300/5m"` and the like; ValueError, with what is wanted, if none."""
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[3] not in _DURATIONS:
        raise ValueError('a number of requests and a time, such as "10/s" or "300/5m"')
    return RateLimit(int(match[1]), int(match[2] or 1) * _DURATIONS[match[3]])


def toml_value(text: str) -> Any:
    """What `text` is in TOML (`2`, `true`, `["a"]`, `"2"`), or the text itself where it is nothing."""
    try:
        read = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    return read["value"] if len(read) == 1 else text


def shown(value: object) -> str:
    """`value` for an error message: short, on one line, and of what may hold a password the scheme."""
    match value:
        case dict():
            return "a table"
        case list():
            return "an array"
        case bool():
            return str(value).lower()
        case str() if _MAY_TELL.search(value):
            scheme = _SCHEME.match(value)
            return f"'{scheme[0]}…'" if scheme else "a text that may hold a secret"
        case str():
            return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "…")
        case _:
            return str(value)


def bare(key: str) -> str:
    """A key or variable for an error message: on one line, whatever is in it."""
    return key if _BARE_KEY.fullmatch(key) else shown(key)


def unlike(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is none of `known`: which is near, or all of them."""
    names = list(known)
    near = get_close_matches(name, names, 1, _ALIKE)
    return f"; did you mean {near[0]}?" if near else f", wanted one of {', '.join(names)}."


def unknown(section: str, key: str, known: Mapping[str, Sequence[str]]) -> str:
    """What is said of a key that is not `known`, which has the keys of each section.

    An empty `key` stands for a section as a whole, an empty `section` for the top of the file.
    """
    near = [
        (_ratio(section, one) + _ratio(key, other), f"{one}.{other}")
        for one, keys in known.items()
        for other in keys
        if _ratio(key, other) >= _ALIKE
    ]
    if near:
        return f"unknown; did you mean {max(near)[1]}?"
    return "unknown" + (unlike(key, known[section]) if section in known else unlike(section, known))


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _bounded(value: N, least: int, most: int) -> N:
    if not least <= value <= most:
        raise ValueError(f"not from {least} to {most}")
    return value


def _parse(text: str, units: Mapping[str, int]) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(f"not a whole number with a unit ({', '.join(units)})")
    return int(match[1]) * units[match[2]]


def _format(amount: int, units: Mapping[str, int]) -> str:
    # Ascending by length, so the last that divides the amount is the largest.
    whole_units = [unit for unit, length in units.items() if length <= amount and amount % length == 0]
    unit = whole_units[-1] if whole_units else next(iter(units))
    return f"{amount // units[unit]}{unit}"
