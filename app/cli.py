"""The command line: `okdhp serve | predict | ...`."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from app import training_cli
from app.errors import PoseError, StartError
from app.saying import ended, one_line_errors
from app.settings import Settings

app = typer.Typer(help="Human pose estimation: serve it, show it cameras, train it.", no_args_is_help=True)


def _settings_help() -> str:
    rows = [
        f"  POSE_{name.upper()} = {_shown(field.default)}\n      {field.description}"
        for name, field in Settings.model_fields.items()
    ]
    return "Start the service.\n\n\b\nSettings, from the environment or a .env file:\n" + "\n".join(rows)


def _shown(default: Any) -> str:
    if isinstance(default, Path):
        return f"{default.parent.name}/{default.name}"
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _load(**overrides: Any) -> Settings:
    try:
        return Settings.load(**{name: value for name, value in overrides.items() if value is not None})
    except StartError as error:
        raise ended(error) from None


@app.command(help=_settings_help())
def serve(
    host: Annotated[str | None, typer.Option(help="overrides POSE_HOST")] = None,
    port: Annotated[int | None, typer.Option(help="overrides POSE_PORT")] = None,
) -> None:
    """Start the service; every setting is an environment variable."""
    from app import logs, server

    settings = _load(host=host, port=port)
    logs.configure(settings.log_level)
    try:
        server.serve(settings)
    except StartError as error:
        raise ended(error) from None


@app.command()
def predict(
    picture: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a JPEG, PNG or WebP file")],
    render: Annotated[Path | None, typer.Option(help="also draw the people into this JPEG, PNG or WebP file")] = None,
    tiles: Annotated[
        int | None,
        typer.Option(min=1, help="overlapping tiles a side in which a large picture is looked at, too; as POSE_TILES"),
    ] = None,
) -> None:
    """Print the people in PICTURE as JSON, without a server."""
    try:
        typer.echo(asyncio.run(_predict(picture, render, tiles, _load())))
    except (PoseError, StartError, OSError) as error:
        raise ended(error) from None


async def _predict(picture: Path, drawn: Path | None, tiles: int | None, settings: Settings) -> str:
    from app import formats, render
    from app.pipeline import Pipeline
    from app.schemas import PoseParameters

    options = PoseParameters.model_validate({"tiles": tiles}).options(settings)
    if drawn is not None:
        render.check_suffix(drawn.suffix)
    pipeline = Pipeline(settings)
    try:
        await pipeline.warm()
        began = time.perf_counter()
        async with pipeline.opened(picture.read_bytes()) as opened:
            result = await pipeline.people(opened.image, options)
        timing_ms = opened.timing_ms(began, result.timing_ms)
    finally:
        await pipeline.close()
    if drawn is not None:
        drawn.write_bytes(render.to_file(render.draw(opened.image, result.people), drawn.suffix))
    answer = formats.native(opened.image.shape[1::-1], result.people, pipeline.networks, timing_ms)
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode()


@app.command()
def watch(
    sources: Annotated[
        list[str], typer.Argument(help="cameras: rtsp:// or http:// addresses or numbers of devices; or video files")
    ],
    url: Annotated[str, typer.Option(help="of the service")] = "http://localhost:8000",
    key: Annotated[str, typer.Option(envvar="OKDHP_API_KEY", help="an API key, where the service wants one")] = "",
    max_fps: Annotated[float, typer.Option(min=0.1, help="frames a second of each source, at most")] = 15,
    max_side: Annotated[int, typer.Option(min=16, help="pixels a side of the frames as sent, at most")] = 1280,
    options: Annotated[str, typer.Option(help='of the stream, as JSON, such as {"tiles": 2}')] = "",
) -> None:
    """Show cameras or video files to a running service; print each answer as a line of JSON."""
    from app.camera import Camera
    from app.watching import Service, watch

    cameras: list[Camera] = []

    async def run() -> None:
        cameras.extend(Camera(source, max_fps=max_fps, max_side=max_side) for source in sources)
        await watch(
            cameras, Service(url, key, options), lambda answer: print(orjson.dumps(answer).decode(), flush=True)
        )

    code: Any = 0
    try:
        with one_line_errors():
            asyncio.run(run())
    except typer.Exit as end:
        code = end.exit_code
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    if any(camera.reading for camera in cameras):  # stuck in OpenCV, where Python's own end would abort the process
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    raise typer.Exit(code)


app.add_typer(training_cli.app)

if __name__ == "__main__":
    app()
