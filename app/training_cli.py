"""The commands that train networks and score them.

They need PyTorch: each imports it inside, so that the service neither needs nor loads it.
"""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from app.saying import ended, one_line_errors

WEIGHTS = Path(__file__).parent.parent / "weights"

app = typer.Typer()


def _commands() -> Any:
    try:
        from training import commands
    except ModuleNotFoundError as error:
        wanted = "pip install -c constraints.txt -e '.[train]'"
        raise ended(RuntimeError(f"training needs PyTorch and more ({error.name} is missing): {wanted}")) from None
    return commands


def _size(text: str) -> tuple[int, int]:
    """Height and width of 256x192."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size is HEIGHTxWIDTH in pixels, such as 256x192, got {text!r}")
    return int(height), int(width)


DataFolder = Annotated[Path, typer.Option(help="COCO-format folder: images/, train.json, val.json")]


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="a TOML recipe, such as training/configs/pose-finetune.toml")],
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="folder for checkpoints and TensorBoard; resumed if it has one")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    amp: Annotated[str, typer.Option(help="bfloat16: auto, on or off")] = "auto",
    init: Annotated[
        Path | None, typer.Option(help="checkpoint whose matching weights to start from", exists=True, dir_okay=False)
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help='checkpoint that a recipe with distillation "teacher" needs', exists=True, dir_okay=False),
    ] = None,
    max_hours: Annotated[float, typer.Option(help="stop after the epoch in which this passes")] = float("inf"),
    limit: Annotated[int | None, typer.Option(min=1, help="use only so many pictures, for a trial")] = None,
    pictures: Annotated[
        str, typer.Option(help="decoded once and kept in memory, or on demand from files: auto, memory or files")
    ] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="speed the network up by torch.compile")] = False,
    detector: Annotated[
        Path | None,
        typer.Option(
            help="an exported detector, whose boxes a recipe with region_share learns to mend",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Train a pose student or a person detector with online knowledge distillation."""
    commands = _commands()
    with one_line_errors():
        options = (device, amp, init, max_hours, limit, teacher, pictures, compiled, detector)
        typer.echo(commands.run_training(recipe, data, out, *options))


@app.command()
def average(
    before: Annotated[Path, typer.Argument(help="the checkpoint a run started from (--init)", exists=True)],
    after: Annotated[Path, typer.Argument(help="what the run made of it", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Argument(help="the checkpoint to write, for okdhp export")],
    share: Annotated[float, typer.Option(help="how much of the mean is AFTER's, 0 to 1")] = 0.5,
) -> None:
    """Write the mean of two checkpoints' weights: what fine-tuning gained, without what it had begun to forget."""
    _commands()
    from training.averaging import average

    with one_line_errors():
        average(before, after, out, share)
        typer.echo(out)


@app.command()
def fit_boxes(
    checkpoint: Annotated[Path, typer.Argument(help="a pose network", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Argument(help="the checkpoint to write, for okdhp export")],
    data: DataFolder,
    detector: Annotated[Path, typer.Option(help="the exported detector to fit to", exists=True, dir_okay=False)],
    steps: Annotated[int, typer.Option(min=1, help="each of one batch")] = 2400,
    batch: Annotated[int, typer.Option(min=2, help="of the detector's proposals")] = 96,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
) -> None:
    """Fit a pose network's box head, new if it has none, to a detector of your own; its poses stay as they are."""
    commands = _commands()
    from training.box_fitting import fit_boxes

    with one_line_errors():
        fit_boxes(checkpoint, out, data, detector, commands.device_to_train_on(device), steps, batch)
        typer.echo(out)


@app.command()
def ablate(
    recipe: Annotated[Path, typer.Argument(help="an OKDHP network's recipe, such as training/configs/ablation.toml")],
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="folder for every run and the table; finished rows are skipped")],
    seeds: Annotated[int, typer.Option(help="how often each row is trained")] = 3,
    row: Annotated[list[str] | None, typer.Option(help="only this row (and its teacher); may be repeated")] = None,
    teacher: Annotated[Path | None, typer.Option(help="recipe of the heavy teacher; derived unless given")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    amp: Annotated[str, typer.Option(help="bfloat16: auto, on or off")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="use only so many pictures, for a trial")] = None,
    init: Annotated[Path | None, typer.Option(help="checkpoint whose trunk every row starts from")] = None,
) -> None:
    """Train a recipe beside its baselines with several seeds; the table lands in OUT as ablation.md and .png."""
    _commands()
    from training.ablate import run_ablation

    with one_line_errors():
        typer.echo(run_ablation(recipe, data, out, seeds, row, teacher, device, amp, limit, init))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="last.pt of a training run")],
    out: Annotated[Path, typer.Argument(help="the ONNX file to write; its model card lands beside it")],
    branch: Annotated[str | None, typer.Option(help="the recipe's kept one unless named")] = None,
    data: Annotated[Path | None, typer.Option(help="folder to calibrate scores and score the file on")] = None,
    version: Annotated[str, typer.Option(help="what the model card and clients are told")] = "1",
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the input; the recipe's last unless given")] = None,
    half: Annotated[bool, typer.Option("--half", help="store weights in half precision: half the file")] = False,
) -> None:
    """Write one branch of a checkpoint as a self-contained ONNX file, a model card and a slim checkpoint for --init."""
    _commands()
    from training.exporting import run_export

    with one_line_errors():
        size_hw = _size(size) if size else None
        typer.echo(orjson.dumps(run_export(checkpoint, out, branch, data, version, size_hw, half)["scores"]).decode())


@app.command()
def quantize(
    network: Annotated[Path, typer.Argument(help="an exported ONNX file with its card", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Argument(help="the ONNX file to write; its card lands beside it")],
    data: DataFolder,
    pictures: Annotated[int, typer.Option(min=1, help="pictures of the split train whose ranges are noted")] = 300,
) -> None:
    """Write an exported file with 8-bit integer convolutions, for CPUs that have instructions for them (VNNI, AMX)."""
    _commands()
    from training.quantising import run_quantise

    with one_line_errors():
        typer.echo(orjson.dumps(run_quantise(network, out, data, pictures)["scores"]).decode())


@app.command()
def evaluate(
    data: DataFolder,
    split: Annotated[str, typer.Option(help="which JSON of the folder")] = "val",
    pose: Annotated[Path, typer.Option(help="an exported pose student")] = WEIGHTS / "pose.onnx",
    detector: Annotated[Path | None, typer.Option(help="an exported detector")] = WEIGHTS / "detector.onnx",
    limit: Annotated[int | None, typer.Option(min=1, help="use only so many pictures, for a trial")] = None,
    held_out: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, help="with a recipe's holdout, only the pictures of --split train that it keeps aside"
        ),
    ] = 0.0,
) -> None:
    """Print how good exported files are on annotated pictures."""
    commands = _commands()
    with one_line_errors():
        commands.run_evaluate(data, split, pose, detector, limit, held_out)


@app.command()
def data(
    dataset: Annotated[str, typer.Argument(help="coco (20 GB; keypoints of 2017) or mpii (13 GB; Human Pose)")],
    out: Annotated[Path, typer.Option(help="folder to put it in; a download that was cut continues")],
    only: Annotated[list[str] | None, typer.Option(help="annotations, train, val (coco) or images (mpii)")] = None,
) -> None:
    """Download, verify and unpack an official data set."""
    _commands()
    from training.download import choose, obtain

    with one_line_errors():
        obtain(choose(dataset, only or ()), out)
        typer.echo(out)
