"""Trains burned_in_text: a small fully convolutional net that marks text in 480 x 640 RGB frames.

    python assets/burned_in_text/train.py            # writes burned_in_text.onnx next to this file

Requirements (CPU only):
    pip install torch onnx onnxruntime numpy "opencv-python-headless>=4.8,<5" scikit-image pydicom \
        "pylibjpeg[all]" pillow matplotlib
    (OpenCV 5 draws other letter shapes in place of the Hershey fonts)
    apt-get install fonts-liberation fonts-dejavu fonts-freefont-ttf fonts-noto-core fonts-noto-mono \
        fonts-open-sans fonts-roboto-unhinted fonts-lato fonts-hack fonts-urw-base35 fonts-oxygen \
        fonts-crosextra-carlito fonts-crosextra-caladea fonts-firacode fonts-cabin fonts-comic-neue \
        fonts-ebgaramond fonts-inconsolata fonts-cantarell

Fonts that are missing are left out, which changes the data. Scenes are rendered once into --cache (0.9 MB
each) and then read at random, so that a seed and a number of steps give the same run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads must not spin: other programs run here too

import cv2
import data
import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Phase:
    """A stretch of training on windows of `height` x `width` pixels, `batch` at a time."""

    name: str
    height: int
    width: int
    batch: int
    steps: int
    rate: float  # highest learning rate
    stream: int  # of random numbers
    scenes: int  # in the pool it is trained on
    first_scene: int = 0  # of that pool
    share: float = 1.0  # of its weights in the mean it ends with; the rest are those it started from

    @property
    def whole(self) -> bool:
        """Windows are whole frames: what they show ends at their edges."""
        return (self.height, self.width) == (data.HEIGHT, data.WIDTH)


# Most is learnt from crops. What lies at a frame's edges is learnt from whole frames, with three
# warm restarts on new scenes, the last on mostly ultrasound. The last two end with a mean: each of the two
# networks in it errs where the other does not.
PHASES = (
    Phase("crops", 320, 320, 8, 3000, 2.5e-3, 99, 2600),
    Phase("frames", data.HEIGHT, data.WIDTH, 4, 400, 1e-3, 98, 2600),
    Phase("frames again", data.HEIGHT, data.WIDTH, 4, 800, 1.2e-3, 97, 1500, data.ECHOES_FROM),
    Phase("last frames", data.HEIGHT, data.WIDTH, 4, 1400, 1.5e-3, 96, 2400, data.ECHOES_FROM + 2000, 0.5),
    Phase("strands", data.HEIGHT, data.WIDTH, 4, 900, 1e-3, 95, 1600, data.STRANDS_FROM, 2 / 3),
)


# ---------------------------------------------------------------------------------------- network


class ConvUnit(nn.Sequential):
    """3 x 3 (or 1 x 1) convolution, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class TextNet(nn.Module):
    """image N x 3 x H x W, RGB 0..1 -> logits N x 1 x H/4 x W/4. H and W are multiples of 32.

    Five stride-2 convolutions down to 1/32, one more at each scale from 1/4 on, and a decoder that adds the
    doubled (nearest neighbour) coarse features to the encoder's at 1/16, 1/8 and 1/4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(3, 32, stride=2)
        self.down4, self.deep4 = ConvUnit(32, 32, stride=2), ConvUnit(32, 32)
        self.down8, self.deep8 = ConvUnit(32, 48, stride=2), ConvUnit(48, 48)
        self.down16, self.deep16 = ConvUnit(48, 96, stride=2), ConvUnit(96, 96)
        self.down32, self.deep32 = ConvUnit(96, 128, stride=2), ConvUnit(128, 128)
        self.narrow32 = ConvUnit(128, 96, kernel=1)
        self.merge16, self.merge8 = ConvUnit(96, 48), ConvUnit(48, 32)
        self.merge4 = ConvUnit(32, 32)
        self.score = nn.Conv2d(32, 1, 1)
        nn.init.constant_(self.score.bias, -2.0)  # text is rare: start from a low probability

    def forward(self, image: Tensor) -> Tensor:
        at4 = self.deep4(self.down4(self.stem(image)))
        at8 = self.deep8(self.down8(at4))
        at16 = self.deep16(self.down16(at8))
        at32 = self.narrow32(self.deep32(self.down32(at16)))
        at16 = self.merge16(at16 + _double(at32))
        at8 = self.merge8(at8 + _double(at16))
        return self.score(self.merge4(at4 + _double(at8)))


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="nearest")


class Heatmap(nn.Module):
    """TextNet with the sigmoid in the graph: image -> heatmap N x 1 x H/4 x W/4 in 0..1."""

    def __init__(self, net: TextNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(self.net(image))


def count_macs(net: nn.Module, height: int = data.HEIGHT, width: int = data.WIDTH) -> int:
    """Multiply-accumulates of all convolutions for one image of height x width pixels."""
    total = 0

    def add(layer: nn.Conv2d, _: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        total += out[0].numel() * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]

    hooks = [m.register_forward_hook(add) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        net(torch.zeros(1, 3, height, width))
    for hook in hooks:
        hook.remove()
    return total


# ------------------------------------------------------------------------------------------- data


def _render(task: tuple[int, str, int, int, str]) -> str:
    """Renders one scene into the pool files; -> its kind."""
    seed, split, first, index, folder = task
    cv2.setNumThreads(1)
    image, mask, kind = data.make_scene(seed, split, first + index)
    np.load(f"{folder}/{split}_images.npy", mmap_mode="r+")[index] = image
    np.load(f"{folder}/{split}_cells.npy", mmap_mode="r+")[index] = data.to_cells(mask)
    return kind


class Pool:
    """Scenes of one split on disk: images n x 480 x 640 x 3 uint8, cells n x 120 x 160 uint8, kinds n."""

    def __init__(self, cache: Path, seed: int, split: str, count: int, workers: int, first: int = 0) -> None:
        folder = cache / f"seed{seed}_{split}_{count}{f'_from{first}' if first else ''}"
        if not (folder / "kinds.json").exists():
            self._render_all(folder, seed, split, count, workers, first)
        self.images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
        self.cells = np.load(folder / f"{split}_cells.npy", mmap_mode="r")
        self.kinds: list[str] = json.loads((folder / "kinds.json").read_text())

    @staticmethod
    def _render_all(folder: Path, seed: int, split: str, count: int, workers: int, first: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        size, cells = (data.HEIGHT, data.WIDTH), (data.HEIGHT // data.CELL, data.WIDTH // data.CELL)
        new = np.lib.format.open_memmap
        new(folder / f"{split}_images.npy", mode="w+", dtype=np.uint8, shape=(count, *size, 3))
        new(folder / f"{split}_cells.npy", mode="w+", dtype=np.uint8, shape=(count, *cells))
        tasks = [(seed, split, first, index, str(folder)) for index in range(count)]
        start, kinds = time.time(), []
        with multiprocessing.get_context("spawn").Pool(workers) as processes:
            for kind in processes.imap(_render, tasks, chunksize=16):
                kinds.append(kind)
                if len(kinds) % 500 == 0:
                    print(
                        f"rendered {len(kinds)}/{count} {split} scenes, {time.time() - start:.0f} s",
                        flush=True,
                    )
        (folder / "kinds.json").write_text(json.dumps(kinds))


def draw_batch(rng: np.random.Generator, pool: Pool, phase: Phase) -> tuple[Tensor, Tensor]:
    """-> images (n x 3 x h x w, 0..1) and the share of each cell that is text (n x 1 x h/4 x w/4, 0..1)."""
    tall, wide, cell = phase.height // data.CELL, phase.width // data.CELL, data.CELL
    images = np.empty((phase.batch, phase.height, phase.width, 3), np.uint8)
    cells = np.empty((phase.batch, 1, tall, wide), np.uint8)
    for slot, scene in enumerate(rng.integers(len(pool.images), size=phase.batch)):
        row = int(rng.integers(data.HEIGHT // cell - tall + 1))
        col = int(rng.integers(data.WIDTH // cell - wide + 1))
        y, x = row * cell, col * cell
        images[slot] = pool.images[scene, y : y + phase.height, x : x + phase.width]
        cells[slot, 0] = pool.cells[scene, row : row + tall, col : col + wide]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)  # channels last in memory
    return _relight(rng, pixels), torch.from_numpy(cells).float().div_(255)


def _relight(rng: np.random.Generator, pixels: Tensor) -> Tensor:
    """Random gain, offset and channel order of each image, and sometimes its negative."""
    gain = torch.from_numpy(rng.uniform(0.6, 1.15, (len(pixels), 1, 1, 1)).astype(np.float32))
    offset = torch.from_numpy(rng.uniform(-0.05, 0.08, (len(pixels), 1, 1, 1)).astype(np.float32))
    pixels = (pixels * gain + offset).clamp_(0, 1)
    for slot in np.flatnonzero(rng.random(len(pixels)) < 0.25):
        pixels[slot] = pixels[slot, torch.from_numpy(rng.permutation(3))].clone()
    for slot in np.flatnonzero(rng.random(len(pixels)) < 0.1):
        pixels[slot] = 1 - pixels[slot]
    return pixels


# --------------------------------------------------------------------------------------- training


def text_loss(logits: Tensor, share: Tensor, whole: bool) -> Tensor:
    """Cross-entropy plus Dice on the share of each cell that is text.

    Cells cut by a box edge count half, and the outermost two cells of a crop not at all: what continues
    outside the crop cannot be seen.
    """
    weight = torch.where((share > 0.1) & (share < 0.9), 0.5, 1.0)
    if not whole:
        weight[..., :2, :] = weight[..., -2:, :] = 0
        weight[..., :, :2] = weight[..., :, -2:] = 0
    entropy = (
        F.binary_cross_entropy_with_logits(logits, share, reduction="none") * weight
    ).sum() / weight.sum()
    found = torch.sigmoid(logits) * weight
    dice = 1 - (2 * (found * share).sum() + 1) / (found.sum() + (share * weight).sum() + 1)
    return entropy + 0.5 * dice


@torch.no_grad()
def _follow(average: nn.Module, net: nn.Module, keep: float) -> None:
    """Moves `average` towards `net`: an exponential mean of the weights, and of the norm statistics."""
    for old, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        if old.dtype.is_floating_point:
            old.mul_(keep).add_(new, alpha=1 - keep)
        else:
            old.copy_(new)


def _parameter_groups(net: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay for convolution kernels only, not for biases and norm scales."""
    kernels = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def fit(net: TextNet, pool: Pool, phase: Phase, seed: int, weights: Path) -> TextNet:
    """Trains for one phase; -> the averaged net. Its weights are kept in the file `weights` on the way."""
    rng, steps = np.random.default_rng([seed, phase.stream]), phase.steps
    average = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(_parameter_groups(net, 0.02), lr=phase.rate)
    start, loss_mean = time.time(), 1.0
    for step in range(1, steps + 1):
        cosine = 0.5 + 0.5 * float(np.cos(np.pi * (step - 1) / steps))
        for group in optimiser.param_groups:  # short warm-up, then half a cosine
            group["lr"] = phase.rate * min(1, step / 100) * cosine
        images, share = draw_batch(rng, pool, phase)
        net.train()
        loss = text_loss(net(images), share, phase.whole)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        _follow(average, net, min(0.997, 1 - 10 / (step + 10)))
        loss_mean += max(0.02, 1 / step) * (float(loss.detach()) - loss_mean)
        if step % 250 == 0:
            torch.save(average.state_dict(), weights)
        if step % 50 == 0:
            seconds = time.time() - start
            print(f"{phase.name}: step {step}/{steps}  loss {loss_mean:.4f}  {seconds:.0f} s", flush=True)
    return average.eval()


# ----------------------------------------------------------------------------------------- scores


@torch.no_grad()
def predict(net: nn.Module, pool: Pool) -> np.ndarray:
    """Heatmaps of a pool, n x 120 x 160 float32."""
    maps = []
    for image in pool.images:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        maps.append(torch.sigmoid(net(pixels))[0, 0].numpy())
    return np.stack(maps)


def score(heatmaps: np.ndarray, truth: np.ndarray, threshold: float) -> dict[str, float]:
    """Precision, recall and F1 over all cells; `truth` is boolean, of the heatmaps' shape."""
    found = heatmaps >= threshold
    hits = int((found & truth).sum())
    precision, recall = hits / max(int(found.sum()), 1), hits / max(int(truth.sum()), 1)
    return {"precision": precision, "recall": recall, "f1": 2 * hits / max(int(found.sum() + truth.sum()), 1)}


def best_threshold(heatmaps: np.ndarray, truth: np.ndarray) -> float:
    """The threshold in 0.05, 0.06 .. 0.95 with the highest F1."""
    return max(np.arange(5, 96) / 100, key=lambda t: score(heatmaps, truth, float(t))["f1"])


def report(net: nn.Module, pools: dict[str, Pool]) -> dict[str, object]:
    """Scores at the threshold that is best on `val`, for `val` and for `heldout`, and by scene kind."""
    maps = {split: predict(net, pool) for split, pool in pools.items()}
    truth = {split: pool.cells >= 128 for split, pool in pools.items()}
    threshold = float(best_threshold(maps["val"], truth["val"]))
    result: dict[str, object] = {"threshold": threshold}
    for split in pools:
        best = float(best_threshold(maps[split], truth[split]))
        result[split] = score(maps[split], truth[split], threshold)
        result[f"{split}_best"] = {"threshold": best, **score(maps[split], truth[split], best)}
    kinds = np.array(pools["heldout"].kinds)
    for kind in sorted(set(kinds)):
        chosen = kinds == kind
        result[f"heldout_{kind}"] = score(maps["heldout"][chosen], truth["heldout"][chosen], threshold)
    empty = kinds == "empty"
    result["heldout_empty_cells_found"] = float((maps["heldout"][empty] >= threshold).mean())
    return result


# ----------------------------------------------------------------------------------------- export


def export(net: TextNet, path: Path) -> float:
    """Writes opset 17 ONNX (norms folded into the convolutions); -> largest difference to onnxruntime."""
    import onnxruntime

    model = Heatmap(copy.deepcopy(net).to(memory_format=torch.contiguous_format)).eval()
    example = torch.rand(1, 3, data.HEIGHT, data.WIDTH)
    axes = {0: "batch", 2: "height", 3: "width"}
    out_axes = {0: "batch", 2: "height_4", 3: "width_4"}
    draft = path.with_suffix(".tmp.onnx")
    torch.onnx.export(
        model, (example,), str(draft), dynamo=False, opset_version=17, input_names=["image"],
        output_names=["heatmap"], dynamic_axes={"image": axes, "heatmap": out_axes}, do_constant_folding=True,
    )  # fmt: skip
    graph = onnx.load(draft)
    _clean_names(graph)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, draft)
    session = onnxruntime.InferenceSession(str(draft), providers=["CPUExecutionProvider"])
    worst = 0.0
    for shape in [(1, 3, 480, 640), (2, 3, 256, 320), (1, 3, 64, 96)]:
        sample = torch.rand(*shape)
        with torch.no_grad():
            expected = model(sample).numpy()
        got = session.run(["heatmap"], {"image": sample.numpy()})[0]
        worst = max(worst, float(np.abs(got - expected).max()))
    if worst > 1e-4:
        raise RuntimeError(f"onnxruntime differs from torch by {worst}")
    os.replace(draft, path)  # readers see the old file or the new one, never half of it
    return worst


def _clean_names(graph: onnx.ModelProto) -> None:
    """/net/down4/down4.0/Conv -> down4.Conv, and likewise for weights and the tensors between nodes."""
    rename: dict[str, str] = {}
    for node in graph.graph.node:
        parts = [part for part in node.name.split("/") if part and part != "net"]
        stage = parts[0] if len(parts) > 1 else ""
        node.name = f"{stage}.{node.op_type}" if stage else parts[-1]
        for i, name in enumerate(node.output):
            if name != "heatmap":
                rename[name] = f"{node.name}.out" if i == 0 else f"{node.name}.out{i}"
        if node.op_type == "Conv":
            for name, role in zip(node.input[1:], ("weight", "bias"), strict=False):
                rename[name] = f"{stage}.{role}"
    for node in graph.graph.node:
        node.input[:] = [rename.get(name, name) for name in node.input]
        node.output[:] = [rename.get(name, name) for name in node.output]
    for item in [*graph.graph.initializer, *graph.graph.value_info]:
        item.name = rename.get(item.name, item.name)
    graph.graph.name = "burned_in_text"


# ------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "burned_in_text.onnx")
    parser.add_argument("--steps", type=int, help="of all phases together; fewer than usual for a quick try")
    parser.add_argument("--start", type=Path, help="weights (.pt) of an earlier run to start from")
    parser.add_argument("--first", type=int, default=0, help="phases to skip, when starting from --start")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "burned_in_text_scenes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    net = TextNet().to(memory_format=torch.channels_last)
    weights_count, macs = sum(p.numel() for p in net.parameters()), count_macs(TextNet())
    print(f"{weights_count} weights, {macs / 1e9:.3f} GMAC", flush=True)
    start = time.time()
    if options.start:
        net.load_state_dict(torch.load(options.start))
    usual = sum(phase.steps for phase in PHASES)
    for number, phase in enumerate(PHASES[options.first :], options.first):
        steps = round(phase.steps * (options.steps or usual) / usual)
        weights = options.cache / f"weights_{number}.pt"
        earlier = copy.deepcopy(net)
        scenes = Pool(options.cache, options.seed, "train", phase.scenes, options.threads, phase.first_scene)
        net = fit(net, scenes, replace(phase, steps=max(1, steps)), options.seed, weights)
        _follow(net, earlier, phase.share)
        torch.save(net.state_dict(), weights)
    pools = {
        split: Pool(options.cache, options.seed, split, count, options.threads)
        for split, count in (("val", 200), ("heldout", 300))
    }
    result = report(net, pools)
    result["onnx_difference"] = export(net, options.out)
    result.update(seed=options.seed, minutes=(time.time() - start) / 60)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
