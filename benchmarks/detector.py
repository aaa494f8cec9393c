"""Whom the bundled detector overlooks: recall by the person's height, by how many are in the picture, by false ones.

    python -m benchmarks.detector --data DIR [--split val] [--detector weights/detector.onnx]

People taller than 64 px in COCO pictures, found at IoU 0.5, as `okdhp evaluate` counts them; all but the last row at
its working point of 0.3 false people a picture.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.command import one_line_errors
from training.datasets import load_dataset
from training.evaluate import complete_pictures, find_people, judged, load_network
from training.metrics import MIN_BOX_HEIGHT_PX, Floats, Found, match_boxes, recall_at_false_rate

HEIGHTS = (0.0, 0.14, 0.2, 0.28, 0.4, 0.5625, 0.75, 1.01)  # in parts of the picture's longer side
COUNTS = (1, 2, 3, 5, 9, 1000)


def people_table(found: Found, listed: list[Floats], sides_px: list[int], threshold: float) -> Floats:
    """A row for each tall person: height in parts of the picture's longer side, people in it, whether it is found."""
    rows = []
    for (boxes, scores), annotated, side_px in zip(found, listed, sides_px, strict=True):
        claimed = match_boxes(boxes[scores >= threshold], annotated)
        heights = annotated[:, 3] - annotated[:, 1]
        for person in np.flatnonzero(heights > MIN_BOX_HEIGHT_PX):
            rows.append((heights[person] / side_px, len(annotated), person in claimed))
    return np.array(rows, dtype=np.float64)


def show(title: str, values: Floats, right: Floats, edges: tuple[float, ...]) -> None:
    print(f"\n{title}")
    for low, high in zip(edges, edges[1:], strict=False):
        group = (values >= low) & (values < high)
        print(f"  {low:>6g} to {high:<6g}{int(group.sum()):>7}{right[group].mean() if group.any() else np.nan:>8.2f}")


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--detector", type=Path, default=Path(__file__).parent.parent / "weights" / "detector.onnx")
    arguments = parser.parse_args()
    network = load_network(arguments.detector, "detector")  # before the pictures, which take their time
    dataset = load_dataset(arguments.data, arguments.split)
    chosen = complete_pictures(dataset)
    found, listed = judged(find_people(network, dataset, chosen), dataset, chosen)
    recall, threshold = recall_at_false_rate(found, listed)
    sides_px = dataset.pictures.size_wh[chosen].amax(1).tolist()
    heights, counts, right = people_table(found, listed, sides_px, threshold).T
    print(f"{arguments.detector}: recall {recall:.3f} at score {threshold:.3f}, {len(chosen)} pictures")
    show("height, in parts of the picture's longer side", heights, right, HEIGHTS)
    show("people listed in the picture", counts, right, COUNTS)
    print("\nrecall at 0.1, 0.3, 1 and 3 false people a picture")
    print("  " + "".join(f"{recall_at_false_rate(found, listed, rate)[0]:>8.3f}" for rate in (0.1, 0.3, 1.0, 3.0)))


if __name__ == "__main__":
    main()
