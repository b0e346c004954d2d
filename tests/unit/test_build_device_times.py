"""Products timed on a GPU: layers shared out among their nodes, and a search that counts with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import devices
import graphs
import numpy as np
import pytest

from edge.build import device_times
from edge.build.device_times import Timed, costs
from edge.precision.cost import Costs
from edge.precision.plan import Plan, Step
from edge.store import Store

ESTIMATE = Costs(
    {("a", "bf16"): 2.0, ("b", "bf16"): 6.0, ("c", "bf16"): 1.0,
     ("a", "int8"): 1.0, ("b", "int8"): 3.0, ("c", "int8"): 1.0},
    1.0, "roofline estimate",
)  # fmt: skip


def plan(**precisions: str) -> Plan:
    steps = tuple(Step(name, "Conv", precision, "", 1) for name, precision in precisions.items())
    return Plan("bf16", "s8", steps)


def layers(**nodes: str) -> str:
    """The inspector's JSON: layer=nodes that it comes from, with commas."""
    told = [
        {"Name": name, "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in of.split(","))}
        for name, of in nodes.items()
    ]
    return json.dumps({"Layers": told})


CARRIER = Timed(
    plan(a="bf16", b="bf16", c="bf16"),
    layers(fused="a,relu,b", alone="c", norm="softmax"),
    {"fused": 0.8, "alone": 0.3, "norm": 0.1},
)


def test_a_fused_layer_is_shared_as_the_estimate_would_have_it() -> None:
    found = costs(ESTIMATE, CARRIER, {}, "measured")
    assert found.products["a", "bf16"] == pytest.approx(0.2)
    assert found.products["b", "bf16"] == pytest.approx(0.6)
    assert found.products["c", "bf16"] == pytest.approx(0.3)
    assert found.others == pytest.approx(0.1)
    assert found.how == "measured"


def test_what_was_not_timed_is_estimated_in_proportion() -> None:
    found = costs(ESTIMATE, CARRIER, {}, "measured")
    assert found.products["b", "int8"] == pytest.approx(3.0 * (0.2 + 0.6 + 0.3) / 9.0)


def test_conversions_are_the_price_of_quantized_products() -> None:
    timed = Timed(
        plan(a="int8", b="int8", c="bf16"),
        layers(q="a", r="b", alone="c", norm="softmax", convert="a/int8"),
        {"q": 0.1, "r": 0.3, "alone": 0.3, "norm": 0.1, "convert": 0.2},
    )
    found = costs(ESTIMATE, CARRIER, {"int8": timed}, "measured")
    assert found.products["a", "int8"] == pytest.approx(0.15)  # half as much again: 0.2 on 0.4
    assert found.products["b", "int8"] == pytest.approx(0.45)
    assert found.products["c", "bf16"] == pytest.approx(0.3)
    assert found.others == pytest.approx(0.1)


def test_a_product_that_stayed_in_the_carrier_has_no_time_in_int8() -> None:
    timed = Timed(plan(a="int8", b="bf16", c="bf16"), layers(q="a", r="b"), {"q": 0.1, "r": 9.0})
    found = costs(ESTIMATE, CARRIER, {"int8": timed}, "measured")
    assert found.products["b", "int8"] != pytest.approx(9.0)


@pytest.mark.parametrize("told", ["", "not JSON", '{"Layers": ["a", "b"]}'])
def test_an_inspector_that_tells_nothing_leaves_layers_by_name(told: str) -> None:
    timed = Timed(plan(a="bf16", b="bf16", c="bf16"), told, {"a": 0.5, "other": 0.25})
    found = costs(ESTIMATE, timed, {}, "measured")
    assert found.products["a", "bf16"] == pytest.approx(0.5)
    assert found.others == pytest.approx(0.25)


class TestFile:
    def test_what_is_saved_is_loaded(self, tmp_path: Path) -> None:
        device_times.save(ESTIMATE, tmp_path / "times.npz")
        assert device_times.load(tmp_path / "times.npz") == ESTIMATE

    @pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 broken off"])
    def test_a_damaged_one_is_measured_again(self, tmp_path: Path, content: bytes | None) -> None:
        if content is not None:
            (tmp_path / "times.npz").write_bytes(content)
        assert device_times.load(tmp_path / "times.npz") is None


class TestOnADevice:
    BOARD = devices.Board("NVIDIA L4", "ada", (8, 9))

    def words(self, folder: Path) -> list[str]:
        graph = graphs.saved(graphs.residual(), folder / "net.onnx")
        pictures = graphs.pictures(folder / "pictures", 12)
        return ["--onnx", str(graph), "--calib", str(pictures), "--targets", "local", "--no-report"]

    def test_the_search_counts_with_times_of_the_device(self, tmp_path: Path) -> None:
        with devices.device(self.BOARD, tmp_path) as there:
            assert there.build(*self.words(tmp_path), "--variants", "fast") == 0
            row = next(row for row in there.rows if row["target"] == "ada")
            assert row["state"] == "verified"
            (file,) = there.store.root.rglob("times-*.npz")
        found = device_times.load(file)
        assert found is not None and found.how == "measured on NVIDIA L4"
        times = np.array(list(found.products.values()))
        assert (times > 0).all() and times.max() >= 1e-3  # the simulated device takes 1 ms a product

    def test_times_are_measured_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with devices.device(self.BOARD, tmp_path) as there:
            assert there.build(*self.words(tmp_path), "--variants", "fast") == 0
            before = {p: p.stat().st_mtime_ns for p in there.store.root.rglob("times-*.npz")}
            monkeypatch.setattr(device_times, "layer_seconds", lambda *a: pytest.fail("measured again"))
            policy = devices.fastest(tmp_path)
            assert there.build(*self.words(tmp_path), "--variants", "fast", "--policy", str(policy)) == 0
            assert {p: p.stat().st_mtime_ns for p in there.store.root.rglob("times-*.npz")} == before

    def test_without_times_the_estimate_serves(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from edge.errors import RuntimeFault

        def fail(*args: object) -> None:
            raise RuntimeFault("no profiler", "it is a test", "")

        monkeypatch.setattr(device_times, "layer_seconds", fail)
        with devices.device(self.BOARD, tmp_path) as there:
            assert there.build(*self.words(tmp_path), "--variants", "fast") == 0
            entry = Store(there.store.root).find("net", "ada", "fast")
        assert entry.manifest.state == "verified" and entry.manifest.speed_up is not None
        assert "their time is estimated" in caplog.text

    def test_under_another_driver_they_are_measured_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with devices.device(self.BOARD, tmp_path) as there:
            assert there.build(*self.words(tmp_path), "--variants", "fast") == 0
            (first,) = there.store.root.rglob("times-*.npz")
            machine = dataclasses.replace(
                self.BOARD.machine(),
                gpus=(dataclasses.replace(self.BOARD.machine().gpus[0], driver="575.2"),),
            )
            policy = devices.fastest(tmp_path)
            with monkeypatch.context() as patch:  # undone before the device is gone
                patch.setattr("edge.machine.detect", lambda: machine)
                assert there.build(*self.words(tmp_path), "--variants", "fast", "--policy", str(policy)) == 0
            assert len({*there.store.root.rglob("times-*.npz")} - {first}) == 1
