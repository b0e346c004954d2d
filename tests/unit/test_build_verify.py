"""Verification: an engine's outputs and its task's metric against fp32, and what the gate says about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from numpy.typing import NDArray

from edge import tasks
from edge.backends import EngineOptions, backend
from edge.build.verify import Reference, failures, measure
from edge.config import GateConfig
from edge.errors import ModelError
from edge.manifest import Accuracy, OutputAccuracy
from edge.tasks import Sample
from edge.tasks.coco import Annotations

Outputs = Mapping[str, NDArray[Any]]
Change = Callable[[NDArray[Any]], NDArray[Any]]


class Bench:
    """A real fp32 engine and its reference, and engines that differ from it in a known way."""

    def __init__(self, folder: Path, labelled: bool) -> None:
        config = graphs.config(folder, graphs.residual(), labelled)
        self.engine = backend("onnxruntime").load(config.onnx, EngineOptions())
        task = tasks.create(config)
        assert config.evaluation is not None
        cases = folder / "cases"
        cases.mkdir()
        self.reference = Reference(
            task, config.input, "image", list(task.samples(config.evaluation)), self.engine.run, cases
        )

    def changed(self, change: Change) -> Accuracy:
        def run(feeds: Outputs) -> Outputs:
            return {name: change(value) for name, value in self.engine.run(dict(feeds)).items()}

        return measure(run, self.reference, "test")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("plain"), labelled=False)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("labelled"), labelled=True)


class TestMeasure:
    def test_the_same_engine_is_perfect(self, plain: Bench) -> None:
        found = plain.changed(lambda x: x)
        assert found.metric == "cosine"
        assert found.samples == 3
        assert found.fp32 == 1
        assert found.this == pytest.approx(1)
        (output,) = found.outputs
        assert output.name == "out" and output.cosine == pytest.approx(1)
        assert output.sqnr_db is None  # no noise at all

    def test_cosine_and_sqnr_are_those_of_the_formula_over_all_samples(self, plain: Bench) -> None:
        noise = np.random.default_rng(0)
        pairs = []

        def disturbed(x: NDArray[Any]) -> NDArray[Any]:
            y = (x + noise.normal(0, 0.05, x.shape)).astype(np.float32)
            pairs.append((x.ravel().astype(np.float64), y.ravel().astype(np.float64)))
            return y

        (found,) = plain.changed(disturbed).outputs
        a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
        assert found.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert found.sqnr_db == pytest.approx(10 * np.log10((a @ a) / np.square(a - b).sum()))

    def test_a_factor_changes_sqnr_and_not_cosine(self, plain: Bench) -> None:
        (found,) = plain.changed(lambda x: x * np.float32(0.9)).outputs
        assert found.cosine == pytest.approx(1)
        assert found.sqnr_db == pytest.approx(20, abs=1e-3)

    def test_labels_give_the_tasks_own_metric(self, labelled: Bench) -> None:
        same, inverted = labelled.changed(lambda x: x), labelled.changed(lambda x: 1 - x)
        assert same.metric == inverted.metric == "f1"
        assert same.fp32 == same.this == inverted.fp32
        assert inverted.this != same.this

    def test_progress_hears_every_sample(self, plain: Bench) -> None:
        heard = []
        measure(plain.engine.run, plain.reference, "test", lambda done, total: heard.append((done, total)))
        assert heard == [(1, 3), (2, 3), (3, 3)]


class TestNotFinite:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("everywhere", [True, False])
    @pytest.mark.parametrize("labels", [True, False])
    def test_an_engine_that_gives_it_fails(
        self, plain: Bench, labelled: Bench, value: float, everywhere: bool, labels: bool
    ) -> None:
        def broken(x: NDArray[Any]) -> NDArray[Any]:
            y = np.array(x)
            y[...] = value if everywhere else y
            y.flat[0] = value
            return y

        found = (labelled if labels else plain).changed(broken)
        assert any(
            "'out' is zero, NaN or infinite" in text for text in failures(found, GateConfig(min_cosine=-1))
        )

    @pytest.mark.parametrize("kind", ["classify", "detect", "segment", "image"])
    def test_every_task_survives_it(self, kind: str, tmp_path: Path) -> None:
        """The numbers are wrong, so that nothing is published; judging them must not crash."""
        bench = TaskBench(kind, tmp_path)
        for value in (np.nan, np.inf, -np.inf):
            found = measure(bench.filled(value), bench.reference, "test")
            assert failures(found, GateConfig())

    def test_an_fp32_model_that_gives_it_is_refused_with_output_and_picture(self, tmp_path: Path) -> None:
        config = graphs.config(tmp_path, graphs.residual())
        task = tasks.create(config)
        assert config.evaluation is not None
        samples = list(task.samples(config.evaluation))
        (tmp_path / "cases").mkdir()

        def run(feeds: Outputs) -> Outputs:
            return {"heat": np.full((1, 1, 8, 8), np.nan, np.float32)}

        with pytest.raises(ModelError, match=r"NaN or infinity in output 'heat' for 0000\.jpg"):
            Reference(task, config.input, "image", samples, run, tmp_path / "cases")


SHAPES = {"classify": (1, 10), "detect": (1, 21, 7), "segment": (1, 1, 8, 8), "image": (1, 3, 32, 32)}
SETTINGS: dict[str, dict[str, Any]] = {
    "classify": {},
    "detect": {"decode": "yolox", "strides": [8, 16, 32]},
    "segment": {},
    "image": {"scale": 2, "crop": 32},
}


class TaskBench:
    """Labelled samples of any task, and an fp32 'engine' that gives the shape the task expects."""

    def __init__(self, kind: str, folder: Path) -> None:
        side = 16 if kind == "image" else 32
        config = graphs.config(
            folder, graphs.residual(), task={"kind": kind, **SETTINGS[kind]}, input={"size": [side, side]}
        )
        self.shape = SHAPES[kind]
        samples = [Sample(p, self.label(kind, p)) for p in sorted((folder / "calibration").glob("*.jpg"))]
        cases = folder / "cases"
        cases.mkdir()
        random = np.random.default_rng(0)

        def run(feeds: Outputs) -> Outputs:
            return {"out": random.random(self.shape).astype(np.float32)}

        self.reference = Reference(tasks.create(config), config.input, "image", samples, run, cases)
        assert self.reference.labelled

    @staticmethod
    def label(kind: str, path: Path) -> Any:
        number = int(path.stem) + 1
        box = {
            "id": number,
            "image_id": number,
            "category_id": 1,
            "bbox": [2, 2, 9, 9],
            "area": 81,
            "iscrowd": 0,
        }
        image = {"id": number, "file_name": path.name, "width": 32, "height": 32}
        categories = ({"id": 1, "name": "a"}, {"id": 2, "name": "b"})
        return {
            "classify": lambda: 3,
            "detect": lambda: Annotations(image, (box,), categories),
            "segment": lambda: graphs.mask(path.with_suffix(".png")),
            "image": lambda: path,
        }[kind]()

    def filled(self, value: float) -> Callable[[Outputs], Outputs]:
        return lambda feeds: {"out": np.full(self.shape, value, np.float32)}


class TestGate:
    @staticmethod
    def accuracy(**more: Any) -> Accuracy:
        outputs = more.pop("outputs", (OutputAccuracy(name="heat", cosine=0.99, sqnr_db=20.0),))
        return Accuracy(
            **{"metric": "f1", "fp32": 0.9, "this": 0.85, "samples": 3, "outputs": outputs, **more}
        )

    @pytest.mark.parametrize(
        ("gate", "said"),
        [
            (GateConfig(min_cosine=0.98), []),
            (GateConfig(min_cosine=0.99), []),
            (GateConfig(min_cosine=0.995), ["cosine of 'heat' is 0.99, the gate asks for 0.995"]),
            (GateConfig(min_sqnr_db=19), []),
            (GateConfig(min_sqnr_db=20.5), ["SQNR of 'heat' is 20.0 dB, the gate asks for 20.5"]),
            (GateConfig(max_drop=0.1), []),
            (GateConfig(max_drop=0.01), ["f1 falls by 0.05 from 0.9 to 0.85, the gate allows 0.01"]),
        ],
    )
    def test_it_says_which_output_and_by_how_much(self, gate: GateConfig, said: list[str]) -> None:
        assert failures(self.accuracy(), gate) == said

    def test_every_objection_is_listed(self) -> None:
        outputs = tuple(OutputAccuracy(name=n, cosine=c, sqnr_db=5.0) for n, c in (("a", 0.5), ("b", None)))
        gate = GateConfig(min_cosine=0.9, min_sqnr_db=10, max_drop=0)
        assert len(failures(self.accuracy(outputs=outputs), gate)) == 5

    def test_a_metric_that_is_nan_fails(self) -> None:
        assert failures(self.accuracy(this=float("nan")), GateConfig(max_drop=1))

    def test_an_engine_better_than_fp32_passes(self) -> None:
        assert not failures(self.accuracy(this=0.95), GateConfig(max_drop=0))

    def test_without_labels_a_drop_means_nothing(self) -> None:
        assert not failures(self.accuracy(metric="cosine", fp32=1.0, this=0.99), GateConfig(max_drop=0.001))
