"""Settings: POSE_* variables and .env, refused in one line when unknown or impossible."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import StartError
from app.settings import Settings


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no .env but the test's own


def test_the_defaults_are_those_documented() -> None:
    settings = Settings.load()
    assert (settings.port, settings.provider, settings.max_people, settings.api_keys) == (8000, "auto", 50, ())
    assert settings.pose_model.name == "pose.onnx" and settings.pose_model.is_absolute()


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("POSE_PORT=1\nPOSE_MAX_PEOPLE=7\nPOSE_MAX_IMAGES=3\nOTHER=untouched\n")
    monkeypatch.setenv("POSE_PORT", "2")
    monkeypatch.setenv("pose_max_people", "9")
    settings = Settings.load(port=3)
    assert (settings.port, settings.max_people, settings.max_images) == (3, 9, 3)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSE_API_KEYS", "one, two,")
    monkeypatch.setenv("POSE_STREAM_ALLOWED_ORIGINS", "*")
    settings = Settings.load()
    assert settings.api_keys == ("one", "two") and settings.stream_allowed_origins == ("*",)
    assert "two" not in repr(settings)


@pytest.mark.parametrize("name, value", [
    ("POSE_PORT", "eighty"), ("POSE_PORT", "70000"), ("POSE_PROVIDER", "gpu"), ("POSE_MAX_BATCH", "0"),
    ("POSE_MAX_DELAY_MS", "nan"), ("POSE_MAX_DELAY_MS", "-1"), ("POSE_STREAM_MAX_AGE_S", "inf"),
    ("POSE_LOG_LEVEL", "loud"), ("POSE_RATE_LIMIT_PER_MINUTE", "-1"), ("POSE_MAX_PIXELS", ""),
])  # fmt: skip
def test_an_impossible_value_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError, match=name) as stopped:
        Settings.load()
    assert "\n" not in str(stopped.value)


def test_the_container_s_health_check_loads_no_picture_library() -> None:
    """It starts a Python every ten seconds."""
    loaded = "import sys, app.healthy; sys.exit('cv2' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize("nothing", [",", " ", " , ,"])
@pytest.mark.parametrize("name", ["POSE_API_KEYS", "POSE_TRUSTED_PROXIES"])
def test_a_list_of_nothing_is_refused_because_no_keys_would_open_the_service(
    monkeypatch: pytest.MonkeyPatch, name: str, nothing: str
) -> None:
    monkeypatch.setenv(name, nothing)
    with pytest.raises(StartError, match=f"{name}: .*names nothing"):
        Settings.load()
    monkeypatch.setenv(name, "")
    assert Settings.load().api_keys == ()


def test_settings_that_contradict_each_other_are_refused() -> None:
    for contradiction, named in (
        ({"max_waiting": 10}, "max_waiting"),
        ({"max_waiting": 20, "max_people": 1}, "21"),  # looks: at the whole, 2 x 2 and 4 x 4 tiles
        ({"tiles": 5}, "POSE_MAX_TILES"),
        ({"max_tiles": 1}, "POSE_TILES"),
        ({"stream_tiles": 3, "max_tiles": 2}, "POSE_STREAM_TILES"),
        ({"max_tiles": 9}, "MAX_TILES"),
        ({"max_pixels": 100_000_001}, "POSE_MAX_DECODED_PIXELS"),
    ):
        with pytest.raises(StartError, match=named):
            Settings.load(**contradiction)


@pytest.mark.parametrize("where", ["environment", "file"])
def test_an_unknown_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "file":
        Path(".env").write_text("POSE_PROVIDERS=cpu\n")
    else:
        monkeypatch.setenv("POSE_PROVIDERS", "cpu")
    with pytest.raises(StartError, match="unknown setting POSE_PROVIDERS"):
        Settings.load()
