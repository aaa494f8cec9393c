"""Files that belong together: all of them are replaced, or none is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def put_together(folder: Path) -> Iterator[Path]:
    """A folder inside `folder`, whose files move up when the block ends, in place of those called so.

    Where the block fails or is interrupted nothing is left of them. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".okdhp-", dir=folder) as drafts:  # of one filesystem: moving is at once
        yield Path(drafts)
        for file in sorted(Path(drafts).iterdir()):
            os.replace(file, folder / file.name)
