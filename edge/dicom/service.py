"""A DICOMweb service as a client sees it (PS3.18 8): its address, a login, certificates of both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge.dicom.delivery.carrier import Unreachable
from edge.dicom.delivery.destination import Certificates
from edge.errors import missing_package

FIX = "check its address, the login and that it runs"


class Service:
    """Requests to one service.

    Args:
        url: without user.
        timeout: seconds that it may take to answer.
        login: user and password.
        token_file: holds a bearer token; read for every request, so that it can be renewed.

    Raises:
        MissingPackage: requests is not installed.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        certificates: Certificates,
        login: tuple[str, str] | None = None,
        token_file: str = "",
    ) -> None:
        try:
            import requests
            from requests.adapters import HTTPAdapter
        except ImportError as e:
            raise missing_package("requests", "pacs", "DICOMweb") from e
        self.url, self._timeout, self._token_file = url, timeout, token_file
        self._session, self.error = requests.Session(), requests.RequestException
        self._session.auth, self._ca = login, certificates.ca or True
        if certificates.cert:
            self._session.cert = (
                (certificates.cert, certificates.key) if certificates.key else certificates.cert
            )
        if not certificates.verify_name:

            class AnyName(HTTPAdapter):
                def init_poolmanager(self, *args: Any, **how: Any) -> None:
                    super().init_poolmanager(*args, **how, assert_hostname=False)

            self._session.mount("https://", AnyName())

    def request(self, method: str, path: str, **how: Any) -> Any:
        """The answer, whatever its status.

        Raises:
            Unreachable: there is none.
        """
        headers = {"Accept": "application/dicom+json", **how.pop("headers", {})}
        try:
            if self._token_file:
                headers["Authorization"] = f"Bearer {Path(self._token_file).read_text().strip()}"
            return self._session.request(
                method,
                f"{self.url}/{path}",
                headers=headers,
                timeout=self._timeout,
                verify=self._ca,  # the environment's would come before the session's
                allow_redirects=False,
                **how,
            )
        except self.error as e:
            raise Unreachable(f"no answer of {self.url}", cause_of(e), FIX) from None
        except OSError as e:
            raise Unreachable(f"no request to {self.url}", e.strerror or str(e), FIX) from e

    def close(self) -> None:
        self._session.close()


def cause_of(error: BaseException) -> str:
    """What a connection failed of, below requests' own words."""
    while error.__context__ is not None:
        error = error.__context__
    return str(getattr(error, "strerror", None) or error)
