"""What the README and docs/service.md say is so."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from serving import Server, encoded, picture, running

from app.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PIXELS, SCORES = 1.0, 0.02  # between processors, sums differ in their last digits


def test_the_shown_answer_is_what_the_service_says(real_models: dict[str, Path]) -> None:
    block = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert block is not None
    shown = json.loads(block[1])
    with running(Settings(provider="cpu", **real_models)) as server:  # type: ignore[arg-type]
        photograph = (ROOT / "docs" / "astronaut.jpg").read_bytes()
        answer = server.client.post("/pose", files={"image": photograph}).json()
    assert answer["image"] == shown["image"]
    assert set(answer["timing_ms"]) == set(shown["timing_ms"])
    assert len(answer["people"]) == len(shown["people"]) == 1
    person, said = answer["people"][0], shown["people"][0]
    assert person["box"] == pytest.approx(said["box"], abs=PIXELS)
    assert person["score"] == pytest.approx(said["score"], abs=SCORES)
    for keypoint, listed in zip(person["keypoints"], said["keypoints"], strict=False):
        assert keypoint["name"] == listed["name"]
        assert (keypoint["x"], keypoint["y"]) == pytest.approx((listed["x"], listed["y"]), abs=PIXELS)


def shown_program(word: str) -> str:
    """The Python in docs/service.md that has `word` in it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/service.md").read_text(), re.DOTALL)
    (program,) = (block for block in blocks if word in block)
    return str(program)


def printed_by(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_the_shown_client_for_pictures_works(server: Server, tmp_path: Path) -> None:
    shown, photograph = shown_program("httpx.post").replace("http://localhost:8000", server.url), tmp_path / "one.png"
    photograph.write_bytes(encoded(picture(160, 120, boxes=((20, 20, 50, 90),))))
    (line,) = printed_by(shown.replace("docs/astronaut.jpg", str(photograph))).splitlines()
    assert line.count("left_") == line.count("right_") == 8
    with pytest.raises(subprocess.CalledProcessError) as refused:
        printed_by(shown.replace("docs/astronaut.jpg", "README.md") + "\nprint('not refused')")
    assert (refused.value.stdout, refused.value.stderr) == ("", "the picture is not a JPEG, PNG or WebP file\n")


def test_the_shown_client_of_a_stream_works(server: Server, tmp_path: Path) -> None:
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for _ in range(3):
        writer.write(picture(160, 120, boxes=((20, 20, 50, 90),)))
    writer.release()
    program = shown_program("VideoCapture").replace("VideoCapture(0)", f"VideoCapture({str(film)!r})")
    printed = printed_by(program.replace("ws://localhost:8000", server.url.replace("http", "ws")))
    assert [line.split()[:2] for line in printed.splitlines()] == [["0", "1"], ["1", "1"], ["2", "1"]]


def test_every_setting_is_listed_with_its_default() -> None:
    listed = dict(re.findall(r"^\| `(POSE_\w+)` \| `?([^`|]*?)`? \|", (ROOT / "docs/service.md").read_text(), re.M))
    for name, field in Settings.model_fields.items():
        default = field.default
        expected = f"weights/{default.name}" if isinstance(default, Path) else default
        if isinstance(expected, float):
            expected = f"{expected:g}"
        if isinstance(expected, tuple):
            expected = ",".join(expected)
        assert listed.pop(f"POSE_{name.upper()}").strip() == str(expected), name
    assert listed == {}


def test_every_file_the_readme_names_is_there() -> None:
    for target in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / target).exists(), target
    for folder in re.findall(r"^(\w+)/ ", README, re.M):
        assert (ROOT / folder).is_dir(), folder


def test_both_commands_of_the_first_screen_are_in_the_makefile() -> None:
    first_screen = "\n".join(README.splitlines()[:15])
    makefile = (ROOT / "Makefile").read_text()
    for target in ("serve", "test"):
        assert f"make {target}" in first_screen
        assert re.search(rf"^{target}:", makefile, re.M)
