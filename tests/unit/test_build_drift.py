"""A published engine judged again: the same figures where nothing changed, and what changed where it did."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import graphs
import numpy as np
import pytest
from published import config, publish

from edge import machine
from edge.build.drift import Clipped, Drift, Held, held, verify
from edge.config import SamplesConfig
from edge.errors import InputError, StoreError
from edge.manifest import Entry


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drift")


@pytest.fixture(scope="module")
def built(no_sync: None, folder: Path) -> dict[str, Entry]:
    return publish(config(folder), folder, "cpu/fast", "cpu/exact", "orin/fast", "ada/fast")


def judged(entry: Entry, **more: Any) -> Drift:
    return verify(entry, machine.detect(), lambda text, done, total: None, **more)


def glaring(folder: Path) -> Path:
    """White pictures."""
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((graphs.SIZE, graphs.SIZE, 3), 255, np.uint8))
    return folder


class TestSame:
    @pytest.mark.parametrize("name", ["cpu/fast", "cpu/exact", "orin/fast", "ada/fast"])
    def test_on_the_same_machine_the_figures_are_those_of_the_build(
        self, name: str, built: dict[str, Entry]
    ) -> None:
        entry = built[name]
        found = judged(entry)
        then = entry.manifest.accuracy
        assert then is not None and found.failures == () and found.changes == ()
        assert (found.now.metric, found.now.samples) == (then.metric, then.samples)
        assert found.now.fp32 == then.fp32 and found.now.this == pytest.approx(then.this)
        for before, after in zip(then.outputs, found.now.outputs, strict=True):
            assert after.cosine == pytest.approx(before.cosine)
        assert found.now.how == then.how

    def test_samples_that_were_held_out_are_held_out_again(self, tmp_path: Path) -> None:
        """Without an evaluation set every fourth calibration sample served."""
        made = config(tmp_path, evaluation=None)
        entry = publish(made, tmp_path, "cpu/exact")["cpu/exact"]
        assert entry.manifest.accuracy is not None and entry.manifest.accuracy.samples == 2
        assert judged(entry).now.samples == 2

    def test_it_is_json(self, built: dict[str, Entry]) -> None:
        told = json.loads(json.dumps(judged(built["cpu/fast"]).to_json(), allow_nan=False))
        assert told["passed"] is True and told["engine"] == "tiny/cpu/fast" and told["clipped"] == []


class TestChanges:
    def test_other_samples_are_said(self, built: dict[str, Entry], tmp_path: Path) -> None:
        others = graphs.pictures(tmp_path / "others", 2, masks=True, seed=9)
        found = judged(built["cpu/fast"], evaluation=SamplesConfig(images=others, labels=others))
        assert found.now.samples == 2 and found.now.metric == "f1"
        assert "judged by other samples than when it was built" in found.changes

    def test_another_runtime_and_machine_are_said(self, built: dict[str, Entry], tmp_path: Path) -> None:
        m = built["cpu/fast"].manifest
        older = m.model_copy(
            update={"builder": m.builder.model_copy(update={"version": "1.0"}), "machine": "an older machine"}
        )
        found = judged(Entry(built["cpu/fast"].path, older))
        here = machine.detect()
        assert f"onnxruntime 1.0 → {here.packages['onnxruntime']}" in found.changes
        assert f"built on an older machine, now {here.label}" in found.changes

    def test_an_engine_that_no_longer_passes_fails(self, built: dict[str, Entry]) -> None:
        entry = built["cpu/fast"]
        strict = {**entry.manifest.config, "gate": {"min_cosine": 1.0, "min_sqnr_db": 200}}
        found = judged(Entry(entry.path, entry.manifest.model_copy(update={"config": strict})))
        assert any("the gate asks for" in text for text in found.failures)
        assert found.to_json()["passed"] is False

    def test_an_engine_that_computes_something_else_now_fails(
        self, built: dict[str, Entry], tmp_path: Path
    ) -> None:
        """As if a new driver broke a kernel: another network stands in its place."""
        net = graphs.Net(seed=5)
        x = net.op(
            "MaxPool", net.conv("image", "stem", (3, 1)), name="p", kernel_shape=[2, 2], strides=[2, 2]
        )
        graphs.saved(net.model(net.op("Sigmoid", x, name="s")), tmp_path / "engine.onnx")
        m = built["cpu/exact"].manifest
        m = m.model_copy(update={"config": {**m.config, "gate": {"min_sqnr_db": 30}}})
        found = judged(Entry(tmp_path, m))
        assert found.failures and found.now.outputs[0].cosine != found.then.outputs[0].cosine


class TestRefused:
    def test_a_graph_that_is_gone(self, tmp_path: Path) -> None:
        entry = publish(config(tmp_path), tmp_path, "cpu/exact")["cpu/exact"]
        (tmp_path / "tiny.onnx").unlink()
        with pytest.raises(InputError, match="which tiny/cpu/exact was made from"):
            judged(entry)

    def test_another_graph_in_its_place(self, tmp_path: Path) -> None:
        entry = publish(config(tmp_path), tmp_path, "cpu/exact")["cpu/exact"]
        graphs.saved(graphs.depthwise_swish(), tmp_path / "tiny.onnx")
        with pytest.raises(InputError, match="is not the graph that tiny/cpu/exact was made from"):
            judged(entry)

    def test_an_engine_for_another_device_without_a_graph(self, built: dict[str, Entry]) -> None:
        entry = built["orin/fast"]
        m = entry.manifest.model_copy(update={"files": {"net.engine": "0" * 64}, "engine_file": "net.engine"})
        with pytest.raises(StoreError, match="holds no graph"):
            judged(Entry(entry.path, m))

    def test_pictures_that_are_not_there(self, built: dict[str, Entry], tmp_path: Path) -> None:
        with pytest.raises(InputError):
            judged(built["cpu/exact"], evaluation=SamplesConfig(images=tmp_path / "absent"))

    def test_pictures_to_calibrate_with_are_looked_for_before_anything_runs(
        self, built: dict[str, Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge.build.drift.measure", lambda *a: pytest.fail("it ran"))
        with pytest.raises(InputError):
            judged(built["cpu/fast"], calibration=tmp_path / "absent")


class TestClipping:
    @pytest.mark.parametrize("name", ["cpu/fast", "orin/fast", "ada/fast"])
    def test_the_pictures_of_the_calibration_are_held(
        self, name: str, built: dict[str, Entry], folder: Path
    ) -> None:
        found = judged(built[name], calibration=folder / "many").clipped
        assert found and all(c.share < 0.02 for c in found)
        assert all(c.peak > 0 for c in found)

    @pytest.mark.parametrize("name", ["cpu/fast", "orin/fast"])
    def test_values_that_the_scales_cannot_hold_are_noticed(self, name: str, tmp_path: Path) -> None:
        """Calibrated on dark pictures, run on bright ones."""
        dark = tmp_path / "dark"
        dark.mkdir()
        random = np.random.default_rng(0)
        for index in range(10):
            cv2.imwrite(str(dark / f"{index}.png"), random.integers(0, 30, (32, 32, 3), np.uint8))
        made = config(tmp_path, calibration={"images": dark}, gate={"min_cosine": -1})
        entry = publish(made, tmp_path, name)[name]
        found = {c.tensor: c for c in judged(entry, calibration=glaring(tmp_path / "bright")).clipped}
        picture = found["image" if name == "cpu/fast" else "image/bf16"]
        assert picture.share == 1.0 and picture.peak == pytest.approx(1.0)
        assert picture.peak > 5 * picture.threshold
        assert picture.unusual == "100.00% of its values are clipped"
        assert sum(bool(c.unusual) for c in found.values()) > 1

    def test_an_exact_engine_has_nothing_that_could_clip(self, built: dict[str, Entry], folder: Path) -> None:
        assert judged(built["cpu/exact"], calibration=folder / "many").clipped == ()

    def test_what_is_unusual_is_put_into_words(self) -> None:
        def said(peak: float, share: float) -> str:
            return Clipped("x", "int8", 1.0, peak, share).unusual

        assert said(0.9, 0.0) == "" and said(1.5, 0.0005) == ""
        assert said(1.5, 0.02) == "2.00% of its values are clipped"
        assert said(4.0, 0.0005) == "its largest value is 4.0 times what its scale holds"
        assert said(0.1, 0.0) == "only 10% of its range is used"

    def test_what_a_quantizer_holds_follows_from_scale_and_zero_point(self) -> None:
        helper, from_array = graphs.helper, graphs.numpy_helper.from_array
        constants, nodes = [], []
        for name, scale, zero in (
            ("s8", 0.5, np.int8(0)),
            ("u8", 0.5, np.uint8(55)),
        ):
            constants += [
                from_array(np.float32(scale), f"{name}/scale"),
                from_array(np.asarray(zero), f"{name}/zero"),
            ]
            nodes.append(
                helper.make_node("QuantizeLinear", [name, f"{name}/scale", f"{name}/zero"], [f"{name}/q"])
            )
        model = helper.make_model(helper.make_graph(nodes, "g", [], [], constants))
        found = held(model)
        assert dataclasses.astuple(found["s8"]) == ("int8", -63.5, 63.5, 0.25)
        assert dataclasses.astuple(found["u8"]) == ("uint8", -27.5, 100.0, 0.25)

    def test_what_rounds_to_the_last_number_is_not_clipped(self) -> None:
        """A white picture is 1.0, and 127 times a scale that is rounded to bf16 is 0.99994."""
        holds = Held("int8", -127.0, 127.0, 0.5)
        assert holds.clips(np.float32([-127.4, 0, 127.4])) == 0
        assert holds.clips(np.float32([-127.6, 0, 127.6])) == 2

    def test_quantizers_that_a_graph_came_with_need_no_zero_point(self) -> None:
        helper, from_array = graphs.helper, graphs.numpy_helper.from_array
        constants = [
            from_array(np.float32(0.5), "one"),
            from_array(np.float32([0.5, 1.0]), "many"),
            from_array(np.int16(0), "wide"),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["u8", "one"], ["u8/q"]),
            helper.make_node("QuantizeLinear", ["channels", "many"], ["channels/q"], axis=1),
            helper.make_node("QuantizeLinear", ["s16", "one", "wide"], ["s16/q"]),
            helper.make_node("QuantizeLinear", ["moving", "u8"], ["moving/q"]),
        ]
        found = held(helper.make_model(helper.make_graph(nodes, "g", [], [], constants)))
        assert {name: dataclasses.astuple(h) for name, h in found.items()} == {
            "u8": ("uint8", 0.0, 127.5, 0.25)
        }
