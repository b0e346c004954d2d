"""Checks a trained burned_in_text.onnx and writes the pictures that come with it.

    python assets/burned_in_text/check.py folders     # calibration/ and evaluation/ pictures
    python assets/burned_in_text/check.py evaluate    # scores of the ONNX file on evaluation/
    python assets/burned_in_text/check.py cine        # cine.png, from pydicom's ultrasound test file
    python assets/burned_in_text/check.py clean       # how much is marked in pictures without text

Needs onnxruntime beside what data.py needs; see train.py for the list.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import cv2
import data
import numpy as np
import onnxruntime
import pydicom
import pydicom.examples
from pydicom.pixels import pixel_array

HERE = Path(__file__).resolve().parent
FOLDER_COUNT = 48  # pictures in each folder
FIRST_INDEX = 100_000  # scenes no pool of train.py reaches
MIN_AREA = 24  # smallest region that gets a box in the cine, pixels of its 240 x 320 frames: as the product's
ANATOMY = np.s_[10:101, 25:135]  # heatmap cells of the cine between its texts: the sector and black around it


class Finder:
    """The network in onnxruntime: 480 x 640 RGB frames -> heatmaps, and boxes."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def heatmap(self, frame: np.ndarray) -> np.ndarray:
        """480 x 640 x 3 uint8 -> 120 x 160 float32."""
        image = frame.transpose(2, 0, 1)[None].astype(np.float32) / 255
        return self.session.run(["heatmap"], {"image": image})[0][0, 0]

    def boxes(self, frame: np.ndarray, threshold: float, least: int = 4) -> list[tuple[int, int, int, int]]:
        """(x, y, w, h) in pixels of each connected group of at least `least` cells."""
        found = (self.heatmap(frame) >= threshold).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
        return [tuple(int(v) * data.CELL for v in row[:4]) for row in stats[1:] if row[4] >= least]


def letterbox(picture: np.ndarray) -> np.ndarray:
    """Any RGB uint8 picture -> 480 x 640, shape kept, black around it."""
    scale = min(data.HEIGHT / picture.shape[0], data.WIDTH / picture.shape[1])
    tall, wide = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    top, left = (data.HEIGHT - tall) // 2, (data.WIDTH - wide) // 2
    frame = np.zeros((data.HEIGHT, data.WIDTH, 3), np.uint8)
    frame[top : top + tall, left : left + wide] = cv2.resize(picture, (wide, tall), interpolation=how)
    return frame


def write_folders(seed: int) -> None:
    """48 scenes as the network is trained on (for calibration), and 48 held-out ones with masks."""
    for name, split, quality in [("calibration", "train", 80), ("evaluation", "heldout", 84)]:
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        for number in range(FOLDER_COUNT):
            image, mask, _ = data.make_scene(seed, split, FIRST_INDEX + number)
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(folder / f"{number:04d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if name == "evaluation":
                cv2.imwrite(str(folder / f"{number:04d}.png"), mask, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"{name}: {FOLDER_COUNT} pictures, {size:.2f} MB")


def evaluate(finder: Finder, threshold: float) -> dict[str, float]:
    """Cell scores on evaluation/. A cell is text where at least half of its 4 x 4 pixels are."""
    maps, truth = [], []
    for path in sorted((HERE / "evaluation").glob("*.jpg")):
        maps.append(finder.heatmap(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)))
        mask = cv2.imread(str(path.with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
        truth.append(data.to_cells(mask) >= 128)
    heat, text = np.stack(maps), np.stack(truth)
    found = heat >= threshold
    hits = int((found & text).sum())
    return {
        "threshold": threshold,
        "precision": hits / max(int(found.sum()), 1),
        "recall": hits / int(text.sum()),
        "f1": 2 * hits / int(found.sum() + text.sum()),
    }


def cine_frames() -> np.ndarray:
    """The 30 frames of pydicom's ultrasound cine, 30 x 240 x 320 x 3 RGB uint8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pixel_array(pydicom.examples.get_path("ybr_color"))


def draw_cine(finder: Finder, threshold: float, out: Path, number: int = 10) -> None:
    """Side by side, 960 x 720 each: a frame of the cine, and the frame with heatmap and boxes.

    Also prints the boxes of each frame, and the frames in which anything of the anatomy is marked.
    """
    frames = cine_frames()
    least = round(MIN_AREA * (data.WIDTH / frames.shape[2] / data.CELL) ** 2)  # cells
    frame = letterbox(frames[number])
    heat = cv2.resize(finder.heatmap(frame), (960, 720), interpolation=cv2.INTER_NEAREST)
    large = cv2.resize(frame, (960, 720), interpolation=cv2.INTER_LINEAR)
    over = large.copy()
    marked = heat >= threshold
    over[marked] = (0.6 * over[marked] + 0.4 * np.array([255, 140, 0])).astype(np.uint8)
    for x, y, w, h in finder.boxes(frame, threshold, least):
        cv2.rectangle(
            over, (int(x * 1.5), int(y * 1.5)), (int((x + w) * 1.5), int((y + h) * 1.5)), (0, 230, 90), 1
        )
    cv2.imwrite(str(out), cv2.cvtColor(np.hstack([large, over]), cv2.COLOR_RGB2BGR))
    counts, cells, boxed = [], {}, []
    for index, picture in enumerate(frames):
        counts.append(len(finder.boxes(letterbox(picture), threshold, least)))
        found = (finder.heatmap(letterbox(picture)) >= threshold)[ANATOMY].astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
        if found.any():
            cells[index] = int(found.sum())
        if any(row[4] >= least for row in stats[1:]):
            boxed.append(index)
    print(f"boxes of {least} cells or more per frame: {min(counts)} to {max(counts)}")
    print(f"anatomy marked in {len(cells)} of {len(frames)} frames (frame: cells): {cells}; boxes in {boxed}")


def mark_clean(finder: Finder, threshold: float, out: Path | None) -> None:
    """Prints the share of cells marked in pictures with no or hardly any text; draws them into `out`."""
    shown = {}
    for name in (
        "astronaut.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "ihc.png",
        "coins.png",
    ):
        shown[name] = data._read_photo(name)
    for name in (
        "693_J2KI.dcm",
        "CT_small.dcm",
        "MR_small.dcm",
        "examples_overlay.dcm",
        "J2K_pixelrep_mismatch.dcm",
    ):
        shown[name] = data._read_dicom(name)
    tiles = []
    for name, picture in shown.items():
        frame = letterbox(picture)
        marked = finder.heatmap(frame) >= threshold
        print(f"{name:28s} {100 * marked.mean():6.3f} %  boxes {len(finder.boxes(frame, threshold))}")
        for x, y, w, h in finder.boxes(frame, threshold):
            cv2.rectangle(frame, (x, y), (x + w, y + h), (0, 255, 0), 2)
        tiles.append(frame)
    if out is not None:
        rows = [np.hstack(tiles[i : i + 4]) for i in range(0, len(tiles), 4)]
        cv2.imwrite(str(out), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["folders", "evaluate", "cine", "clean"])
    parser.add_argument("--model", type=Path, default=HERE / "burned_in_text.onnx")
    parser.add_argument("--threshold", type=float, default=0.23)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="picture to write, for cine and clean")
    options = parser.parse_args()
    if options.what == "folders":
        write_folders(options.seed)
        return
    finder = Finder(options.model)
    if options.what == "evaluate":
        print(json.dumps(evaluate(finder, options.threshold), indent=1))
    elif options.what == "cine":
        draw_cine(finder, options.threshold, options.out or HERE / "cine.png")
    else:
        mark_clean(finder, options.threshold, options.out)


if __name__ == "__main__":
    main()
