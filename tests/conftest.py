"""Hypothesis profiles, a cache folder of this session's own, and the development data beside the checkout."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

settings.register_profile("ci", max_examples=60, derandomize=True, deadline=None, suppress_health_check=SLOW_IS_FINE)
settings.register_profile("long", max_examples=2000, deadline=None, suppress_health_check=SLOW_IS_FINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing in the user's own cache decides a test, and no test leaves anything there."""
    folder = tmp_path_factory.mktemp("taskvec-cache")
    os.environ["TASKVEC_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data; a test that asks for it is skipped, and listed as skipped, where there is none."""
    if not SHARED.is_dir():
        pytest.skip("needs the development data: no folder 'shared' beside the checkout")
    return SHARED
