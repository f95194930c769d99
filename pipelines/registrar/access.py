"""Where Kubeflow's API is and as whom it is asked: said by this process's surroundings, never by a file that describes runs."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from distillery.errors import ConfigError

ENDPOINT, UI, NAMESPACE = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KF_PIPELINES_NAMESPACE"
TOKEN, TOKEN_PATH = "KF_PIPELINES_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"
PROJECTED = Path("/var/run/secrets/kubeflow/pipelines/token")
"""Where Kubernetes keeps the projected token of a pod that asked for one."""
IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """The API as it is asked.

    Attributes:
        endpoint: its address without a slash at the end.
        ui: of Kubeflow's pages.
        namespace: where several people share Kubeflow, the one that things are registered in; else "".
        token: read anew for every request, because Kubernetes replaces it; "" where there is none.
    """

    endpoint: str
    ui: str = ""
    namespace: str = ""
    token: Callable[[], str] = lambda: ""

    def page_of(self, run: str) -> str:
        """Kubeflow's page of a run."""
        return f"{self.ui or self.endpoint}/#/runs/details/{run}"


def find_access(host: str = "", namespace: str = "") -> Access:
    """The access that this process has.

    The address is `host`, else KF_PIPELINES_ENDPOINT, else in a pod Kubeflow's own service. The token is in the file that
    KF_PIPELINES_SA_TOKEN_PATH names, else in KF_PIPELINES_TOKEN, else in the projected file. It is never an argument, which a shell
    would keep in its history, and never goes over a line that others can read.

    Args:
        host: address as it was given on the command line.
        namespace: likewise.

    Raises:
        ConfigError: no address, one that is none, or a token that would leave this machine or cluster in the clear.
    """
    pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    given = host or os.environ.get(ENDPOINT, "").strip() or (IN_CLUSTER if pod else "")
    if not given:
        raise ConfigError(
            f"Kubeflow's address is not known: give --host, or set {ENDPOINT}, such as https://kubeflow.example.net/pipeline."
        )
    endpoint = _checked(given, "--host" if host else ENDPOINT)
    ui = os.environ.get(UI, "").strip()
    access = Access(
        endpoint,
        _checked(ui, UI) if ui else "",
        namespace or os.environ.get(NAMESPACE, "").strip(),
        _read_token,
    )
    if access.token() and urlsplit(endpoint).scheme == "http" and not _is_near(urlsplit(endpoint).hostname or "", pod):
        raise ConfigError(
            f"{endpoint!r} is not allowed together with a token, which anybody on the way could read: give an https address, "
            "or a port of this machine that is forwarded to Kubeflow."
        )
    return access


def _checked(address: str, where: str) -> str:
    parts = urlsplit(address)
    try:
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is none
        whole = False
    if not whole or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"{where} = {address!r} is not allowed: give an address such as https://kubeflow.example.net/pipeline, without a user."
        )
    return address.rstrip("/")


def _is_near(host: str, pod: bool) -> bool:
    return host in _LOCAL or (pod and (host.endswith((".svc", ".svc.cluster.local")) or "." not in host))


def _read_token() -> str:
    named = os.environ.get(TOKEN_PATH, "").strip()
    if not named and (given := os.environ.get(TOKEN, "").strip()):
        return given
    path = Path(named) if named else PROJECTED
    if not named and not path.is_file():
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise ConfigError(f"The token in {str(path)!r} cannot be read ({reason}): set {TOKEN_PATH} to the file that holds it.") from None
