"""How uvicorn is told to serve."""

import signal
from pathlib import Path

from serving import Server
from streams import ONE, answer
from websockets.sync.client import connect

import app.server
from app.main import create_app
from app.server import configured
from app.settings import Settings


def test_connections_outlive_a_proxys_and_an_end_does_not_wait_for_ever(tiny_models: dict[str, Path]) -> None:
    settings = Settings(provider="cpu", **tiny_models)  # type: ignore[arg-type]
    config = configured(create_app(settings), settings)
    assert config.timeout_keep_alive > 60, "a proxy sends on connections that it has kept for a minute"
    assert config.timeout_graceful_shutdown is not None and 10 <= config.timeout_graceful_shutdown <= 60


def test_a_stream_is_not_compressed_though_its_client_would(server: Server) -> None:
    with connect(server.url.replace("http", "ws") + "/stream", compression="deflate", open_timeout=20) as stream:
        stream.send(ONE)
        assert len(answer(stream)["people"]) == 1
        assert stream.protocol.extensions == []


def test_a_service_that_is_told_to_end_before_its_networks_are_loaded_does_not_drain(
    tiny_models: dict[str, Path],
) -> None:
    settings = Settings(provider="cpu", drain_s=3600, **tiny_models)  # type: ignore[arg-type]
    starting = app.server.Server(configured(create_app(settings), settings), settings.drain_s)
    starting.handle_exit(signal.SIGTERM, None)
    assert starting.should_exit
