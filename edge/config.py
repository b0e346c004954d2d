"""The TOML files as validated models. An unknown key is an error that names the nearest known one.

`$EDGE_ASSETS` in a path means the folder of measuring data (default: `../shared/assets` beside the
repository); any other path is relative to the file that holds it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from edge.address import without_password
from edge.errors import ConfigError, InputError, UsageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "configs" / "models"


class Section(BaseModel):
    """A table of a configuration file: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class VolumeConfig(Section):
    """How a series becomes the network's input: resampled around its centre → quantiles cut off → 0–1."""

    depth: PositiveInt = Field(description="size of the input's first axis; the others' is `size`")
    orientation: str = Field(
        "LIA",
        description="where the three axes of the input point to in the patient, one of L R, P A and S I each",
    )
    spacing_mm: float = Field(1.0, gt=0, description="size of a voxel of the input")
    quantiles: tuple[float, float] = Field(
        (0.05, 0.95), description="of the resampled values: what becomes 0 and 1; those beyond are cut off"
    )

    @model_validator(mode="after")
    def _possible(self) -> VolumeConfig:
        if sorted("RLAPIS".find(letter) // 2 for letter in self.orientation) != [0, 1, 2]:
            raise ValueError(f"orientation {self.orientation!r} is not three directions, such as LIA or RAS")
        low, high = self.quantiles
        if not 0 <= low < high <= 1:
            raise ValueError(f"quantiles {low:g} and {high:g} do not ascend between 0 and 1")
        return self


class InputConfig(Section):
    """How a picture becomes the network's input tensor: fit → colour order → (pixel · scale − mean) / std."""

    name: str | None = Field(None, description="the graph's input tensor; may be left out if it has only one")
    size: tuple[PositiveInt, PositiveInt] = Field(description="height and width of the network's input")
    channels: Literal[1, 3] = Field(3, description="3 for colour, 1 for grey")
    fit: Literal["letterbox", "stretch", "crop"] = Field(
        "letterbox",
        description="letterbox: whole picture, padded; stretch: ignore the aspect ratio; "
        "crop: shorter side to `shorter_side`, then the centre",
    )
    anchor: Literal["top-left", "center"] = Field("center", description="where letterbox puts the picture")
    pad: int = Field(0, ge=0, le=255, description="grey level of letterbox padding")
    shorter_side: PositiveInt | None = Field(
        None, description="crop: length of the shorter side before the centre is cut; default: the input's"
    )
    color: Literal["rgb", "bgr"] = Field("rgb", description="channel order the network was trained with")
    scale: float = Field(1 / 255, gt=0, description="factor applied to 0–255 pixel values")
    mean: tuple[float, ...] = Field(
        (0.0,), description="subtracted after scaling, one value or one a channel"
    )
    std: tuple[float, ...] = Field(
        (1.0,), description="divided by after the mean, one value or one a channel"
    )
    volume: VolumeConfig | None = Field(
        None, description="for a network that reads volumes: of the other keys only name, size and channels"
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input without the batch: channels × (depth ×) height × width."""
        return (self.channels, *([self.volume.depth] if self.volume else []), *self.size)

    @model_validator(mode="after")
    def _of_volumes(self) -> InputConfig:
        if self.volume is None:
            return self
        if self.channels != 1:
            raise ValueError("a volume is grey: it needs channels = 1")
        for name in ("fit", "anchor", "pad", "shorter_side", "color", "scale", "mean", "std"):
            if getattr(self, name) != InputConfig.model_fields[name].default:
                raise ValueError(f"{name} is for pictures, and [input.volume] is there: leave it out")
        return self

    @model_validator(mode="after")
    def _per_channel(self) -> InputConfig:
        for field in ("mean", "std"):
            count = len(getattr(self, field))
            if count not in (1, self.channels):
                raise ValueError(f"{field} has {count} values, but the input has {self.channels} channels")
        if any(value == 0 for value in self.std):
            raise ValueError("std holds a zero")
        return self


class SamplesConfig(Section):
    """A folder of pictures, with labels where the task knows how to read them."""

    images: Path = Field(description="folder of images (or DICOM files); for volumes, of series")
    labels: Path | None = Field(None, description="the task's label file or folder")
    limit: PositiveInt | None = Field(None, description="use at most this many, in name order")


class GateConfig(Section):
    """What an engine has to reach on held-out samples before it may be published."""

    min_cosine: float = Field(
        0.98, ge=-1, le=1, description="lowest cosine similarity of any output with fp32"
    )
    min_sqnr_db: float | None = Field(
        None, description="lowest signal-to-quantization-noise ratio of any output"
    )
    max_drop: float | None = Field(
        None, ge=0, description="most the task's metric may fall below fp32, in the metric's own unit"
    )


class TaskConfig(BaseModel):
    """`kind` names the task; the other keys are that task's own settings, validated by the task."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = Field(description="classify, detect, segment, image or segment_volume")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


Size = tuple[PositiveInt, PositiveInt]


class ProfileConfig(Section):
    """Batches and sizes one engine takes, and what it may use of a GPU. Without it: batch 1, one size."""

    batch: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (1, 1, 1), description="smallest batch, the one to be fastest at, largest"
    )
    min_size: Size | None = Field(None, description="smallest height and width; default: the input's `size`")
    max_size: Size | None = Field(None, description="largest height and width; default: the input's `size`")
    gpu_memory_mb: PositiveInt | None = Field(
        None, description="MiB that an engine and one execution context may take; more is refused"
    )
    workspace_mb: PositiveInt | None = Field(
        None, description="MiB that a single kernel may use for intermediate results; default: what there is"
    )

    @model_validator(mode="after")
    def _ascending(self) -> ProfileConfig:
        if list(self.batch) != sorted(self.batch):
            raise ValueError(f"batch {list(self.batch)} is not in the order smallest, usual, largest")
        return self


class QuantizeConfig(Section):
    """How quantized engines are made."""

    policy: Path | None = Field(
        None, description="JSON file of rules for precisions, or the name of one in configs/policies/"
    )
    equalize: bool = Field(
        True, description="bring channels to a like range where that lowers the error (docs/precision.md)"
    )
    given: Literal["refuse", "keep"] = Field(
        "refuse", description="a graph that holds Q/DQ already: refuse it, or keep those as they are"
    )


class ModelConfig(Section):
    """One ONNX graph and all that is needed to build, check and run it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="folder name in the engine store")
    onnx: Path = Field(description="the graph, fp32")
    licence: str = Field("", description="of the weights; copied into the manifest")
    input: InputConfig
    task: TaskConfig
    calibration: SamplesConfig
    evaluation: SamplesConfig | None = Field(
        None, description="held-out samples; without them a part of the calibration set is held out"
    )
    gate: GateConfig = GateConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    profile: ProfileConfig | None = Field(
        None, description="a range of batches and sizes; without it an engine takes one picture of one size"
    )

    @model_validator(mode="after")
    def _one_volume_at_a_time(self) -> ModelConfig:
        if self.input.volume is not None and self.profile is not None:
            raise ValueError("[profile] is for pictures: a network takes one volume of one size")
        return self

    @model_validator(mode="after")
    def _size_in_profile(self) -> ModelConfig:
        if self.profile is None:
            return self
        sizes = (self.profile.min_size, self.input.size, self.profile.max_size)
        for axis, what in enumerate(("height", "width")):
            given = [size[axis] for size in sizes if size is not None]
            if given != sorted(given):
                raise ValueError(f"[profile]: {what} {given} is not in the order min_size, size, max_size")
        return self


S = TypeVar("S", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """The file's content.

    Raises:
        InputError: it cannot be read.
        ConfigError: it is not TOML.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return content
    except OSError as e:
        raise InputError(f"cannot read {path}", e.strerror or str(e), "check the path") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not valid TOML", str(e), "mend the line it names") from e


def validate(kind: type[S], data: dict[str, Any], where: str, page: str = "docs/configuration.md") -> S:
    """`data` as a `kind`; `where` names its origin in errors, `page` where its keys are explained.

    Raises:
        ConfigError: a key is unknown, missing or has a wrong value; every problem is listed.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as e:
        problems = [_problem(kind, error) for error in e.errors()]
        raise ConfigError(f"{where} is not valid", "; ".join(problems), f"see {page}") from e


_WORDS = {
    "tuple_type": "it is a list",
    "dict_type": "it is a table",
    "model_type": "it is a table",
    "model_attributes_type": "it is a table",
}
"""For pydantic's messages that speak of Python."""


def _problem(kind: type[BaseModel], error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return f"unknown key '{'.'.join(path)}', {nearest(path[-1], _fields(kind, path[:-1]))}"
    name = ".".join(path) or "the file"
    value = "" if error["type"] == "missing" else without_password(f" (got {error['input']!r})")
    message = _WORDS.get(error["type"], error["msg"].removeprefix("Value error, "))
    return f"{name}: {message}{value if len(value) < 80 else ''}"


def _fields(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        if part not in kind.model_fields:
            continue  # a place in a list, or a key of a table
        annotation = kind.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        inner = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not inner:
            return []
        kind = inner[0]
    return [field.alias or name for name, field in kind.model_fields.items()]


def assets() -> Path:
    """The folder of measuring data: `$EDGE_ASSETS`, else `../shared/assets` beside the repository."""
    return Path(os.environ.get("EDGE_ASSETS") or ROOT.parent / "shared" / "assets")


def resolve(path: Path, base: Path) -> Path:
    """`path` with `$EDGE_ASSETS` and `~` replaced, relative to `base`."""
    text = str(path).replace("$EDGE_ASSETS", str(assets()))
    return (base / Path(text).expanduser()).resolve()


def load_model(path: Path) -> ModelConfig:
    """Read a model's TOML file; paths in it become absolute.

    Args:
        path: the file, or the bare name of one in `configs/models/`.
    """
    path = find_model(path)
    config = validate(ModelConfig, read_toml(path), str(path))
    base = path.resolve().parent

    def absolute(samples: SamplesConfig | None) -> SamplesConfig | None:
        if samples is None:
            return None
        labels = resolve(samples.labels, base) if samples.labels else None
        return samples.model_copy(update={"images": resolve(samples.images, base), "labels": labels})

    return config.model_copy(
        update={
            "task": _with_labels(config.task, base),
            "onnx": resolve(config.onnx, base),
            "calibration": absolute(config.calibration),
            "evaluation": absolute(config.evaluation),
            "quantize": config.quantize.model_copy(
                update={"policy": _policy_path(config.quantize.policy, base)}
            ),
        }
    )


def _policy_path(policy: Path | None, base: Path) -> Path | None:
    """A bare name stays one: it is looked up in `configs/policies/`."""
    if policy is None or (len(policy.parts) == 1 and not policy.suffix):
        return policy
    return resolve(policy, base)


def _with_labels(task: TaskConfig, base: Path) -> TaskConfig:
    """`labels_file` (a class name a line) read into `labels`, so that a stored engine needs no other file."""
    settings = task.settings
    if "labels_file" not in settings:
        return task
    path = resolve(Path(str(settings.pop("labels_file"))), base)
    if "labels" in settings:
        raise ConfigError("both `labels` and `labels_file` are in [task]", "one would be ignored", "keep one")
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"cannot read the labels {path}", str(e), "check `labels_file` in [task]") from e
    labels = [name.strip() for name in names if name.strip()]
    return TaskConfig.model_validate({"kind": task.kind, **settings, "labels": labels})


def find_model(path: Path) -> Path:
    """The file `path` names: a path as it is, or a bare name in `configs/models/`.

    Raises:
        UsageError: there is no model of this bare name.
        InputError: there is no such TOML file.
    """
    if path.exists() or len(path.parts) > 1:
        return path
    named = MODELS / (path.name if path.suffix == ".toml" else f"{path.name}.toml")
    if named.exists():
        return named
    known = [p.stem for p in MODELS.glob("*.toml")]
    fix = nearest(path.name, known) if known else "give the path of its TOML file"
    if path.suffix == ".toml":
        raise InputError(f"no model config '{path}'", "there is no such file", fix)
    raise UsageError(f"no model '{path}'", f"there is no {path}.toml in {MODELS}", fix)
