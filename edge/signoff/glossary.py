"""What the words of a report mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.signoff.data import COSINE


@dataclass(frozen=True, slots=True)
class Metric:
    """A task's figure of accuracy.

    Attributes:
        unit: behind a difference: " points", " dB" or nothing.
        digits: behind the point.
        meaning: half a sentence.
    """

    name: str
    unit: str
    digits: int
    meaning: str


METRICS: Mapping[str, Metric] = {
    "top1": Metric(
        "top-1", " points", 2, "per cent of the pictures whose most likely class is the right one"
    ),
    "ap": Metric("AP", " points", 2, "how well objects are found and outlined, from 0 to 100"),
    "f1": Metric("F1", "", 4, "what is found balanced against what is found wrongly, from 0 to 1"),
    "psnr_y": Metric("PSNR", " dB", 2, "how close a picture comes to the true one, in decibels"),
    COSINE: Metric(
        "cosine", "", 5, "how alike raw outputs are, 1 for alike: there are no labels to score with"
    ),
}

TASKS: Mapping[str, str] = {
    "classify": "classification: names what a picture shows",
    "detect": "detection: finds things and draws boxes around them",
    "segment": "segmentation: marks the area of a picture that shows something",
    "image": "image-to-image: makes a better picture of a picture",
}

STATES: Mapping[str, str] = {
    "verified": "it ran on its device",
    "simulated": "compiled, not run on its device",
    "bundle": "not compiled yet",
}

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "MAC",
        "Multiply–accumulate, a multiplication and an addition: the unit of a network's work. "
        "“80 % in int8” means that 80 % of all MACs multiply 8-bit integers.",
    ),
    (
        "int8",
        "Numbers in 8 bits, as whole steps between −128 and 127. Small and fast; a value between two steps "
        "is rounded, one beyond the range is clipped.",
    ),
    (
        "fp8",
        "Numbers in 8 bits with a floating point (E4M3): fine steps near zero, coarse ones far from it. "
        "It copes better than int8 with values of very different size.",
    ),
    (
        "w8a16, w4a16",
        "Only the stored weights are shortened, to 8 or 4 bits; the arithmetic stays in the carrier. "
        "The file gets smaller, and next to nothing is lost.",
    ),
    (
        "carrier",
        "The floating-point type of everything that is not quantized: bf16 or fp16 on a GPU, fp32 on a "
        "processor. What is too sensitive for 8 bits is left in it.",
    ),
    (
        "calibration",
        "Running typical pictures through the network to see how large its values get. That decides which "
        "number an 8-bit step stands for.",
    ),
    (
        "max, p99.9, entropy, mse",
        "Ways to choose the range of a tensor: the largest value there was; the one that 99.9 % of the "
        "values "
        "lie below; the one that keeps most of the distribution; the one of least mean squared error.",
    ),
    (
        "held-out",
        "Pictures that neither calibration nor the search for a plan ever saw. Only they judge an engine, as "
        "a fresh examination judges better than the exercises.",
    ),
    (
        "gate",
        "The limits an engine has to keep before it is published: how much the accuracy may fall, and how "
        "alike its outputs have to be to the original's.",
    ),
    (
        "cosine",
        "Whether two outputs point the same way: 1 for outputs that are alike up to their size, "
        "0 for outputs that have nothing in common.",
    ),
    (
        "SQNR",
        "Signal-to-quantization-noise ratio, in decibels: how much stronger the right output is than the "
        "error in it. Every 10 dB more is ten times less error power.",
    ),
    (
        "divergence",
        "How far an engine's result for a picture lies from the original's, as the task sees it: 0 for the "
        "same result. It notices changes long before an accuracy figure moves.",
    ),
    (
        "noise of a group",
        "The divergence that comes from quantizing this part of the network alone. Noise of several parts "
        "roughly adds up; that is how plans are compared without running all of them.",
    ),
    (
        "verified, simulated, bundle",
        "Verified: the engine ran on its device and was judged there. Simulated: the compiler for the device "
        "took it, and a processor that imitates the device's number formats judged it. Bundle: it still has "
        "to be compiled on its device; a processor judged it in the same way.",
    ),
)
