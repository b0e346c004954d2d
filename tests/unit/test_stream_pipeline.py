"""The two loops on a real graph: same results, right order, honest stage times."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import Collect, Script, feed, heatmap_graph, log_graph, network_of, pictures

from edge.backends import EngineOptions
from edge.sinks.jsonl import result_fields
from edge.sources import Picture
from edge.stream.metrics import STAGES
from edge.stream.network import engine_options, has_nan, null_network
from edge.stream.run import Run


def lines(sink: Collect) -> str:
    """Result lines without the times."""
    fields = [result_fields(result) for result in sink.results]
    return "\n".join(
        json.dumps({k: v for k, v in f.items() if k not in ("latency_ms", "captured_at")}) for f in fields
    )


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return heatmap_graph(tmp_path_factory.mktemp("graph") / "tiny.onnx")


@pytest.mark.parametrize("streams", [1, 2])
def test_overlapped_equals_serial_byte_for_byte(graph: Path, streams: int) -> None:
    network = network_of(graph, EngineOptions(threads=1, streams=streams))
    written = []
    for serial in (True, False):
        sink = Collect()
        run = Run(network, [feed("a", Script(pictures(60)))], [("collect:", sink)], serial=serial)
        assert run.go().data["feeds"][0]["delivered"] == 60
        written.append(lines(sink))
    assert written[0] == written[1]
    assert written[0].count('"mask"') == 60
    network.close()


def test_a_slot_is_not_overwritten_while_its_result_is_read(graph: Path) -> None:
    """Each finding belongs to its own picture, whatever the other slot did meanwhile."""
    network = network_of(graph, EngineOptions(threads=1, streams=2))
    shown, sink = pictures(40, seed=5), Collect()
    Run(network, [feed("a", Script(shown))], [("collect:", sink)]).go()
    for picture, result in zip(shown, sink.results, strict=True):
        tensor = np.zeros((1, 3, 32, 32), np.float32)
        assert network.preprocess is not None
        network.preprocess.into(picture.image, tensor[0])
        heat = network.engine.run({"image": tensor})["heatmap"][0, 0]
        window = result.payload.window
        np.testing.assert_array_equal(result.payload.heat, heat[window.rows, window.columns])
    network.close()


def test_results_of_each_feed_leave_in_frame_order_and_feeds_take_turns() -> None:
    sink = Collect()
    feeds = [feed(name, Script(pictures(30))) for name in "abc"]
    Run(null_network("delay_ms=0.2"), feeds, [("collect:", sink)]).go()
    for name in "abc":
        assert sink.sequence(name) == list(range(30))
    first = [result.frame.feed for result in sink.results[:45]]
    assert all(first.count(name) >= 8 for name in "abc")


def test_stages_are_measured_where_they_happen() -> None:
    sink = Collect()
    Run(
        null_network("delay_ms=3"), [feed("a", Script([*pictures(2), 0.02, *pictures(1)]))], [("c:", sink)]
    ).go()
    for result in sink.results:
        assert tuple(result.stages) == STAGES
        assert result.stages["infer"] == pytest.approx(3e-3)
        parts = ("queue", "preprocess", "infer", "postprocess")
        assert result.stages["total"] >= sum(result.stages[stage] for stage in parts) - 1e-4
    assert sink.results[2].stages["capture"] >= 0.02


def test_a_slow_cameras_result_is_not_held_back_for_the_next_frame() -> None:
    delivered = threading.Event()

    class Camera(Script):
        def read(self) -> Picture | None:
            if self.read_count == 1:  # the next frame comes only after the first result
                assert delivered.wait(10)
            return super().read()

    sink = Collect(lambda result: delivered.set())
    Run(null_network(), [feed("a", Camera(pictures(2), live=True))], [("collect:", sink)]).go()
    assert sink.sequence("a") == [0, 1]


def test_a_paced_file_takes_its_own_time_and_still_drops_nothing() -> None:
    source = Script(pictures(6), paced=True)
    start = time.perf_counter()
    row = Run(null_network("delay_ms=60"), [feed("a", source)]).go().data["feeds"][0]
    assert time.perf_counter() - start >= 5 / 25
    assert (row["delivered"], row["dropped"]) == (6, {})


def test_a_live_feed_that_overtakes_the_engine_keeps_to_the_newest() -> None:
    sink = Collect()
    source = Script([step for picture in pictures(40) for step in (picture, 0.001)], live=True)
    row = Run(null_network("delay_ms=10"), [feed("a", source)], [("c:", sink)]).go().data["feeds"][0]
    assert row["captured"] == 40
    assert row["dropped"]["superseded"] > 10
    assert sink.sequence("a") == sorted(set(sink.sequence("a")))
    assert sink.sequence("a")[-1] == 39


def test_a_limit_stops_each_feed_and_says_so() -> None:
    data = (
        Run(null_network(), [feed("a", Script(pictures(9))), feed("b", Script(pictures(3)))], limit=5)
        .go()
        .data
    )
    assert [(f["delivered"], f["ended"]) for f in data["feeds"]] == [(5, "limit"), (3, "end")]


def test_outputs_that_are_not_numbers_are_flagged_and_counted(tmp_path: Path) -> None:
    black = Picture(np.zeros((32, 32, 3), np.uint8))
    grey = Picture(np.full((32, 32, 3), 99, np.uint8))
    sink = Collect()
    network = network_of(log_graph(tmp_path / "log.onnx"))
    summary = Run(network, [feed("a", Script([grey, black, grey]))], [("collect:", sink)]).go()
    assert [result.flags for result in sink.results] == [(), ("nan",), ()]
    assert summary.data["feeds"][0]["flags"] == {"nan": 1}
    assert summary.exit_code == 5
    network.close()


def test_a_sum_that_overflows_is_not_taken_for_nan() -> None:
    assert not has_nan({"x": np.full(100, 3e38, np.float32)})
    assert has_nan({"x": np.array([1, np.inf], np.float32)})
    assert not has_nan({"x": np.arange(3)})


def test_a_file_gets_two_streams_and_a_camera_all_threads_at_rest() -> None:
    assert engine_options(4, live=False, serial=False) == EngineOptions(threads=3, streams=2, in_order=False)
    assert engine_options(4, live=True, serial=False) == EngineOptions(threads=4, spin=False)
    assert engine_options(4, live=True, serial=False, spin=True) == EngineOptions(threads=4, spin=True)
    assert engine_options(1, live=False, serial=False).threads == 1


def test_open_sizes_are_filled_in_from_the_options(tmp_path: Path) -> None:
    graph = heatmap_graph(tmp_path / "open.onnx", "height", "width", "batch")
    network = network_of(graph)
    assert network.engine.inputs[0].shape == (1, 3, 32, 32)
    sink = Collect()
    Run(network, [feed("a", Script(pictures(3)))], [("collect:", sink)]).go()
    assert len(sink.results) == 3
    network.close()


def counted(submit: Any, sizes: list[int]) -> Any:
    def counting(rows: int) -> None:
        sizes.append(rows)
        submit(rows)

    return counting


def test_frames_of_several_feeds_share_an_inference_on_the_processor_too(tmp_path: Path) -> None:
    graph = heatmap_graph(tmp_path / "open.onnx", batch="n")
    found = []
    for batch in (1, 3):
        network = network_of(graph, EngineOptions(threads=1, batch=batch, size=(32, 32)))
        network.patience = 0.05
        sizes: list[int] = []
        for slot in network.slots():
            slot.submit = counted(slot.submit, sizes)  # type: ignore[method-assign]
        sink = Collect()
        feeds = [feed(name, Script(pictures(7, seed))) for seed, name in enumerate("abc")]
        Run(network, feeds, [("collect:", sink)]).go()
        network.close()
        assert sum(sizes) == 21 and max(sizes) == batch
        results = sorted(sink.results, key=lambda result: (result.frame.feed, result.frame.seq))
        found.append([result.payload.to_json() for result in results])
    assert found[0] == found[1]
