"""Training pictures: decoded once and kept where they fit into memory, else decoded whenever one is looked at."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from app.geometry import BORDER_GREY, warp
from app.images import exif_orientation
from training.augment import inverted

log = logging.getLogger("okdhp.data")
KEEPS = ("auto", "memory", "files")
NAMED = 10  # of what is left out, one by one; a wrong folder would be thousands of lines
Kept = TypeVar("Kept")
Entry = dict[str, Any]  # of a COCO file's "images": file_name, and maybe width and height
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
AS_STORED = ("AVIF",)  # formats that OpenCV does not turn upright


class DataError(ValueError):
    """Data that cannot be used; the message says what was expected where."""


class Pictures(ABC):
    """Pictures of any sizes, sampled through affine maps. size_wh (N, 2) pixels; crops are made on `device`."""

    def __init__(self, sizes_wh: list[tuple[int, int]], device: torch.device) -> None:
        self.size_wh = torch.tensor(sizes_wh, dtype=torch.int64).reshape(-1, 2)
        self.device = device

    def __len__(self) -> int:
        return len(self.size_wh)

    @abstractmethod
    def picture(self, index: int) -> np.ndarray:
        """One picture (H, W, 3) uint8 RGB."""

    def sample(self, index: Tensor, matrices: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Crops (B, 3, H, W) uint8 on `device`, channels last, by `app.geometry.warp`: the function that serves.

        index (B,) which picture; matrices (B, 2, 3) float64 from picture to crop pixels (app.geometry's convention).
        """
        height, width = size_hw
        crops = np.empty((len(index), height, width, 3), np.uint8)
        maps, pictures = matrices.numpy(), index.tolist()

        def fill(slot: int) -> None:
            crops[slot] = warp(self.picture(pictures[slot]), maps[slot], (width, height))

        self._each(fill, len(pictures))
        return torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2)

    def _each(self, work: Callable[[int], None], count: int) -> None:
        for slot in range(count):
            work(slot)


class DecodedPictures(Pictures):
    """All pictures as one flat uint8 buffer, in main memory or on a GPU.

    On a GPU all crops of a batch are gathered at once, so that the loader is never what training waits for.
    """

    def __init__(self, images: list[np.ndarray], device: torch.device) -> None:
        super().__init__([(image.shape[1], image.shape[0]) for image in images], device)
        starts = np.cumsum([0, *(image.size for image in images)])
        flat = np.empty(starts[-1], np.uint8)
        for index, image in enumerate(images):
            flat[starts[index] : starts[index + 1]] = image.reshape(-1)
            images[index] = np.empty(0)  # frees the copy: at no time are all pictures held twice
        self.offset = torch.from_numpy(starts[:-1])  # (N,) first byte
        self.flat = torch.from_numpy(flat).to(device)
        self.gather: Callable[..., Tensor] = gather_crops
        if device.type == "cuda":
            start, sizes, back = (torch.zeros(5, *shape, device=device) for shape in ((), (2,), (2, 3)))
            self.gather = as_one_kernel(gather_crops, self.flat, start.long(), sizes.long(), back, 48, 32)

    def picture(self, index: int) -> np.ndarray:
        """One picture (H, W, 3) uint8 RGB, a view of the buffer where it lies in main memory."""
        width, height = self.size_wh[index].tolist()
        start = int(self.offset[index])
        view = self.flat[start : start + width * height * 3]
        return view.cpu().numpy().reshape(height, width, 3)

    def sample(self, index: Tensor, matrices: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """As `Pictures.sample`; on a GPU by `sample_by_gather`."""
        if self.device.type == "cuda":
            return self.sample_by_gather(index, matrices, size_hw)
        return super().sample(index, matrices, size_hw)

    def sample_by_gather(self, index: Tensor, matrices: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """`sample` by indexing the flat buffer: bilinear, averaged over 2x2 points per pixel against aliasing."""
        back = inverted(matrices).float()  # (B, 2, 3) crop -> picture
        # Without waiting for what the GPU is at: the next batch is made while it works on this one.
        back, sizes, start = (
            values.to(self.device, non_blocking=True) for values in (back, self.size_wh[index], self.offset[index])
        )
        return self.gather(self.flat, start, sizes, back, *size_hw).permute(0, 3, 1, 2)


def as_one_kernel(function: Callable[..., Tensor], *trial: Any) -> Callable[..., Tensor]:
    """`function` compiled for inputs of any size, or as it is where that fails on `trial`: no C compiler, an old GPU.

    Sixteen reads a pixel, each with its own index, are sixteen passes over a batch one by one, and one pass together.
    """
    compiled: Callable[..., Tensor] = torch.compile(function, dynamic=True)
    try:
        compiled(*trial)
    except Exception as error:  # the compiler's errors have no common type
        log.warning("crops are cut by many small kernels, which is slower: %s", str(error).partition("\n")[0])
        return function
    return compiled


def gather_crops(flat: Tensor, start: Tensor, sizes_wh: Tensor, back: Tensor, height: int, width: int) -> Tensor:
    """Crops (B, height, width, 3) uint8 of pictures that begin at `start` (B,) in `flat`, of `sizes_wh` (B, 2).

    back (B, 2, 3): from crop to picture pixels.
    """
    rows = torch.arange(height, device=flat.device)[None, :, None]
    columns = torch.arange(width, device=flat.device)[None, None, :]
    channels = torch.arange(3, device=flat.device)
    w, h, first = (values[:, None, None] for values in (sizes_wh[:, 0], sizes_wh[:, 1], start))
    total = torch.zeros(len(start), height, width, 3, device=flat.device)
    for dy, dx in ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
        x, y = (  # (B, height, width), integer = pixel centre
            back[:, axis, 0, None, None] * (columns + dx)
            + back[:, axis, 1, None, None] * (rows + dy)
            + back[:, axis, 2, None, None]
            - 0.5
            for axis in (0, 1)
        )
        left, top = x.floor(), y.floor()
        for column, weight_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            for row, weight_y in ((top, 1 - (y - top)), (top + 1, y - top)):
                inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
                cell = torch.where(inside, first + (row.long() * w + column.long()) * 3, 0)
                colour = flat[cell[..., None] + channels].float()
                colour = torch.where(inside[..., None], colour, float(BORDER_GREY))
                total += (weight_x * weight_y)[..., None] * colour
    return (total / 4).round().clamp(0, 255).to(torch.uint8)


class PictureFiles(Pictures):
    """Pictures in their files, decoded by one thread a core whenever a batch wants them: for more than memory holds."""

    def __init__(self, files: list[Path], sizes_wh: list[tuple[int, int]], device: torch.device) -> None:
        super().__init__(sizes_wh, device)
        self.files = files
        self.threads = ThreadPoolExecutor(os.cpu_count())

    def picture(self, index: int) -> np.ndarray:
        """One picture (H, W, 3) uint8 RGB. Raises DataError where the file is no longer what it was at the start."""
        pixels = decode(self.files[index], tuple(self.size_wh[index].tolist()))
        if isinstance(pixels, str):
            raise DataError(pixels)
        return pixels

    def _each(self, work: Callable[[int], None], count: int) -> None:
        list(self.threads.map(work, range(count)))  # asking for the results raises what a thread raised


def open_pictures(
    folder: Path, entries: list[Entry], device: torch.device, keep: str = "auto"
) -> tuple[list[Entry], Pictures]:
    """The entries whose `file_name` under `folder` is a picture, of the stated size if any, and those pictures.

    Others are left out, as the log says. keep: decoded in "memory", in "files" to be decoded on demand (each is
    looked through once now, and one that breaks later stops the run), or "auto": in memory if they fit.
    """
    if keep not in KEEPS:
        raise DataError(f"pictures are kept in one of {KEEPS}, got {keep!r}")
    if keep == "auto":
        needed, room = decoded_bytes(folder, entries), room_bytes(device)
        keep = "memory" if needed <= room else "files"
        if keep == "files":
            log.info("pictures stay in their files: %.1f GB decoded, %.1f GB to spare", needed / 1e9, room / 1e9)

    def named(entry: Entry) -> tuple[Path, tuple[int, int] | None]:
        stated = (entry["width"], entry["height"]) if "width" in entry else None
        return folder / str(entry.get("file_name", "(no file_name)")), stated

    if keep == "memory":
        kept, images = _good(entries, lambda entry: decode(*named(entry)), "decode")
        return kept, DecodedPictures(images, device)
    kept, sizes = _good(entries, lambda entry: picture_size(*named(entry)), "look at")
    return kept, PictureFiles([named(entry)[0] for entry in kept], sizes, device)


def _good(entries: list[Entry], look: Callable[[Entry], Kept | str], what: str) -> tuple[list[Entry], list[Kept]]:
    """The entries that `look` finds something for, and it; for others it says what is wrong with them."""
    kept, found, faults = [], [], []
    with ThreadPoolExecutor() as pool:
        for entry, result in tqdm(
            zip(entries, pool.map(look, entries), strict=True), what, len(entries), unit="picture"
        ):
            if isinstance(result, str):
                faults.append(result)
            else:
                kept.append(entry)
                found.append(result)
    say_left_out(faults)
    return kept, found


def say_left_out(faults: list[str]) -> None:
    """Each fault for which something was left out, in the log; of many the first ones, and how many more there are."""
    for fault in faults[:NAMED]:
        log.warning("left out: %s", fault)
    if len(faults) > NAMED:
        log.warning("left out: %d more", len(faults) - NAMED)


def decode(file: Path, stated_wh: tuple[int, ...] | None) -> np.ndarray | str:
    """The picture (H, W, 3) RGB in `file`, or what is wrong with it."""
    try:
        pixels = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        return f"{file}: {error}"
    if pixels is None:
        return f"{file}: not a readable picture"
    height, width = pixels.shape[:2]
    return _unlike(file, (width, height), stated_wh) or cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def picture_size(file: Path, stated_wh: tuple[int, ...] | None) -> tuple[int, int] | str:
    """Upright width and height of the picture in `file`, or what is wrong with it."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            image.draft("RGB", (width // 8, height // 8))  # a JPEG is decoded at an eighth, which is faster
            image.load()  # tells of a file that was cut short: its header does not
            if exif_orientation(image) in TURNED and image.format not in AS_STORED:
                width, height = height, width
    except Exception as error:  # Pillow has a dozen unrelated types for a broken file
        return f"{file}: {error}"
    if not cv2.haveImageReader(str(file)):
        return f"{file}: not a readable picture"
    return _unlike(file, (width, height), stated_wh) or (width, height)


def _unlike(file: Path, size_wh: tuple[int, int], stated_wh: tuple[int, ...] | None) -> str:
    if stated_wh is None or size_wh == stated_wh:
        return ""
    turned = ": sizes and annotations are of the upright picture, which EXIF turns" * (size_wh == stated_wh[::-1])
    return f"{file}: is {size_wh[0]}x{size_wh[1]}, annotated {stated_wh[0]}x{stated_wh[1]}{turned}"


def decoded_bytes(folder: Path, entries: list[Entry], looked_at: int = 200) -> float:
    """About how much memory the decoded pictures take; of those without a stated size a few are looked at."""
    stated = [3 * entry["width"] * entry["height"] for entry in entries if "width" in entry]
    others = [entry for entry in entries if "width" not in entry]
    chosen = others[:: max(len(others) // looked_at, 1)]
    sizes = [picture_size(folder / str(entry.get("file_name")), None) for entry in chosen]
    seen = [3 * size[0] * size[1] for size in sizes if not isinstance(size, str)]
    return float(sum(stated)) + (len(others) * float(np.mean(seen)) if seen else 0.0)


def room_bytes(device: torch.device) -> float:
    """How much of the device's free memory pictures may take: half, shared with the other processes of a machine."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0]) / 2
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # no Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return free / 2 / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
