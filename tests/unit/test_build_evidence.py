"""What is kept of an engine for its report: groups, search, ranges, and the samples it does worst on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import graphs
import numpy as np
import pytest
from published import config, publish

from edge import tasks
from edge.build import evidence
from edge.build.evidence import BARS, LARGEST, WORST, Evidence, Samples, forget, load, save
from edge.manifest import Entry
from edge.precision.histogram import Histogram
from edge.preprocess import Preprocess


@pytest.fixture(scope="module")
def root(no_sync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evidence")


@pytest.fixture(scope="module")
def built(root: Path) -> dict[str, Entry]:
    judged = graphs.pictures(root / "judged", WORST + 2, masks=True, seed=4)
    made = config(root, evaluation={"images": judged, "labels": judged})
    return publish(made, root, "orin/fast", "orin/exact", "orin/w8a16")


def about(entry: Entry, root: Path) -> dict[str, Any]:
    found = load(entry.manifest, root / "engines")
    assert found is not None
    return found


class TestGroups:
    def test_every_group_is_there_in_graph_order_with_what_was_measured(
        self, built: dict[str, Entry], root: Path
    ) -> None:
        rows = about(built["orin/fast"], root)["groups"]
        assert [r["name"] for r in rows] == ["stem", "left", "right", "add", "branch", "merge", "head"]
        precisions = {e.node: e.precision for e in built["orin/fast"].manifest.plan}
        for row in rows:
            assert row["precision"] == precisions[row["name"]] and row["reason"]
            assert set(row["types"]) == {"int8"} and row["types"]["int8"]["noise"] >= 0
            assert set(row["seconds"]) >= {"int8", "bf16"}
        assert [r["layer"] for r in rows if r["kind"] != "skip"] == list(range(6))

    def test_the_search_is_there_with_every_plan_that_was_run(
        self, built: dict[str, Entry], root: Path
    ) -> None:
        found = about(built["orin/fast"], root)["search"]
        assert found["passed"] is True and found["judged"]
        assert [p[0] for p in found["path"]] == sorted(p[0] for p in found["path"])
        assert all(j["metric"] == "f1" for j in found["judged"])

    def test_an_exact_engine_has_samples_alone(self, built: dict[str, Entry], root: Path) -> None:
        found = about(built["orin/exact"], root)
        assert found["groups"] == [] and found["search"] is None and found["tensors"] == []
        assert len(found["samples"]) == WORST

    def test_a_weight_only_engine_has_groups_and_no_search(self, built: dict[str, Entry], root: Path) -> None:
        found = about(built["orin/w8a16"], root)
        assert {r["precision"] for r in found["groups"]} == {"w8a16", "bf16"} and found["search"] is None


class TestTensors:
    def test_ranges_of_what_the_noisiest_groups_read(self, built: dict[str, Entry], root: Path) -> None:
        tensors = about(built["orin/fast"], root)["tensors"]
        assert [t["noise"] for t in tensors] == sorted((t["noise"] for t in tensors), reverse=True)
        for tensor in tensors:
            errors = [t["error"] for t in tensor["tried"]]
            assert errors == sorted(errors) and tensor["read_by"]
            assert tensor["edges"][0] == pytest.approx(tensor["low"])

    @pytest.mark.parametrize(
        "values",
        [
            np.random.default_rng(0).normal(0, 1, 5000),
            np.array([0.1, 0.1, 0.7000001, 0.9999]),
            np.full(7, 3.0),
            np.full(7, -3.0),
            np.zeros(5),
        ],
        ids=["normal", "few", "constant", "negative", "zeros"],
    )
    def test_no_value_is_lost_in_the_bars(self, values: Any) -> None:
        h = Histogram()
        h.add(values.astype(np.float32))
        bars = evidence._bars(h)
        assert sum(bars["counts"]) == values.size and len(bars["counts"]) == BARS
        assert bars["edges"][0] <= h.low and bars["edges"][1] >= h.high * (1 - 1e-6)


class TestSamples:
    def test_the_worst_are_kept_worst_first(self, built: dict[str, Entry], root: Path) -> None:
        found = about(built["orin/fast"], root)
        everything = sorted((value for _, value in found["divergences"]), reverse=True)
        assert len(everything) == WORST + 2
        assert [s["divergence"] for s in found["samples"]] == everything[:WORST]

    def test_their_pictures_lie_beside_it(self, built: dict[str, Entry], root: Path) -> None:
        folder = root / "engines" / "tiny" / ".report" / "orin"
        for sample in about(built["orin/fast"], root)["samples"]:
            for side in ("fp32", "engine"):
                picture = cv2.imread(str(folder / sample[side]))
                assert picture is not None and picture.shape[:2] == (graphs.SIZE, graphs.SIZE)

    def test_only_the_worst_are_held_in_memory(self, tmp_path: Path) -> None:
        made = config(tmp_path)
        task = tasks.create(made)
        samples = Samples(task)
        (sample, *_) = task.samples(made.calibration)
        _, (placement,) = Preprocess(made.input).batch([task.network_image(sample)])
        outputs = {"out": np.zeros((1, 1, 16, 16), np.float32)}
        for value in (0.5, 0.1, 0.9, 0.2, 0.7, 0.3, 0.8, 0.05):
            case: Any = SimpleNamespace(sample=sample, outputs=outputs, placement=placement)
            samples.add(case, outputs, value)
        assert [s.divergence for s in samples.worst] == [0.9, 0.8, 0.7, 0.5]
        assert len(samples.divergences) == 8


class TestFiles:
    def test_what_belongs_to_another_engine_is_not_taken(self, built: dict[str, Entry], root: Path) -> None:
        m = built["orin/fast"].manifest
        other = m.model_copy(update={"key": "another", "recipe": "another"})
        assert load(other, root / "engines") is None
        finished = m.model_copy(update={"key": "another"})  # on its device, from the same graph
        assert load(finished, root / "engines") is not None

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 0}'])
    def test_nor_is_what_cannot_be_read(self, content: str, built: dict[str, Entry], tmp_path: Path) -> None:
        m = built["orin/fast"].manifest
        path = tmp_path / m.model / ".report" / m.target / f"{m.variant}.json"
        path.parent.mkdir(parents=True)
        path.write_text(content)
        assert load(m, tmp_path) is None and load(m, tmp_path / "absent") is None

    def test_a_new_engine_takes_the_place_of_the_old(self, tmp_path: Path) -> None:
        def made(key: str, *pictures: str) -> Evidence:
            facts = {"schema": 1, "model": "m", "target": "t", "variant": "fast", "key": key}
            return Evidence(facts, {name: np.zeros((4, 4, 3), np.uint8) for name in pictures})

        save(made("a", "fast-0-fp32.jpg", "fast-1-fp32.jpg"), tmp_path)
        save(
            Evidence(
                {**made("x").about, "variant": "exact"}, {"exact-0-fp32.jpg": np.zeros((4, 4, 3), np.uint8)}
            ),
            tmp_path,
        )
        save(made("b", "fast-0-fp32.jpg"), tmp_path)
        names = sorted(p.name for p in (tmp_path / "m" / ".report" / "t").iterdir())
        assert names == ["exact-0-fp32.jpg", "exact.json", "fast-0-fp32.jpg", "fast.json"]
        assert json.loads((tmp_path / "m" / ".report" / "t" / "fast.json").read_text())["key"] == "b"
        forget("m", tmp_path)
        assert not (tmp_path / "m" / ".report").exists()
        forget("m", tmp_path)  # nothing to forget is no error

    def test_large_pictures_are_made_smaller(self) -> None:
        assert evidence._small(np.zeros((2 * LARGEST, 100, 3), np.uint8)).shape == (LARGEST, 50, 3)
        assert evidence._small(np.zeros((10, 20, 3), np.uint8)).shape == (10, 20, 3)
