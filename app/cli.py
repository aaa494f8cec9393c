"""The command line: `okdhp serve | predict | ...`."""

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from app.errors import PoseError, StartError
from app.settings import Settings

app = typer.Typer(help="Human pose estimation: serve it, or try it on a picture.", no_args_is_help=True)


def _settings_help() -> str:
    rows = [
        f"  POSE_{name.upper()} = {_shown(field.default)}\n      {field.description}"
        for name, field in Settings.model_fields.items()
    ]
    return "Start the service.\n\n\b\nSettings, from the environment or a .env file:\n" + "\n".join(rows)


def _shown(default: Any) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _load(**overrides: Any) -> Settings:
    try:
        return Settings.load(**{name: value for name, value in overrides.items() if value is not None})
    except StartError as error:
        raise _exit(error) from None


def _exit(error: Exception) -> typer.Exit:
    typer.echo(f"okdhp: {error}", err=True)
    return typer.Exit(2)


@app.command(help=_settings_help())
def serve(
    host: Annotated[str | None, typer.Option(help="overrides POSE_HOST")] = None,
    port: Annotated[int | None, typer.Option(help="overrides POSE_PORT")] = None,
) -> None:
    """Start the service; every setting is an environment variable."""
    import uvicorn

    from app.main import create_app

    settings = _load(host=host, port=port)
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,  # our own log line has the request's id and its time
        ws="websockets-sansio",
        ws_max_size=settings.stream_max_message_bytes,
        ws_per_message_deflate=False,  # pictures are compressed already
        timeout_graceful_shutdown=30,
    )


@app.command()
def predict(
    picture: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a JPEG, PNG or WebP file")],
    render: Annotated[Path | None, typer.Option(help="also draw the people into this JPEG file")] = None,
) -> None:
    """Print the people in PICTURE as JSON, without a server."""
    try:
        typer.echo(asyncio.run(_predict(picture, render, _load())))
    except (PoseError, StartError) as error:
        raise _exit(error) from None


async def _predict(picture: Path, drawn: Path | None, settings: Settings) -> str:
    from app import formats, render
    from app.pipeline import Options, Pipeline

    pipeline = Pipeline(settings)
    try:
        await pipeline.warm()
        image = await pipeline.decode(picture.read_bytes())
        result = await pipeline.people(image, Options(settings.max_people))
    finally:
        await pipeline.close()
    if drawn is not None:
        drawn.write_bytes(render.to_jpeg(render.draw(image, result.people)))
    answer = formats.native(image, result.people, pipeline.networks, result.timing_ms)
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode()


# Commands that need PyTorch (train, evaluate, export) go here; each imports its module inside the function, so that the
# service neither needs nor loads it.


if __name__ == "__main__":
    app()
