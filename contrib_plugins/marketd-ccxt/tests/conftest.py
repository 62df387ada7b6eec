"""Where the real recordings are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def recordings() -> Path:
    """The folder of recorded answers; where it is absent, the test is reported as not run."""
    folder = Path(os.environ.get("MARKETD_RECORDINGS", ROOT.parent / "shared" / "data")) / "recordings"
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}: set MARKETD_RECORDINGS")
    return folder
