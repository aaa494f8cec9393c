"""MPII: a small release in the official nested structure, and the same people as the JSON conversion has them."""

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from app.geometry import crop_matrix, transform
from training.joints import MPII
from training.mpii import (
    RELEASE,
    Mpii,
    load_mpii,
    read_json,
    read_mpii,
    read_release,
)
from training.pictures import DataError

NOTHING = np.zeros((0, 0))


def struct(*rows: dict[str, Any]) -> np.ndarray:
    """A Matlab struct array (1, len(rows))."""
    array = np.empty((1, len(rows)), dtype=[(field, object) for field in rows[0]])
    for column, row in enumerate(rows):
        array[0, column] = tuple(row.values())
    return array


def person(number: int, labelled: list[int], hidden: tuple[int, ...] = ()) -> dict[str, Any]:
    """Joint k of person n at (100 n + 10 k + 0.25, 50 + 3 k); visibility as the release has it: 0, 1 or nothing."""
    points = [
        {"x": 100.0 * number + 10 * k + 0.25, "y": 50.0 + 3 * k, "id": k,
         "is_visible": NOTHING if k in (8, 9) else int(k not in hidden)}
        for k in labelled
    ]  # fmt: skip
    return {
        "x1": 100 * number, "y1": 20, "x2": 100 * number + 30, "y2": 60,
        "annopoints": struct({"point": struct(*points)}),
        "scale": 1.5 + number,
        "objpos": struct({"x": 100 * number + 40, "y": 90}),
    }  # fmt: skip


EVERY = list(range(16))
ONE, TWO, THREE, FOUR = (
    person(1, EVERY, hidden=(0, 6)), person(2, EVERY[::-1]), person(3, EVERY[2:9]), person(4, EVERY[:1])
)  # fmt: skip
# Pictures 11 (two people, the second not apart), 12 (one alone), 13 (of the test set), 14 (nobody), 15 (one person, and
# one without joints, as most bystanders are).
PICTURES = [[ONE, TWO], [THREE], [ONE], [], [FOUR, FOUR | {"annopoints": NOTHING}]]
SEPARATED = [[1], [1], [1], [], [1, 2]]
LISTED = [("11.jpg", ONE), ("11.jpg", TWO), ("12.jpg", THREE), ("15.jpg", FOUR)]


def write_release(path: Path, pictures: list[list[dict[str, Any]]] = PICTURES) -> Path:
    annolist = [
        {"image": struct({"name": f"{number}.jpg"}), "annorect": struct(*people) if people else NOTHING}
        for number, people in enumerate(pictures, 11)
    ]
    separated = np.empty((len(pictures), 1), dtype=object)
    for row, numbers in enumerate(SEPARATED[: len(pictures)]):
        separated[row, 0] = np.array(numbers, dtype=np.uint8).reshape(-1, 1)
    trained = np.array([[1, 1, 0, 1, 1]], dtype=np.uint8)[:, : len(pictures)]
    release = struct({"annolist": struct(*annolist), "img_train": trained, "single_person": separated, "version": "12"})
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"RELEASE": release})
    return path


def json_entry(image: str, listed: dict[str, Any]) -> dict[str, Any]:
    joints, labelled = [[-1.0, -1.0]] * 16, [0] * 16
    for point in listed["annopoints"]["point"][0, 0][0]:
        joints[point["id"]], labelled[point["id"]] = [round(point["x"], 4), round(point["y"], 4)], 1
    place = listed["objpos"][0, 0]
    centre, scale = [float(place["x"]), float(place["y"])], round(listed["scale"], 6)
    return {"joints_vis": labelled, "joints": joints, "image": image, "scale": scale, "center": centre}


def write_json(path: Path, listed: list[tuple[str, dict[str, Any]]] = LISTED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([json_entry(*entry) for entry in listed]))
    return path


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in (11, 12, 15):
        cv2.imwrite(str(folder / f"{number}.jpg"), np.full((200, 600, 3), number * 10, np.uint8))


def assert_same(a: Mpii, b: Mpii) -> None:
    for field in ("images", "joints", "labelled", "centres", "scales", "head_boxes"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)


def test_release_is_read_joint_by_joint(tmp_path: Path) -> None:
    people = read_release(write_release(tmp_path / RELEASE))
    assert people.images.tolist() == ["11.jpg", "11.jpg", "12.jpg", "15.jpg"]
    assert people.labelled.sum(1).tolist() == [16, 16, 7, 1]  # hidden joints are labelled too
    # Matlab's pixel (110.25, 53) has its centre at (109.75, 52.5) where pixels are counted from 0 and are areas.
    assert people.joints[0, 1].tolist() == [109.75, 52.5]
    assert people.joints[1, 15].tolist() == [349.75, 94.5]
    assert np.isnan(people.joints[2, 0]).all()
    assert people.centres[3].tolist() == [439.5, 89.5]
    assert people.scales.tolist() == [2.5, 3.5, 4.5, 5.5]
    assert people.head_boxes[2].tolist() == [299.5, 19.5, 329.5, 59.5]


def test_sufficiently_separated_people_alone_can_be_asked_for(tmp_path: Path) -> None:
    people = read_release(write_release(tmp_path / RELEASE), separated_only=True)
    assert people.scales.tolist() == [2.5, 4.5, 5.5]


def test_json_with_the_releases_head_boxes_equals_the_release(tmp_path: Path) -> None:
    release = read_release(write_release(tmp_path / "mpii_human_pose_v1_u12_2" / RELEASE))
    assert_same(read_mpii(tmp_path, "train"), release)
    write_json(tmp_path / "annot" / "train.json")
    assert_same(read_mpii(tmp_path, "train"), release)


def test_json_with_gt_valid_equals_the_release(tmp_path: Path) -> None:
    release = read_release(write_release(tmp_path / "elsewhere" / RELEASE))
    folder = tmp_path / "mpii"
    write_json(folder / "annot" / "valid.json")
    corners = np.array([[[p["x1"], p["y1"]], [p["x2"], p["y2"]]] for _, p in LISTED], dtype=np.float64)
    scipy.io.savemat(folder / "annot" / "gt_valid.mat", {"headboxes_src": corners.transpose(1, 2, 0)})
    assert_same(read_mpii(folder, "val"), release)
    write_json(folder / "annot" / "valid.json", LISTED[:3])
    with pytest.raises(DataError, match=r"gt_valid\.mat: expected head boxes \(2, 2, 3\), got \(2, 2, 4\)"):
        read_mpii(folder, "val")


def test_mmposes_names_for_a_split_and_its_head_boxes_are_known(tmp_path: Path) -> None:
    release = read_release(write_release(tmp_path / "elsewhere" / RELEASE))
    path = write_json(tmp_path / "mpii" / "annotations" / "mpii_val.json")
    corners = np.array([[[p["x1"], p["y1"]], [p["x2"], p["y2"]]] for _, p in LISTED], dtype=np.float64)
    scipy.io.savemat(path.with_name("mpii_gt_val.mat"), {"headboxes_src": corners.transpose(1, 2, 0)})
    assert_same(read_mpii(tmp_path / "mpii", "val"), release)


def test_a_json_with_a_byte_order_mark_is_read_as_one_without(tmp_path: Path) -> None:
    path = write_json(tmp_path / "train.json")
    before = read_json(path)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert_same(read_json(path), before)


def test_whoever_is_in_a_conversions_val_is_not_in_the_releases_train(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_release(tmp_path / RELEASE)
    write_pictures(tmp_path / "images")
    path = write_json(tmp_path / "annot" / "valid.json", LISTED[1:2])  # one of the two in a picture: it is seen
    with caplog.at_level(logging.INFO):
        train, val = load_mpii(tmp_path, "train"), load_mpii(tmp_path, "val")
    assert (len(train.people), len(val.people)) == (2, 1)
    assert not set(train.image_ids) & set(val.image_ids)
    assert f"2 of 4 people of the release are left out of train: their pictures are in {path}" in caplog.text
    write_json(path)
    with pytest.raises(DataError, match=r"valid\.json: has every picture of the release"):
        read_mpii(tmp_path, "train")


def test_json_alone_has_no_head_boxes_and_strangers_get_none(tmp_path: Path) -> None:
    assert np.isnan(read_json(write_json(tmp_path / "mpii" / "annot" / "valid.json")).head_boxes).all()
    write_release(tmp_path / "mpii" / RELEASE, PICTURES[:2])
    assert np.isfinite(read_mpii(tmp_path / "mpii", "val").head_boxes).all(1).tolist() == [True, True, True, False]


def test_release_and_json_give_the_trainer_the_same_people(tmp_path: Path) -> None:
    write_release(tmp_path / "a" / RELEASE)
    write_json(tmp_path / "b" / "annot" / "train.json")
    loaded = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_pictures(folder / "images")
        loaded.append(load_mpii(folder, "train"))
    first, second = loaded
    for field in ("picture", "boxes", "keypoints", "labelled", "area", "ids", "image_ids"):
        torch.testing.assert_close(getattr(first.people, field), getattr(second.people, field), msg=field)
    assert (len(first.pictures), len(first.people), first.people.keypoints.shape) == (3, 4, (4, 16, 2))
    assert first.people.keypoints.isfinite().all()
    for row, image in enumerate(read_mpii(tmp_path / "a", "train").images):  # each with their own picture
        colour = first.pictures.picture(int(first.people.picture[row]))[0, 0, 0]
        assert abs(int(colour) - 10 * int(image[:2])) <= 1


def test_a_picture_has_the_number_that_it_had_in_every_version(tmp_path: Path) -> None:
    """By which it is held out, or not."""
    write_json(tmp_path / "annot" / "train.json", [("015601864.jpg", LISTED[0][1])])
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "015601864.jpg"), np.zeros((20, 30, 3), np.uint8))
    assert load_mpii(tmp_path, "train").image_ids.tolist() == [30798836116469]


def test_people_of_a_picture_that_is_missing_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_release(tmp_path / RELEASE)
    write_pictures(tmp_path / "images")
    (tmp_path / "images" / "11.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        dataset = load_mpii(tmp_path, "train")
    assert (len(dataset.pictures), len(dataset.people)) == (2, 2)
    assert "11.jpg" in caplog.text


def test_crops_are_those_of_the_official_protocol(tmp_path: Path) -> None:
    """A square of 1.25 x 200 px per scale around a centre 15 px per scale below the given one."""
    people = read_release(write_release(tmp_path / RELEASE))
    for box, centre, scale in zip(people.boxes(), people.centres, people.scales, strict=True):
        matrix = crop_matrix(box, (256, 256))
        middle = centre + (0, 15 * scale)
        np.testing.assert_allclose(transform(middle, matrix), (128, 128), atol=1e-3)
        np.testing.assert_allclose(transform(middle + 125 * scale, matrix), (256, 256), atol=1e-3)


def test_flip_exchanges_left_and_right() -> None:
    for name, flipped in zip(MPII.names, MPII.flip_index, strict=True):
        swapped = {"left": name.replace("left", "right"), "righ": name.replace("right", "left")}.get(name[:4], name)
        assert MPII.names[flipped] == swapped


def test_person_without_a_usable_scale_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_json(tmp_path / "train.json")
    content = json.loads(path.read_text())
    content[1]["scale"] = 0
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert len(read_json(path)) == 3
    assert "person 1 (11.jpg) has no usable centre and scale" in caplog.text


def test_whoever_is_left_out_takes_no_other_s_head_box_along(tmp_path: Path) -> None:
    folder = tmp_path / "mpii"
    path = write_json(folder / "annot" / "valid.json")
    corners = np.arange(16, dtype=np.float64).reshape(2, 2, 4)
    scipy.io.savemat(path.with_name("gt_valid.mat"), {"headboxes_src": corners})
    everyone = read_mpii(folder, "val")
    content = json.loads(path.read_text())
    content[1]["scale"] = -1
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(read_mpii(folder, "val").head_boxes, np.delete(everyone.head_boxes, 1, axis=0))


@pytest.mark.parametrize("centre", [None, [1.0, 2.0, 3.0]])
def test_a_centre_that_is_none_is_told_in_one_line(tmp_path: Path, centre: object) -> None:
    path = write_json(tmp_path / "train.json")
    content = json.loads(path.read_text())
    content[0]["center"] = centre
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="expected MPII as a list in JSON"):
        read_json(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '[{"image": "1.jpg"}]', '{"images": []}', "[1]"])
def test_another_json_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"^.*train\.json: (expected MPII|no annotated person)[^\n]*$"):
        read_json(path)


def test_another_mat_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / RELEASE
    for content in ({"other": 1}, {"RELEASE": 3}):
        scipy.io.savemat(path, content)
        with pytest.raises(DataError, match=rf"^.*expected MPII's {RELEASE}: [^\n]*$"):
            read_release(path)
    path.write_bytes(b"not a mat file at all")
    with pytest.raises(DataError, match="expected MPII's"):
        read_release(path)


def test_missing_split_says_what_was_expected(tmp_path: Path) -> None:
    write_release(tmp_path / RELEASE)
    with pytest.raises(DataError, match=r"expected .*annot/valid\.json or .*mpii_val\.json; the release alone") as told:
        read_mpii(tmp_path, "val")
    assert "a network trained on it has seen the people of the usual valid.json" in str(told.value)
    with pytest.raises(DataError, match="none of its 3 MPII pictures could be read"):
        load_mpii(tmp_path, "train")
