"""Files that belong together: they are put in their places at the end, one after the other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def put_together(folder: Path) -> Iterator[Path]:
    """A folder inside `folder`, whose files move up when the block ends, in place of those called so.

    Where the block fails or is interrupted nothing is left of them. Raises OSError; IsADirectoryError before any moves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".okdhp-", dir=folder) as drafts:  # of one filesystem: moving is at once
        yield Path(drafts)
        moves = [(draft, (folder / draft.name).resolve()) for draft in sorted(Path(drafts).iterdir())]  # through links
        for _, place in moves:
            if place.is_dir():
                raise IsADirectoryError(f"{place}: is a folder, and a file is to be written there")
        for draft, place in moves:
            os.replace(draft, place)
