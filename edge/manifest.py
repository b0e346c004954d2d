"""What is recorded about an engine, and what is checked before it is trusted: bytes, origin, this machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge.errors import StoreError
from edge.machine import INT8_DOT, Machine
from edge.targets import format_capability

SCHEMA = 1
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
"""Hashes of all files beside it, the manifest too: `sha256sum -c SHA256SUMS` checks them without Python."""
CURRENT = "current"
CHUNK = 1 << 20


class Record(BaseModel):
    """A part of a manifest. Keys of a later version of the same schema are ignored."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


class PlanEntry(Record):
    """Which precision a node got, and the rule or measurement that decided it."""

    node: str
    op: str
    precision: str
    reason: str
    group: str = Field(default="", description="the fusible group that a product belongs to")


class Tensor(Record):
    """An input or output; a dynamic dimension is its name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class OutputAccuracy(Record):
    """How close an output is to fp32; None where a number does not exist (no noise at all, no signal)."""

    name: str
    cosine: float | None = None
    sqnr_db: float | None = None


class Accuracy(Record):
    """The task's metric of the fp32 graph and of this engine, on samples that calibration never saw."""

    metric: str = ""
    fp32: float | None = None
    this: float | None = None
    drop_error: float | None = Field(
        default=None, description="standard error of fp32 − this, as far as the choice of samples goes"
    )
    samples: int = 0
    how: str = Field(default="", description="run on the device, or emulated on the processor")
    outputs: tuple[OutputAccuracy, ...] = ()
    divergence: float | None = Field(
        default=None, description="how far results lie from fp32's as the task sees it, mean over the samples"
    )
    promised: tuple[OutputAccuracy, ...] = Field(
        default=(), description="what emulation had said of the outputs before the engine ran on its device"
    )


class Latency(Record):
    """How long the engine alone takes on its device, copies and preprocessing not included."""

    p50_ms: float
    p99_ms: float
    per_second: float = Field(description="samples a second with two batches in flight, copies included")
    batch: int = 1


class GpuInfo(Record):
    """The GPU that an engine was verified on."""

    name: str
    driver: str = Field(default="", description='version of its driver; "" where it is not known (Jetson)')


class BuilderInfo(Record):
    """What compiled the engine."""

    name: str
    version: str
    timing_cache: str = Field(
        default="", description="file and hash of the kernel timings that the compiler reused"
    )


class Manifest(Record):
    """Everything that is known about one engine; it is self-contained."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    model: str
    target: str
    variant: str
    state: Literal["verified", "simulated", "bundle"]
    key: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="hash of everything that determines the engine")
    recipe: str = Field(default="", description="hash of all that determines the graph it is compiled from")
    graph_sha256: str
    calibration_sha256: str | None = None
    plan: tuple[PlanEntry, ...] = ()
    carrier: str
    builder: BuilderInfo
    backend: str = Field(description="which backend loads `engine_file`")
    engine_file: str
    compute_capability: str | None = Field(default=None, description='"8.9"; None for processors')
    requires: tuple[str, ...] = Field(default=(), description="processor features its numbers depend on")
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict, description="the ModelConfig it was built with")
    accuracy: Accuracy | None = None
    latency: Latency | None = Field(default=None, description="measured on the device it was verified on")
    gpu: GpuInfo | None = Field(default=None, description="that device; None for processors")
    verified_at: str = Field(default="", description="when it was verified on a GPU, UTC")
    quantized_mac_share: float = 0.0
    mac_shares: dict[str, float] = Field(
        default_factory=dict, description="share of all multiply–accumulates by precision"
    )
    speed_up: float | None = Field(
        default=None, description="over all in the carrier: measured on a processor, estimated for a GPU"
    )
    lint: tuple[str, ...] = ()
    warnings: tuple[str, ...] = Field(
        default=(), description="what is wrong with the data that it was made from, a sentence each"
    )
    files: dict[str, str] = Field(default_factory=dict, description="file name → sha256, set by publish")
    size_bytes: int = Field(default=0, description="all files together, set by publish")
    build_seconds: float = 0.0
    peak_rss_bytes: int = 0
    machine: str = Field(default="", description="where it was built")
    reason: str = Field(default="", description="why it is as it is, in a sentence")
    licence: str = ""

    @property
    def address(self) -> str:
        return f"{self.model}/{self.target}/{self.variant}"

    @property
    def precision(self) -> str:
        """In which types it works, in words: `91 % int8, 9 % fp32`."""
        shares = sorted(self.mac_shares.items(), key=lambda share: -share[1])
        return ", ".join(f"{share:.0%} {name}".replace("%", " %") for name, share in shares) or self.carrier


@dataclass(frozen=True, slots=True)
class Entry:
    """A published engine: its folder and what the manifest says."""

    path: Path
    manifest: Manifest

    @property
    def engine(self) -> Path:
        """The file that `backends.load` opens."""
        return self.path / self.manifest.engine_file

    def verify(self) -> None:
        """Compare every file with the hash that was recorded when it was published.

        Raises:
            StoreError: a file is missing, unreadable or changed.
        """
        for name, recorded in self.manifest.files.items():
            path = self.path / name
            try:
                found = sha256(path)
            except OSError as e:
                raise broken(self.path, f"{name}: {e.strerror}") from e
            if found != recorded:
                raise broken(self.path, f"{name} is not the file that was published (sha256 differs)")


def check_machine(manifest: Manifest, machine: Machine) -> None:
    """Refuse an engine that this machine cannot run, or would run with other numbers.

    Raises:
        StoreError: it is not compiled yet, is for another GPU, or needs processor features that are absent.
    """
    what = f"the engine {manifest.address} cannot run on this machine"
    if manifest.state == "bundle":
        raise StoreError(
            what,
            "it is a bundle: a graph that has to be compiled on its device",
            f"on the device: build_engines.py --bundle engines/{manifest.address}/{manifest.key} "
            "(`sh finish.sh` in that folder does the same); until then run it with --target cpu",
        )
    if manifest.compute_capability is not None:
        found = [format_capability(gpu.compute_capability) for gpu in machine.gpus]
        if manifest.compute_capability not in found:
            here = ", ".join(f"{g.name} ({c})" for g, c in zip(machine.gpus, found, strict=True)) or "no GPU"
            raise StoreError(
                what,
                f"it was compiled for compute capability {manifest.compute_capability}; here is {here}",
                "run it with --target cpu, or see `edge doctor` for targets of this machine",
            )
    missing = machine.missing_features(manifest.requires)
    if missing:
        saturates = " (without it 8-bit products saturate)" if INT8_DOT in missing else ""
        raise StoreError(
            what,
            f"its numbers were checked on a processor with {', '.join(missing)}, this one has not{saturates}",
            f"build it here: edge build --model {manifest.model} --targets {manifest.target}",
        )


def read_manifest(path: Path) -> Manifest:
    """The manifest of the engine in folder `path` of a store.

    Raises:
        StoreError: it is missing, not JSON, of an unknown schema, not complete, or another engine's.
    """
    manifest = parse_manifest(path)
    if tuple(path.parts[-4:]) != (manifest.model, manifest.target, manifest.variant, manifest.key):
        raise broken(path, f"{MANIFEST} belongs to {manifest.address}/{manifest.key}")
    return manifest


def parse_manifest(path: Path) -> Manifest:
    """The manifest in folder `path`, wherever that is.

    Raises:
        StoreError: it is missing, not JSON, of an unknown schema, not complete, or lists files elsewhere.
    """
    try:
        content = json.loads((path / MANIFEST).read_bytes())
    except OSError as e:
        raise broken(path, f"{MANIFEST}: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise broken(path, f"{MANIFEST} is not JSON: {e}") from e
    if not isinstance(content, dict):
        raise broken(path, f"{MANIFEST} is not a JSON object")
    if content.get("schema") != SCHEMA:
        raise broken(path, f"{MANIFEST} has schema {content.get('schema')!r}, this version reads {SCHEMA}")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as e:
        problem = e.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise broken(path, f"{MANIFEST}: {where}: {problem['msg']}") from e
    _check_files(manifest, path)
    return manifest


def sha256(path: Path) -> str:
    """Hash of a file's content, in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check_files(manifest: Manifest, path: Path) -> None:
    """A manifest that lists files outside its folder, or not its engine, is refused."""
    if manifest.engine_file not in manifest.files:
        raise broken(path, f"{MANIFEST} lists no hash for its engine file '{manifest.engine_file}'")
    outside = [name for name in manifest.files if not is_plain(name)]
    if outside:
        raise broken(path, f"{MANIFEST} lists '{outside[0]}', which is not a file name")


def is_plain(name: str) -> bool:
    """One path component that is not hidden: no separator, no "..", not the store's own file."""
    return bool(name) and not name.startswith(".") and Path(name).name == name and name != CURRENT


def broken(path: Path, why: str) -> StoreError:
    """The error for an engine folder whose content cannot be trusted."""
    return StoreError(f"the engine in {path} cannot be used", why, "build it again with `edge build`")
