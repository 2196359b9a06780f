"""These tests write the episodes of the replay tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "replay"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run on this machine alone ends with, to which nothing happened: its outcome, and its store's ids."""
    from train_process import ids, outcome, train

    path = tmp_path_factory.mktemp("undisturbed") / "run"
    train(path)
    return {"outcome": outcome(path), "ids": ids(path / "store")}
