"""Settings: POSE_* variables and .env, refused in one line when unknown or impossible."""

import os
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
    Path(".env").write_text("# ours\n\nPOSE_PORT=1\nPOSE_MAX_PEOPLE=7\nPOSE_MAX_IMAGES=3\nOTHER=untouched\n")
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
    ("POSE_PORT", "eighty"), ("POSE_PORT", "65536"), ("POSE_PROVIDER", "gpu"), ("POSE_MAX_BATCH", "0"),
    ("POSE_MAX_DELAY_MS", "nan"), ("POSE_MAX_DELAY_MS", "-1"), ("POSE_STREAM_MAX_AGE_S", "inf"),
    ("POSE_LOG_LEVEL", "loud"), ("POSE_RATE_LIMIT_PER_MINUTE", "-1"), ("POSE_MAX_PIXELS", ""),
    ("POSE_BODY_TIMEOUT_S", "0"), ("POSE_DRAIN_S", "nan"), ("POSE_DRAIN_S", "-1"), ("POSE_MAX_RUN_MS", "0"),
    ("POSE_MIN_SCORE", "1.01"), ("POSE_MIN_SCORE", "nan"), ("POSE_INTRA_OP_THREADS", "-1"),
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


def test_a_key_that_is_no_utf_8_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSE_API_KEYS", os.fsdecode("Schlüssel".encode("latin-1")))
    with pytest.raises(StartError) as refused:
        Settings.load()
    assert str(refused.value).startswith("POSE_API_KEYS: ") and "is not UTF-8 text" in str(refused.value)
    assert "Schl" not in str(refused.value)


@pytest.mark.parametrize("value", ["foo", "proxy.local", "10.0.0.1/8", "*,10.0.0.1", "10.0.0.1:80"])
def test_a_proxy_that_no_client_can_come_from_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POSE_TRUSTED_PROXIES", value)
    with pytest.raises(StartError, match=r"^POSE_TRUSTED_PROXIES: .* is neither an address \(10.0.0.7\) nor a network"):
        Settings.load()


@pytest.mark.parametrize("value", ["*", "10.0.0.7", "10.0.0.0/8,::1,fd00::/8", ""])
def test_addresses_networks_and_everybody_are_trusted_proxies(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POSE_TRUSTED_PROXIES", value)
    assert ",".join(Settings.load().trusted_proxies) == value


@pytest.mark.parametrize("value", [
    "foo", "a.example", "//a.example", "https://", "https://a.example/", "https://A.example",
    "https://a.example:443", "http://a.example:80", "http://a:x",
])  # fmt: skip
def test_an_origin_that_no_browser_sends_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POSE_STREAM_ALLOWED_ORIGINS", value)
    with pytest.raises(StartError, match=r"^POSE_STREAM_ALLOWED_ORIGINS: .* is no origin as browsers send it \(https:"):
        Settings.load()


@pytest.mark.parametrize("value", ["*", "null", "https://a.example", "http://a:3000,http://[::1]:3000"])
def test_origins_that_browsers_send_may_be_allowed(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POSE_STREAM_ALLOWED_ORIGINS", value)
    assert ",".join(Settings.load().stream_allowed_origins) == value


@pytest.mark.parametrize(("content", "complaint"), [
    (b"# fine\nPOSE_PORT=1\nPOSE_TILES: 2\n", ".env: line 3 is not NAME=value"),
    (b"POSE_PORT='1\n", ".env: line 1 is not NAME=value"),
    ("POSE_PORT=1\n".encode("utf-16"), ".env: is not UTF-8 text; save it as UTF-8"),
    ("POSE_PORT=1\n".encode("utf-16-le"), ".env: line 1 is not NAME=value"),
])  # fmt: skip
def test_a_file_that_cannot_be_understood_is_refused_in_one_line(
    content: bytes, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    Path(".env").write_bytes(content)
    with pytest.raises(StartError) as stopped:
        Settings.load()
    assert str(stopped.value) == complaint
    assert not caplog.text


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has such a file")
def test_a_file_that_cannot_be_read_is_refused_in_one_line() -> None:
    Path(".env").symlink_to("/proc/self/mem")  # nobody may read its beginning, not even root
    with pytest.raises(StartError, match=r"^\.env: cannot be read: Input/output error$"):
        Settings.load()


def test_a_folder_in_the_file_s_place_sets_nothing() -> None:
    Path(".env").mkdir()  # as Docker makes one where it is to mount a file that is missing
    assert Settings.load().port == 8000


def test_what_is_wrong_with_a_setting_is_said_in_our_words_alone() -> None:
    with pytest.raises(StartError) as stopped:
        Settings.load(tiles=5)
    assert str(stopped.value) == "settings: POSE_TILES (5) must be at most POSE_MAX_TILES (4)"


def test_a_fault_of_the_keys_does_not_show_them() -> None:
    with pytest.raises(StartError, match="^POSE_API_KEYS: ") as stopped:
        Settings.load(api_keys=(b"secret\xff",))
    assert "secret" not in str(stopped.value)


def test_settings_that_contradict_each_other_are_refused() -> None:
    for contradiction, named in (
        ({"max_waiting": 49}, "POSE_MAX_WAITING"),  # people
        ({"max_waiting": 20, "max_people": 1}, "21"),  # looks: at the whole, 2 x 2 and 4 x 4 tiles
        ({"tiles": 5}, "POSE_MAX_TILES"),
        ({"max_tiles": 1}, "POSE_TILES"),
        ({"stream_tiles": 3, "max_tiles": 2}, "POSE_STREAM_TILES"),
        ({"max_tiles": 9}, "MAX_TILES"),
        ({"max_pixels": 100_000_001}, "POSE_MAX_DECODED_PIXELS"),
        ({"max_body_bytes": 400_000_001}, "POSE_MAX_HELD_BODY_BYTES"),
    ):
        with pytest.raises(StartError, match=named):
            Settings.load(**contradiction)


def test_limits_that_just_hold_what_they_must_are_taken() -> None:
    settings = Settings.load(
        max_pixels=9, max_decoded_pixels=9, max_body_bytes=9, max_held_body_bytes=9, max_people=21, max_waiting=21
    )
    assert settings.most_of_a_picture == 21  # people, and looks of 4 tiles a side


@pytest.mark.parametrize("line", ["POSE_PROVIDERS=cpu", "export pose_providers=", "POSE_PROVIDERS", None])
def test_an_unknown_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, line: str | None) -> None:
    """In the file, or in the environment."""
    if line is None:
        monkeypatch.setenv("POSE_PROVIDERS", "cpu")
    else:
        Path(".env").write_text(line)
    with pytest.raises(StartError, match="unknown setting POSE_PROVIDERS"):
        Settings.load()
