"""The deployed ONNX files on annotated pictures: what users get, measured through the graph that serves them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tqdm import tqdm

from app.geometry import Matrix, crop_matrix, invert, letterbox_matrix, transform, warp
from app.suppression import people_of_cells
from training.calibration import Bin, reliability, right_keypoints
from training.data import PARTIAL_SOURCES, Dataset, People
from training.joints import JointSet
from training.measurable import check_measurable, measurable
from training.metrics import Found, oks, oks_share, outside_crowds, recall_at_false_rate
from training.pckh import Pckh, pckh
from training.pictures import DataError

BATCH = 32
CANDIDATES = 3.0  # false people a picture that a detector may propose: few of them get a good pose
COCO_FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
OUTPUT_TASKS = {"keypoints": "pose", "boxes": "detector"}  # by a network's first output
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Network:
    """An ONNX file with one uint8 (N, H, W, 3) input; `run` takes a list of (H, W, 3) pictures of `size_wh`."""

    size_wh: tuple[int, int]
    run: Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def load_network(path: Path, task: str | None = None) -> Network:
    """Open an exported file on the CPU. Raises DataError for anything else, and for another `task` than is wanted."""
    try:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        _, height, width, _ = entry.shape
        first = session.get_outputs()[0].name
        if first not in OUTPUT_TASKS:
            raise ValueError(f"its first output is called {first}")
    except Exception as error:  # ONNX Runtime's errors have no common type
        raise DataError(f"{path}: not a network that okdhp export wrote: {error}") from error
    found = OUTPUT_TASKS[first]
    if task not in (None, found):
        raise DataError(f"{path}: is a {found} network, and a {task} network is wanted here")
    return Network((width, height), lambda pictures: session.run(None, {entry.name: np.stack(pictures)}))


def person_crop(dataset: Dataset, people: People, row: int, size_wh: tuple[int, int]) -> tuple[np.ndarray, Matrix]:
    """What a pose network of input `size_wh` sees of a person, as the service cuts it, and the map there (2, 3)."""
    matrix = crop_matrix(people.boxes[row].numpy(), size_wh)
    return warp(dataset.pictures.picture(int(people.picture[row])), matrix, size_wh), matrix


def letterboxed(image: np.ndarray, size_wh: tuple[int, int]) -> tuple[np.ndarray, Matrix]:
    """What a detector of input `size_wh` sees of a picture (H, W, 3), as the service fits it in, and the map (2, 3)."""
    matrix = letterbox_matrix((image.shape[1], image.shape[0]), size_wh)
    return warp(image, matrix, size_wh), matrix


def predict_poses(network: Network, dataset: Dataset, people: People) -> tuple[Floats, Floats]:
    """Keypoints (N, K, 2) in picture pixels and scores (N, K) for the people's own boxes; no flip test.

    Raises DataError for a network with other keypoints than the people's.
    """
    keypoints, scores = [], []
    for rows in tqdm(np.array_split(np.arange(len(people)), max(len(people) // BATCH, 1)), "poses", unit="batch"):
        crops, maps = zip(*(person_crop(dataset, people, row, network.size_wh) for row in rows), strict=True)
        points, confidence, *_ = network.run(crops)
        if points.shape[1] != people.keypoints.shape[1]:
            wanted = people.keypoints.shape[1]
            raise DataError(f"the people have {wanted} keypoints, this network predicts {points.shape[1]}")
        keypoints += [transform(p, invert(matrix)) for p, matrix in zip(points, maps, strict=True)]
        scores.append(confidence)
    return np.stack(keypoints), np.concatenate(scores)


@dataclass(frozen=True)
class Measured:
    """Annotated people that can be measured, and what was predicted in their boxes: (N, K, 2), (N, K)."""

    people: People
    keypoints: Floats
    scores: Floats
    joints: JointSet

    def oks_table(self) -> dict[str, tuple[int, float]]:
        """Per source and for "all": number of people and their OKS share."""
        people = self.people
        similarity = oks(self.keypoints, people.keypoints.numpy(), people.labelled.numpy(), people.area.numpy())
        groups = {source: people.sources == source for source in sorted(set(people.sources))}
        groups["all"] = np.ones(len(people), dtype=bool)
        return {source: (int(mask.sum()), oks_share(similarity[mask])) for source, mask in groups.items()}

    def pckh(self) -> Pckh:
        """PCKh of MPII's people."""
        people = self.people
        return pckh(self.keypoints, people.keypoints.numpy(), people.labelled.numpy(), people.head_boxes.numpy())

    def reliability(self) -> tuple[list[Bin], float]:
        """What the labelled keypoints' scores promise and what comes, and the mean gap."""
        labelled = self.people.labelled.numpy()
        right = right_keypoints(self.keypoints, self.people, self.joints)
        return reliability(self.scores[labelled], right[labelled])


def measure_poses(network: Network, dataset: Dataset) -> Measured:
    """Poses of the people that OKS share or PCKh is about. Raises DataError where that is nobody."""
    check_measurable(dataset, "pose")
    people = dataset.people.subset(measurable(dataset, "pose"))
    return Measured(people, *predict_poses(network, dataset, people), dataset.joints)


def find_people(network: Network, dataset: Dataset, pictures: list[int]) -> list[tuple[Floats, Floats]]:
    """Boxes (N, 4) xyxy in picture pixels and scores (N,) of the people in each of `pictures`, best first."""
    found = []
    for index in tqdm(pictures, "people", unit="picture"):
        image, matrix = letterboxed(dataset.pictures.picture(index), network.size_wh)
        cells, confidence = network.run([image])
        boxes, scores = people_of_cells(cells[0], confidence[0])
        found.append((transform(boxes.reshape(-1, 2), invert(matrix)).reshape(-1, 4), scores))
    return found


def judged(found: Found, dataset: Dataset, pictures: list[int]) -> tuple[Found, list[Floats]]:
    """Who was found in each of `pictures`, but for those in crowds, and the annotated people's boxes (N, 4) there."""
    owner, boxes = dataset.people.picture.numpy(), dataset.people.boxes.numpy()
    crowd = dataset.people.crowd.numpy()
    people, crowds = ([boxes[(owner == index) & which] for index in pictures] for which in (~crowd, crowd))
    return outside_crowds(found, people, crowds), people


def complete_pictures(dataset: Dataset) -> list[int]:
    """The pictures in which everybody is annotated, or all where there is none."""
    partial = np.isin(dataset.sources, PARTIAL_SOURCES)
    return [int(index) for index in np.flatnonzero(~partial | partial.all())]


def detector_table(network: Network, dataset: Dataset) -> dict[str, float]:
    """Recall of people taller than 64 px at 0.3 false people a picture, and the score threshold that gives it."""
    chosen = complete_pictures(dataset)
    recall, threshold = recall_at_false_rate(*judged(find_people(network, dataset, chosen), dataset, chosen))
    return {"pictures": len(chosen), "recall_at_0.3_false": round(recall, 4), "threshold": round(threshold, 4)}


def candidates_threshold(network: Network, dataset: Dataset) -> float:
    """The detector's score that lets CANDIDATES false people a picture through, for the pose network to tell apart."""
    chosen = complete_pictures(dataset)
    found, listed = judged(find_people(network, dataset, chosen), dataset, chosen)
    return round(recall_at_false_rate(found, listed, CANDIDATES)[1], 4)


def coco_truth(dataset: Dataset) -> dict[str, Any]:
    """What is annotated in `dataset`, as a COCO keypoints file has it: what the loader left out is not in it.

    Ids count from 1, whatever the file's were: to the evaluator a person of id 0 is one whom no result was matched to.
    """
    people = dataset.people
    points = np.concatenate([people.keypoints.numpy(), 2.0 * people.labelled.numpy()[..., None]], axis=2)  # (N, 17, 3)
    corners = people.boxes.numpy()
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    annotations = [
        {
            "id": row + 1,
            "image_id": int(people.image_ids[row]),
            "category_id": 1,
            "iscrowd": int(people.crowd[row]),
            "bbox": boxes[row].tolist(),
            "area": float(people.area[row]),
            "keypoints": points[row].ravel().tolist(),
            "num_keypoints": int(people.labelled[row].sum()),
        }
        for row in range(len(people))
    ]
    images = [{"id": int(number)} for number in dataset.image_ids]
    return {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def coco_ap(truth: dict[str, Any], results: list[dict[str, Any]], image_ids: list[int]) -> dict[str, float]:
    """COCO keypoint AP and AR of `results` on `image_ids` against `truth`, a keypoints file's content.

    Also at OKS .50 and .75, and for (M)edium and (L)arge people; by faster-coco-eval, whose figures are pycocotools':
    crowds and people without a labelled keypoint are neither right nor wrong, 20 results a picture count. Where no
    person is to be measured a figure is -1, as COCO has it.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    annotated = COCO(truth)
    guessed = annotated.loadRes(results) if results else COCO()
    # Silent: its own lines would stand between the command's.
    evaluation = COCOeval_faster(annotated, guessed, "keypoints", print_function=lambda line: None)
    evaluation.params.imgIds = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {name: float(value) for name, value in zip(COCO_FIGURES, evaluation.stats, strict=False)}
