"""What tests do where a real part is missing that they need."""

import os

import pytest


def skip_or_fail(reason: str) -> None:
    """Skip, unless DISTILLERY_REQUIRE_INTEGRATION=1 says that nothing may be skipped."""
    if os.environ.get("DISTILLERY_REQUIRE_INTEGRATION") == "1":
        pytest.fail(f"DISTILLERY_REQUIRE_INTEGRATION=1, but {reason}", pytrace=False)
    pytest.skip(reason)
