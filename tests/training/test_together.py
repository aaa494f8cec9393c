"""Files that belong together."""

from pathlib import Path

import pytest

from training.together import put_together


def test_files_take_the_places_of_those_called_so_also_through_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "network").write_text("old")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "network").symlink_to(tmp_path / "elsewhere" / "network")
    with put_together(tmp_path / "out") as folder:
        (folder / "network").write_text("new")
        (folder / "card").write_text("new")
    assert (tmp_path / "elsewhere" / "network").read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["card", "network"]


def test_where_one_cannot_be_put_none_is(tmp_path: Path) -> None:
    (tmp_path / "card").write_text("old")
    (tmp_path / "network").mkdir()
    with pytest.raises(IsADirectoryError, match="network: is a folder"), put_together(tmp_path) as folder:
        (folder / "card").write_text("new")
        (folder / "network").write_text("new")
    assert (tmp_path / "card").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_files_are_drafted_where_they_will_be_since_moving_between_filesystems_is_not_at_once(tmp_path: Path) -> None:
    with put_together(tmp_path / "new" / "out") as folder:
        assert folder.parent == tmp_path / "new" / "out"
        (folder / "network").write_text("new")
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == ["network"]


def test_of_what_was_stopped_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), put_together(tmp_path / "out") as folder:
        (folder / "network").write_text("half")
        raise KeyboardInterrupt
    assert list((tmp_path / "out").iterdir()) == []
