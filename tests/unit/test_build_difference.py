"""What differs between two engines: nothing for one and the same, else plan, scales, accuracy, origin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from published import config, publish

from edge.build.difference import ScaleChange, compare
from edge.manifest import Accuracy, Entry, OutputAccuracy, PlanEntry


@pytest.fixture(scope="module")
def built(no_sync: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Entry]:
    folder = tmp_path_factory.mktemp("built")
    return publish(config(folder), folder, "orin/fast", "orin/exact", "a10/fast", "orin/w8a16")


def copied(entry: Entry, folder: Path, **changes: object) -> Entry:
    """An engine that differs in what its manifest says; its graph is copied."""
    folder.mkdir()
    (folder / "graph.onnx").write_bytes((entry.path / "graph.onnx").read_bytes())
    return Entry(folder, entry.manifest.model_copy(update=changes))


def rescaled(entry: Entry, folder: Path, factors: dict[str, float]) -> Entry:
    """An engine whose graph has some of its scales multiplied."""
    made = copied(entry, folder)
    model = onnx.load(folder / "graph.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            values = numpy_helper.to_array(tensor)
            changed = (values.astype(np.float32) * factors[tensor.name]).astype(values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    onnx.save(model, folder / "graph.onnx")
    return made


def facts(a: Entry, b: Entry) -> dict[str, tuple[str, str]]:
    return {name: (x, y) for name, x, y in compare(a, b).facts}


class TestSame:
    @pytest.mark.parametrize("name", ["orin/fast", "orin/exact", "orin/w8a16"])
    def test_an_engine_does_not_differ_from_itself(self, name: str, built: dict[str, Entry]) -> None:
        found = compare(built[name], built[name])
        assert found.same
        assert found.to_json()["same"] is True and found.to_json()["facts"] == []

    def test_nor_from_a_copy_that_was_built_later(self, built: dict[str, Entry], tmp_path: Path) -> None:
        later = copied(built["orin/fast"], tmp_path / "later", key="another", build_seconds=99.0)
        assert compare(built["orin/fast"], later).same


class TestPlan:
    def test_nodes_in_another_precision_are_told_with_the_reason(self, built: dict[str, Entry]) -> None:
        a, b = built["orin/exact"], built["orin/fast"]
        changes = {c.node: c for c in compare(a, b).plan}
        assert {"stem", "left", "right"} <= set(changes)
        left = changes["left"]
        assert (left.op, left.before, left.after) == ("Conv", "bf16", "int8")
        assert left.reason == next(e.reason for e in b.manifest.plan if e.node == "left")
        assert "concat" not in changes

    def test_nodes_that_only_one_has(self, built: dict[str, Entry], tmp_path: Path) -> None:
        more = (
            *built["orin/fast"].manifest.plan,
            PlanEntry(node="new", op="Conv", precision="int8", reason="so"),
        )
        other = copied(built["orin/fast"], tmp_path / "other", plan=more)
        (change,) = compare(built["orin/fast"], other).plan
        assert (change.node, change.before, change.after) == ("new", "", "int8")
        (change,) = compare(other, built["orin/fast"]).plan
        assert (change.node, change.before, change.after) == ("new", "int8", "")


class TestScales:
    def test_a_changed_scale_is_told_with_how_far(self, built: dict[str, Entry], tmp_path: Path) -> None:
        other = rescaled(
            built["orin/fast"], tmp_path / "other", {"left.weight/scale": 2.0, "image/scale": 0.25}
        )
        found = compare(built["orin/fast"], other)
        assert found.scales is not None
        assert {(c.name, c.count, c.ratio) for c in found.scales} == {
            ("left.weight/scale", 32, 2.0),
            ("image/scale", 1, 0.25),
        }
        assert not found.same and not found.plan

    def test_scales_that_only_one_has(self, built: dict[str, Entry]) -> None:
        found = compare(built["orin/exact"], built["orin/fast"])
        assert found.scales == () and found.only_a == ()
        assert "left.weight/scale" in found.only_b and "image/scale" in found.only_b

    def test_another_number_of_them_is_told_and_is_json(
        self, built: dict[str, Entry], tmp_path: Path
    ) -> None:
        other = copied(built["orin/fast"], tmp_path / "other")
        model = onnx.load(other.path / "graph.onnx")
        for tensor in model.graph.initializer:
            if tensor.name == "left.weight/scale":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:8], tensor.name))
        onnx.save(model, other.path / "graph.onnx")
        found = compare(built["orin/fast"], other)
        assert found.scales == (ScaleChange("left.weight/scale", 32, None, "int8", "int8"),)
        json.loads(json.dumps(found.to_json(), allow_nan=False))

    def test_a_constant_that_is_called_like_one_is_none(
        self, tmp_path: Path, built: dict[str, Entry]
    ) -> None:
        """A normalization has a scale, too."""
        entries = []
        for index, value in enumerate((1.0, 2.0)):
            made = copied(built["orin/exact"], tmp_path / f"{index}")
            model = onnx.load(made.path / "graph.onnx")
            model.graph.initializer.append(numpy_helper.from_array(np.float32([value]), "norm/scale"))
            onnx.save(model, made.path / "graph.onnx")
            entries.append(made)
        assert compare(*entries).scales == ()

    def test_an_engine_without_a_graph_has_none_to_read(
        self, built: dict[str, Entry], tmp_path: Path
    ) -> None:
        alone = copied(built["orin/fast"], tmp_path / "alone", files={}, engine_file="net.engine")
        found = compare(built["orin/fast"], alone)
        assert found.scales is None and found.to_json()["scales"] is None

    def test_the_largest_change_comes_first_whichever_way_it_goes(self) -> None:
        changes = [ScaleChange("up", 1, 1.5), ScaleChange("down", 1, 0.1), ScaleChange("shape", 1, None)]
        assert [c.name for c in sorted(changes, key=lambda c: -c.size)] == ["shape", "down", "up"]


class TestFacts:
    def test_accuracy(self, built: dict[str, Entry], tmp_path: Path) -> None:
        before = built["orin/fast"]
        assert before.manifest.accuracy is not None
        worse = before.manifest.accuracy.model_copy(
            update={"this": 0.01, "outputs": (OutputAccuracy(name="out", cosine=0.5, sqnr_db=3.0),)}
        )
        found = facts(before, copied(before, tmp_path / "worse", accuracy=worse))
        assert (
            found["f1"][1] == "0.01" and found["cosine of out"][1] == "0.5" and found["SQNR of out"][1] == "3"
        )

    def test_where_they_come_from(self, built: dict[str, Entry]) -> None:
        found = facts(built["orin/fast"], built["a10/fast"])
        assert found["target"] == ("orin", "a10") and found["compute capability"] == ("8.7", "8.6")
        assert "fp32 graph" not in found and "calibration" not in found
        assert "typed graph" not in found  # both can do the same

    def test_keys_of_the_config_such_as_its_policy(self, built: dict[str, Entry], tmp_path: Path) -> None:
        made = built["orin/fast"].manifest.config
        changed = {**made, "quantize": {**made["quantize"], "policy": "rules.json"}}
        other = copied(built["orin/fast"], tmp_path / "other", config=changed)
        assert facts(built["orin/fast"], other) == {"config.quantize.policy": ("none", "rules.json")}

    def test_weights_that_were_rounded_otherwise_show_in_the_graph(
        self, built: dict[str, Entry], tmp_path: Path
    ) -> None:
        """Scales and plan may be the same all the same."""
        files = {**built["orin/fast"].manifest.files, "graph.onnx": "f" * 64}
        other = copied(built["orin/fast"], tmp_path / "other", files=files)
        found = compare(built["orin/fast"], other)
        assert [name for name, _, _ in found.facts] == ["typed graph"] and not found.same

    def test_engines_that_were_never_judged(self, built: dict[str, Entry], tmp_path: Path) -> None:
        silent = copied(built["orin/fast"], tmp_path / "silent", accuracy=None)
        assert facts(built["orin/fast"], silent)["fp32"][1] == "none"
        assert compare(silent, silent).same

    def test_another_metric(self, built: dict[str, Entry], tmp_path: Path) -> None:
        other = copied(built["orin/fast"], tmp_path / "other", accuracy=Accuracy(metric="cosine", this=0.9))
        assert facts(built["orin/fast"], other)["metric"] == ("f1", "cosine")


def test_it_is_json_whatever_differs(built: dict[str, Entry]) -> None:
    for a in built.values():
        for b in built.values():
            found = compare(a, b)
            told = json.loads(json.dumps(found.to_json(), allow_nan=False))
            assert told["same"] is found.same
            assert len(told["plan"]) == len(found.plan)
