from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marketd.storage.sqlite import SQLiteStorage


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SQLiteStorage]:
    storage = SQLiteStorage(tmp_path / "bars.db")
    await storage.open()
    yield storage
    await storage.close()
