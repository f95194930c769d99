"""`helm test`: whether a pod of this namespace reaches the store, and MLflow where it is named. It reads, and changes nothing."""

import os
import sys
from collections.abc import Callable

from distillery.errors import DistilleryError
from distillery.storage import open_store


def check_credentials() -> str:
    """Keys come in pairs."""
    for one, other in (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")):
        if bool(os.environ.get(one)) != bool(os.environ.get(other)):
            raise ValueError(f"one of {one} and {other} is missing: look at the keys of the Secret")
    return "whole"


def check_store() -> str:
    """Asks what lies below a prefix that nothing has, which takes address, bucket and the right to list."""
    place = os.environ["DISTILLERY_STORE"]
    open_store(place).list("helm-test")
    return place


def check_mlflow() -> str:
    """Asks for one experiment."""
    place = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not place:
        return "none: steps write JSON beside their outputs"
    from mlflow import MlflowClient

    MlflowClient(place).search_experiments(max_results=1)
    return place


def main() -> int:
    """Tell of each check; 1 where one failed."""
    checks: dict[str, Callable[[], str]] = {"credentials": check_credentials, "store": check_store, "mlflow": check_mlflow}
    failed = 0
    for name, check in checks.items():
        try:
            sys.stdout.write(f"{name}: {check()}\n")
        except (DistilleryError, ValueError) as error:
            failed += 1
            sys.stdout.write(f"{name}: FAILED: {error}\n")
        except Exception as error:  # mlflow raises its own, which is not there where it is not installed
            failed += 1
            sys.stdout.write(f"{name}: FAILED: {type(error).__name__}: {error}\n")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
