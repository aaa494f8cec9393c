"""The `.env` file: what it names, and one line on what is wrong with it."""

from pathlib import Path

from dotenv.parser import parse_stream

from app.errors import StartError


def names_in(path: Path) -> list[str]:
    """The names that the file sets; none where there is no file. Raises StartError for what is not NAME=value."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8") as file:
            bindings = list(parse_stream(file))
    except UnicodeDecodeError:
        raise StartError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise StartError(f"{path}: cannot be read: {error.strerror}") from None
    for binding in bindings:
        if binding.error or "\0" in binding.original.string:
            raise StartError(f"{path}: line {binding.original.line} is not NAME=value")
    return [binding.key for binding in bindings if binding.key]
