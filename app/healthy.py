"""Ends with 0 if the service of this machine and this environment's settings is ready: a container's health check."""

import http.client
import sys

from app.settings import Settings

TIMEOUT_S = 4.0


def healthy(port: int) -> bool:
    """Whether /readyz says so; asked directly, whatever proxy the environment names."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if healthy(Settings.load().port) else 1)
