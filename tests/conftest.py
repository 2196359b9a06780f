"""What every test shares: one thread per library, derandomised property tests, and the optional reference data."""

from __future__ import annotations

import os

# Before torch or numpy is imported: their thread pools are sized once, and the machine's cores are shared.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder of reference data beside the checkout; tests that ask for it are skipped where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no reference data: ../shared does not exist beside this checkout")
    return folder


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of two checkpoints; see `exported_for_tests.Recorded`. Nobody changes its files."""
    from exported_for_tests import write_recorded

    return write_recorded(tmp_path_factory.mktemp("recorded") / "run")


@pytest.fixture(scope="session")
def exported(recorded: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """That run and its export; see `exported_for_tests.Exported`. Nobody changes its files."""
    from exported_for_tests import write_export_of

    return write_export_of(recorded, tmp_path_factory.mktemp("exported"))
