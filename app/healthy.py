"""Ends with 0 if the service of this machine and this environment's settings is ready: a container's health check."""

import http.client
import sys

from app.settings import Settings

TIMEOUT_S = 4.0


ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # who listens on all is asked here


def healthy(host: str, port: int) -> bool:
    """Whether /readyz says so of a service that listens on `host`; asked directly, whatever proxy is set."""
    connection = http.client.HTTPConnection(ANY_ADDRESS.get(host, host), port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    settings = Settings.load()
    sys.exit(0 if healthy(settings.host, settings.port) else 1)
