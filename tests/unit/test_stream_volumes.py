"""A network of volumes from its config to its results: built, run over a folder of series, and alone."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edge.build.build import build
from edge.build.planning import plans
from edge.cli import main
from edge.config import ROOT
from edge.errors import ModelError, UsageError
from edge.machine import detect
from edge.sources import open_source
from edge.store import Store
from edge.stream.network import Network, engine_options, find_engine, open_network
from edge.stream.run import Run
from edge.stream.volumes import segment_series
from edge.targets import TARGETS

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

from tests.streaming import Collect, Script, feed, pictures
from tests.volumes import ball, volume_config, volume_graph, volume_network, write_series

SCHEMA = json.loads((ROOT / "docs" / "result.schema.json").read_text())


class Quiet:
    def step(self, text: str, done: int, total: int) -> None: ...

    def row(self, row: Any) -> None: ...


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A series of 16 slices, and a scout of one."""
    write_series(tmp_path / "study" / "head", ball())
    write_series(tmp_path / "study" / "scout", ball()[:1], SeriesInstanceUID="1.2.3")
    return tmp_path / "study"


@pytest.fixture
def network(tmp_path: Path, study: Path) -> Any:
    network = volume_network(volume_config(volume_graph(tmp_path / "tiny.onnx"), study / "head"))
    yield network
    network.close()


def test_fast_and_exact_are_built_in_fp32_and_the_rest_is_refused_with_the_reason(
    tmp_path: Path, study: Path
) -> None:
    model = volume_config(volume_graph(tmp_path / "tiny.onnx", "n"), study / "head")
    targets = [TARGETS["cpu"], TARGETS["ada"]]
    rows = build(model, targets, ["fast", "exact", "w8a16"], Store(tmp_path / "e"), detect(), Quiet())
    fast, exact, weights, *gpu = rows
    assert fast.error is None and "int8 left out" in fast.reason
    assert exact.error is None and "int8" not in exact.reason
    assert fast.accuracy is not None and fast.accuracy.outputs[0].cosine == pytest.approx(1)
    assert "not quantized yet" in weights.reason
    assert all(row.error is not None and "on no GPU yet" in row.reason for row in gpu)
    with pytest.raises(ModelError, match="ada/fast: the model reads volumes"):
        plans(model, [TARGETS["ada"]], ["fast"], Store(tmp_path / "e"), detect(), Quiet())
    again = build(model, targets[:1], ["fast"], Store(tmp_path / "e"), detect(), Quiet())
    assert again[0].cached
    assert fast.accuracy.samples == 1 and "calibrated" not in fast.accuracy.how


def test_an_engine_for_volumes_can_be_timed(tmp_path: Path, study: Path) -> None:
    model = volume_config(volume_graph(tmp_path / "tiny.onnx"), study / "head")
    build(model, [TARGETS["cpu"]], ["exact"], Store(tmp_path / "e"), detect(), Quiet())
    out = tmp_path / "bench.json"
    assert (
        main(f"bench --model tiny_volume --engines {tmp_path / 'e'} --seconds 0.1 --json {out}".split()) == 0
    )
    assert json.loads(out.read_text())[0]["p50_ms"] > 0


def test_true_labels_are_judged_by_dice(tmp_path: Path, study: Path) -> None:
    model = volume_config(volume_graph(tmp_path / "tiny.onnx"), study / "head")
    network = volume_network(model)
    found = segment_series(list((study / "head").iterdir()), network)
    network.close()
    np.save(tmp_path / "head.npy", np.stack(found.labels))
    evaluation = {"images": study / "head", "labels": tmp_path}
    model = volume_config(
        model.onnx, study / "head", evaluation=evaluation, gate={"max_drop": 0.01, "min_cosine": 0.9}
    )
    (row,) = build(model, [TARGETS["cpu"]], ["exact"], Store(tmp_path / "e"), detect(), Quiet())
    assert row.accuracy is not None
    assert (row.accuracy.metric, row.accuracy.fp32, row.accuracy.this) == ("dice", 1.0, 1.0)


def test_a_run_gives_one_result_a_series_and_what_is_none_counts_as_lost(tmp_path: Path, study: Path) -> None:
    model = volume_config(volume_graph(tmp_path / "tiny.onnx"), study / "head")
    build(model, [TARGETS["cpu"]], ["fast"], Store(tmp_path / "e"), detect(), Quiet())
    lines, summary = tmp_path / "r.jsonl", tmp_path / "s.json"
    code = main(
        f"run --model tiny_volume --engines {tmp_path / 'e'} --source dicom:{study} --summary {summary} "
        f"--sink jsonl:{lines} --sink video:{tmp_path / 'v.mkv'}".split()
    )
    counts = json.loads(summary.read_text())["feeds"][0]
    assert (counts["captured"], counts["delivered"], counts["failures"]) == (2, 1, {"capture": 1})
    assert code != 0
    (line,) = map(json.loads, lines.read_text().splitlines())
    jsonschema.validate(line, SCHEMA)
    assert [each["name"] for each in line["volumes"]] == ["grey", "white"]
    assert line["source_meta"]["slices"] == 16 and "file" not in line["source_meta"]
    assert (tmp_path / "v.mkv").stat().st_size > 0


@pytest.mark.parametrize("serial", [True, False])
def test_what_a_run_finds_is_what_is_found_offline(network: Network, study: Path, serial: bool) -> None:
    offline = segment_series(sorted((study / "head").iterdir(), reverse=True), network)
    online = results_of(network, study / "head", serial)[0].payload.on_slices()
    assert online.paths == offline.paths and online.names == offline.names
    assert all(np.array_equal(a, b) for a, b in zip(online.labels, offline.labels, strict=True))
    assert set(np.unique(np.stack(offline.labels))) == {0, 1, 2}
    lit = np.stack(offline.labels) > 0
    assert (lit == (ball() > 0)).mean() > 0.9


def results_of(network: Network, folder: Path, serial: bool = False) -> list[Any]:
    sink, this = Collect(), feed("a", open_source(f"dicom:{folder}"))
    this.give_volumes()
    Run(network, [this], [("collect:", sink)], serial=serial).go()
    return sink.results


def test_the_picture_of_a_result_is_the_middle_slice(network: Network, study: Path) -> None:
    (result,) = results_of(network, study / "head")
    assert result.frame.image.shape == (16, 16, 3)
    assert result.frame.volume is not None and result.frame.volume.shape == (16, 16, 16)
    drawn = result.payload.draw(result.frame.image)
    assert not np.array_equal(drawn, result.frame.image)


def test_a_damaged_slice_loses_its_series_and_names_no_file(
    network: Network, study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = sorted((study / "head").iterdir())[3]
    this = feed("a", open_source(f"dicom:{study / 'head'}"))
    this.give_volumes()
    sink = Collect()
    running = Run(network, [this], [("collect:", sink)])
    source = this.source
    assert source is not None
    read = source.read

    def read_and_damage() -> Any:
        picture = read()
        if picture is not None:
            path.write_bytes(path.read_bytes()[:-100])
        return picture

    source.read = read_and_damage  # type: ignore[method-assign]
    data = running.go().data
    assert data["feeds"][0]["failures"] == {"preprocess": 1} and not sink.results
    assert "preprocess failed" in caplog.text and path.name not in caplog.text


def test_a_source_of_pictures_is_refused_by_name(tmp_path: Path) -> None:
    this = feed("a", Script(pictures(1)))
    with pytest.raises(UsageError, match="feed a gives pictures"):
        this.give_volumes()


def test_volumes_are_run_one_at_a_time_by_all_threads(tmp_path: Path, study: Path) -> None:
    model = volume_config(volume_graph(tmp_path / "tiny.onnx"), study / "head")
    store = Store(tmp_path / "e")
    build(model, [TARGETS["cpu"]], ["exact"], store, detect(), Quiet())
    entry = find_engine(store, "tiny_volume", "cpu", "exact")
    options = engine_options(2, live=False, serial=False)
    assert options.streams == 2
    network = open_network(entry, options, slots=3)
    before = threading.active_count()
    assert len(network.slots()) == 1 and threading.active_count() == before + 1
    assert network.reads_volumes
    network.close()
