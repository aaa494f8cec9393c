"""The bundled weights on a public-domain photograph: one astronaut, upright, in front of flags."""

from pathlib import Path

import numpy as np
import pytest
from serving import encoded, running
from skimage import data

from app.settings import Settings

FACE, WAIST = (150, 40, 300, 230), 512  # pixels of the 512 x 512 photograph


def test_the_astronaut_is_found_with_her_face_and_shoulders(real_models: dict[str, Path]) -> None:
    with running(Settings(provider="cpu", **real_models)) as server:  # type: ignore[arg-type]
        answer = server.client.post("/pose", content=encoded(data.astronaut(), ".jpg")).json()
        assert answer["people"], "nobody found"
        points = {point["name"]: point for point in answer["people"][0]["keypoints"]}
        for name in ("nose", "left_eye", "right_eye"):
            assert FACE[0] <= points[name]["x"] <= FACE[2] and FACE[1] <= points[name]["y"] <= FACE[3], name
        assert points["left_shoulder"]["x"] > points["nose"]["x"] > points["right_shoulder"]["x"]
        assert points["left_shoulder"]["y"] > points["nose"]["y"] < points["right_shoulder"]["y"]


def test_a_turned_photograph_gives_the_same_answer_by_its_exif(real_models: dict[str, Path]) -> None:
    import io

    from PIL import Image

    sideways = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(np.rot90(data.astronaut())).save(sideways, "PNG", exif=exif)
    with running(Settings(provider="cpu", **real_models)) as server:  # type: ignore[arg-type]
        upright = server.client.post("/pose", content=encoded(data.astronaut())).json()["people"]
        turned = server.client.post("/pose", content=sideways.getvalue()).json()["people"]
    assert upright == turned


def test_a_picture_without_people_is_answered_with_nobody(real_models: dict[str, Path]) -> None:
    with running(Settings(provider="cpu", **real_models)) as server:  # type: ignore[arg-type]
        for image in (np.full((480, 640, 3), 127, np.uint8), data.coffee()):
            assert server.client.post("/pose", content=encoded(image, ".jpg")).json()["people"] == []


@pytest.mark.parametrize("side", [16, 4000])
def test_tiny_and_huge_pictures_are_answered(real_models: dict[str, Path], side: int) -> None:
    with running(Settings(provider="cpu", **real_models)) as server:  # type: ignore[arg-type]
        answer = server.client.post("/pose", content=encoded(np.zeros((side, side, 3), np.uint8), ".jpg"))
        assert answer.status_code == 200 and answer.json()["image"] == {"width": side, "height": side}
