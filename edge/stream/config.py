"""`configs/streams/*.toml` as validated models: feeds, engine, limits, gates and sinks of one run."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edge.config import ROOT, Section, read_toml, resolve, validate
from edge.errors import UsageError, nearest
from edge.privacy import Mode

STREAMS = ROOT / "configs" / "streams"
PAGE = "docs/streams.md"

Rectangle = tuple[float, float, float, float]
"""Left, top, width and height as parts of the picture, 0 to 1."""


class ReconnectConfig(Section):
    """How a feed that is gone is looked for; pauses double from the first to the longest, with jitter."""

    first_s: PositiveFloat = Field(0.2, description="pause before the first new attempt, seconds")
    longest_s: PositiveFloat = Field(10.0, description="longest pause between attempts, seconds")
    give_up_s: PositiveFloat | None = Field(
        None, description="seconds without a frame after which the feed has failed; default: never"
    )
    open_s: PositiveFloat = Field(5.0, description="longest that one attempt may take, seconds")


class HealthConfig(Section):
    """When a feed that still gives frames is not believed."""

    stalled_s: PositiveFloat = Field(2.0, description="seconds without a frame until it counts as stalled")
    frozen_s: NonNegativeFloat = Field(
        2.0, description="seconds of the same picture until it counts as frozen; 0: never"
    )
    black: bool = Field(True, description="whether black pictures are noticed")
    lens: bool = Field(True, description="whether overexposed and smeared pictures are noticed")
    withhold: bool = Field(False, description="drop what is not usable as `unusable` instead of flagging it")


class MotionConfig(Section):
    """Frames in which nothing moved are not run: the last result is repeated, flagged `gated`."""

    share: float = Field(0.001, gt=0, le=1, description="part of the picture that has to change")
    contrast: float = Field(
        12.0, gt=0, le=255, description="grey levels that count as a change, where there is no noise"
    )
    refresh_s: PositiveFloat = Field(5.0, description="seconds after which a still picture is run anyway")
    regions: tuple[Rectangle, ...] = Field(
        (), description="where motion counts: left, top, width, height, as parts of the picture; default: all"
    )


class AlarmConfig(Section):
    """What makes a feed be watched closely: every frame is run, without gate and rate limit."""

    classes: tuple[str, ...] = Field((), description="names of classes that raise it when they are found")
    score: float = Field(0.5, ge=0, le=1, description="least score of such a finding")
    motion: float | None = Field(None, gt=0, le=1, description="part of the picture in motion that raises it")
    seconds: PositiveFloat = Field(10.0, description="how long it lasts after the last trigger")

    @model_validator(mode="after")
    def _has_a_trigger(self) -> AlarmConfig:
        if not self.classes and self.motion is None:
            raise ValueError("nothing raises the alarm: give `classes` or `motion`")
        return self


class FeedSettings(Section):
    """What may be set for one feed, and for all of them under [defaults]."""

    realtime: bool = Field(False, description="frames of a file fall due at its own rate")
    max_age_ms: PositiveFloat | None = Field(None, description="older frames of a live feed are dropped")
    fps: PositiveFloat | None = Field(None, description="most frames a second that are looked at")
    stride: PositiveInt = Field(1, description="look at every n-th frame")
    roi: Rectangle | None = Field(
        None, description="the part of the picture that is the feed: left, top, width, height, 0 to 1"
    )
    reconnect: ReconnectConfig = ReconnectConfig()
    health: HealthConfig = HealthConfig()
    motion: MotionConfig | None = Field(None, description="the motion gate; default: every frame is run")
    alarm: AlarmConfig | None = Field(None, description="the alarm; default: none")

    burned_in: Literal["flag", "mask"] | None = Field(
        None,
        description="look for text in the pictures: flag frames with it, or also write masked copies of the "
        "DICOM objects; default: do not look",
    )
    masked: Path | None = Field(None, description='the folder of the copies, with `burned_in = "mask"`')

    @model_validator(mode="after")
    def _copies_have_a_folder(self) -> FeedSettings:
        if (self.burned_in == "mask") is not (self.masked is not None):
            raise ValueError('`masked`, a folder, goes with `burned_in = "mask"`')
        return self

    @model_validator(mode="after")
    def _motion_is_measured(self) -> FeedSettings:
        if self.motion is None and self.alarm is not None and self.alarm.motion is not None:
            raise ValueError("alarm.motion needs the table `motion`, which says what motion is")
        return self

    @model_validator(mode="after")
    def _rectangles_lie_inside(self) -> FeedSettings:
        regions = self.motion.regions if self.motion else ()
        for left, top, width, height in (*regions, *((self.roi,) if self.roi else ())):
            if not (0 <= left < 1 and 0 <= top < 1 and 0 < width <= 1 - left and 0 < height <= 1 - top):
                rectangle = [left, top, width, height]
                raise ValueError(f"{rectangle} does not lie inside the picture, [0, 0, 1, 1]")
        return self


class FeedConfig(FeedSettings):
    """One feed."""

    name: str = Field("", description="unique in the run; default: made from the address")
    source: str = Field(description="its address, as for --source")

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.-]*", name):
            raise ValueError("a name has letters, digits, '.', '_' and '-'")
        return name


class EngineConfig(Section):
    """The engine that serves all feeds, and how it is run."""

    model: str | None = Field(None, description="a model in the engine store")
    target: str | None = Field(None, description="whose engine to run; default: the best for this machine")
    variant: str | None = Field(None, description="which engine of the target; default: fast")
    backend: Literal["null", "onnxruntime", "onnxruntime_cuda"] | None = Field(
        None, description="instead of the engine's own runtime; null: no engine at all"
    )
    engines: Path = Field(Path("engines"), description="the engine store")
    threads: PositiveInt | None = Field(None, description="processor threads; default: all")
    spin: bool = Field(
        False,
        description="processor threads stay awake between the frames of live feeds: results come some "
        "milliseconds sooner, for a core that is always busy",
    )
    gpu: int | None = Field(None, ge=0, description="which GPU; default: the first that the engine is for")
    slots: int | None = Field(
        None, ge=1, le=4, description="batches in flight; default: 2, of files on a processor 3"
    )
    batch: PositiveInt = Field(1, description="most frames of one inference")
    batch_wait_ms: PositiveFloat = Field(2.0, description="how long a frame waits for others of its batch")
    latency_ms: PositiveFloat | None = Field(
        None,
        description="target from frame to result: batches shrink while the 95th percentile is above it",
    )


class SinkConfig(Section):
    """One sink."""

    to: str = Field(description="its address, as for --sink")
    policy: Literal["block", "drop-oldest"] | None = Field(
        None, description="what happens when it cannot keep up; default: what its kind does"
    )


class TriageConfig(Section):
    """What the worklist puts on top."""

    urgent: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description="class → score from which its finding is urgent; only classes named here then count"
    )


class StreamConfig(Section):
    """One run, or one kiosk."""

    privacy: Mode = Field(
        "pseudonym",
        description="what DICOM objects are called in results, summary and logs: pseudonyms under a key that "
        "is kept (`pseudonym`) or is not (`full`), or UIDs and file names as they are (`none`)",
    )
    privacy_key: Path | None = Field(
        None,
        description="key for pseudonyms, made where it is absent; default: `~/.config/edge/pseudonym.key`",
    )
    engine: EngineConfig = EngineConfig()
    defaults: FeedSettings = FeedSettings()
    feeds: tuple[FeedConfig, ...] = Field((), description="tables [[feeds]]")
    sinks: tuple[SinkConfig, ...] = Field((), description="tables [[sinks]]")
    triage: TriageConfig = TriageConfig()

    @field_validator("feeds", "sinks", mode="before")
    @classmethod
    def _are_tables(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):
            raise ValueError(f"each is a table of its own, with two brackets: [[{info.field_name}]]")
        return value

    @model_validator(mode="after")
    def _names_differ(self) -> StreamConfig:
        names = Counter(feed.name for feed in self.feeds if feed.name)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"two feeds are called '{twice[0]}'")
        return self


def load_stream(path: Path) -> StreamConfig:
    """Read a stream's TOML file; what a feed leaves out it has from [defaults].

    Args:
        path: the file, or the bare name of one in `configs/streams/`.

    Raises:
        UsageError: there is no stream of this bare name.
        InputError: the file cannot be read.
        ConfigError: a key is unknown, missing or has a wrong value.
    """
    path = find_stream(path)
    data = read_toml(path)
    defaults = data.get("defaults", {})
    feeds = data.get("feeds", [])
    if defaults:
        validate(StreamConfig, {"defaults": defaults}, str(path), PAGE)  # told once, and not of every feed
    if isinstance(feeds, list):
        data["feeds"] = [_over(defaults, feed) if isinstance(feed, dict) else feed for feed in feeds]
    config = validate(StreamConfig, data, str(path), PAGE)
    engines = resolve(config.engine.engines, path.resolve().parent)
    if "engines" not in data.get("engine", {}):
        engines = config.engine.engines
    key = resolve(config.privacy_key, path.resolve().parent) if config.privacy_key else None
    engine = config.engine.model_copy(update={"engines": engines})
    return config.model_copy(update={"engine": engine, "privacy_key": key})


def find_stream(path: Path) -> Path:
    """The file `path` names: a path as it is, or a bare name in `configs/streams/`.

    Raises:
        UsageError: there is no stream of this bare name.
    """
    if path.exists() or len(path.parts) > 1 or path.suffix == ".toml":
        return path
    named = STREAMS / f"{path.name}.toml"
    if named.exists():
        return named
    raise UsageError(
        f"no stream '{path}'", f"there is no {path}.toml in {STREAMS}", nearest(path.name, _known())
    )


def _known() -> list[str]:
    return [p.stem for p in STREAMS.glob("*.toml")]


def _over(defaults: dict[str, Any], feed: dict[str, Any]) -> dict[str, Any]:
    """The feed's keys over the defaults', table by table."""
    merged = dict(defaults)
    for key, value in feed.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
