"""What the sinks write: lines that keep to the schema, videos that play."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from streaming import Collect, Script, feed, heatmap_graph, network_of, pictures

from edge import tasks
from edge.config import ModelConfig
from edge.sinks import FeedInfo, open_sink
from edge.sinks.jsonl import result_line
from edge.stream.network import Nothing
from edge.stream.run import Run
from edge.types import EngineId, Frame, Payload, Result

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "result.schema.json").read_text())
STAGES = dict.fromkeys(("capture", "queue", "preprocess", "infer", "postprocess", "total"), 0.001)


def check(line: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    Draft202012Validator(SCHEMA).validate(fields)
    return fields


def result(payload: Payload, **changes: Any) -> Result:
    image = np.zeros((48, 64, 3), np.uint8)
    frame = {
        "feed": "a",
        "seq": 3,
        "image": image,
        "pts": 0.12,
        "captured": 1.0,
        "captured_at": 1.7e9,
    } | changes
    return Result(Frame(**frame), EngineId("m", "cpu", "fast", "k"), payload, STAGES)


def payload_of(
    kind: str, settings: dict[str, Any], outputs: dict[str, np.ndarray], size: int = 32
) -> Payload:
    """What a real task makes of these outputs."""
    from edge.preprocess import Preprocess

    config = ModelConfig.model_validate(
        {"name": "m", "onnx": "m.onnx", "input": {"size": (size, size)}, "task": {"kind": kind, **settings},
         "calibration": {"images": "."}}
    )  # fmt: skip
    place = Preprocess(config.input).into(
        np.zeros((48, 64, 3), np.uint8), np.zeros((3, size, size), np.float32)
    )
    return tasks.create(config).postprocess(outputs, 0, place)


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_a_run_writes_lines_that_keep_to_the_schema(tmp_path: Path) -> None:
    network = network_of(heatmap_graph(tmp_path / "tiny.onnx"))
    path = tmp_path / "r.jsonl"
    Run(network, [feed("a", Script(pictures(5)))], [("jsonl:", open_sink(f"jsonl:{path}", []))]).go()
    lines = [check(line) for line in path.read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(5))
    assert lines[0]["model"] == "tiny"
    assert "mask" in lines[0]
    network.close()


@pytest.mark.parametrize(
    ("kind", "settings", "outputs", "key"),
    [
        ("classify", {}, {"logits": np.arange(10, dtype=np.float32)[None]}, "classes"),
        ("segment", {}, {"heat": np.eye(8, dtype=np.float32)[None, None]}, "mask"),
        ("image", {}, {"picture": np.zeros((1, 3, 64, 64), np.float32)}, "image"),
    ],
)
def test_every_tasks_finding_keeps_to_the_schema(
    kind: str, settings: dict[str, Any], outputs: dict[str, np.ndarray], key: str
) -> None:
    assert key in check(result_line(result(payload_of(kind, settings, outputs))))


def test_numbers_that_json_lacks_become_null() -> None:
    class Broken:
        def to_json(self) -> dict[str, Any]:
            return {
                "mask": {
                    "share": float("nan"),
                    "boxes": [{"box": [1.0, float("inf"), 2.0, 3.0], "score": 0.5}],
                }
            }

        def draw(self, image: np.ndarray) -> np.ndarray:
            return image

    fields = check(result_line(result(Broken())))
    assert fields["mask"] == {"share": None, "boxes": [{"box": [1.0, None, 2.0, 3.0], "score": 0.5}]}


def test_a_line_keeps_unicode_and_holds_no_newline() -> None:
    line = result_line(result(Collectless(), feed="Gerät\n1", meta={"file": "ü.png"}))
    assert "\n" not in line
    assert "Gerät" in line
    assert check(line)["source_meta"] == {"file": "ü.png"}


class Collectless:
    def to_json(self) -> dict[str, Any]:
        return {}

    def draw(self, image: np.ndarray) -> np.ndarray:
        cv2.circle(copy := image.copy(), (10, 10), 5, (0, 0, 255), -1)
        return copy


def frames_of(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (got := capture.read())[0]:
        frames.append(got[1])
    capture.release()
    return frames


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_a_video_plays_and_shows_the_finding(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v.{suffix}"
    sink = open_sink(f"video:{path}", [FeedInfo("a", 25.0)])
    for number in range(6):
        sink.write(result(Collectless(), pts=number / 25))
    sink.close()
    frames = frames_of(path)
    assert len(frames) == 6
    assert frames[3].shape == (48, 64, 3)
    blue, green, red = frames[3][10, 10].astype(int)
    assert red > 150 > blue + green


def test_a_video_keeps_the_feeds_pace_where_frames_were_dropped(tmp_path: Path) -> None:
    sink = open_sink(f"video:{tmp_path}/v.avi", [FeedInfo("a", 10.0)])
    for seq, grey in ((5, 60), (6, 120), (11, 180)):
        sink.write(result(Nothing(), pts=seq / 10, image=np.full((48, 64, 3), grey, np.uint8)))
    sink.close()
    shown = [int(frame.mean()) for frame in frames_of(tmp_path / "v.avi")]
    assert shown == pytest.approx([60, 120, 120, 120, 120, 120, 180], abs=3)


def test_each_feed_gets_its_own_video(tmp_path: Path) -> None:
    sink = open_sink(f"video:{tmp_path}/v.mp4", [FeedInfo("a"), FeedInfo("b")])
    for name in ("a", "b", "a"):
        sink.write(result(Collectless(), feed=name))
    sink.close()
    assert len(frames_of(tmp_path / "v-a.mp4")) == 2
    assert len(frames_of(tmp_path / "v-b.mp4")) == 1


def test_pictures_of_another_size_are_fitted_in_whole(tmp_path: Path) -> None:
    sink = open_sink(f"video:{tmp_path}/v.avi", [FeedInfo("a")])
    for shape in ((48, 64), (96, 96), (47, 63)):
        sink.write(result(Collectless(), image=np.full((*shape, 3), 200, np.uint8)))
    sink.close()
    first, square, _ = frames_of(tmp_path / "v.avi")
    assert first.shape == square.shape == (48, 64, 3)
    assert square[24, 2].max() < 60 < 150 < square[40, 32].min()


def test_an_unknown_container_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.mp4, \.avi"):
        open_sink(f"video:{tmp_path}/v.gif", [])


def test_collect_stands_for_a_sink() -> None:
    sink = Collect()
    sink.write(result(Collectless()))
    assert sink.sequence("a") == [3]
