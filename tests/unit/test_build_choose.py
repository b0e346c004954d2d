"""The plan of an engine, searched on real graphs: the same whatever the order of the samples."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import searching
from searching import Silent, chosen, workshop

from edge import machine
from edge.build import choose, processor
from edge.build.choose import Chosen, told, within_reach
from edge.build.inputs import gather, split_by_content
from edge.build.verify import Run
from edge.build.workshop import Workshop
from edge.config import ModelConfig
from edge.graph import serialize
from edge.manifest import Accuracy
from edge.precision.calibrate import Calibration, calibrate
from edge.precision.placement import observed_tensors
from edge.precision.plan import VARIANTS
from edge.targets import TARGETS
from edge.tasks import Sample


def config(folder: Path, model: onnx.ModelProto | None = None, count: int = 12, **more: Any) -> ModelConfig:
    """12 pictures to calibrate with, of which 3 are kept for the search; masks to judge by."""
    judged = graphs.pictures(folder / "judged", 3, masks=True, seed=5)
    given = {
        "calibration": {"images": graphs.pictures(folder / "many", count)},
        "evaluation": {"images": judged, "labels": judged},
        "gate": {"max_drop": 0.02},
    }
    return graphs.config(folder, model or graphs.residual(), **(given | more))


def shuffled(before: ModelConfig, folder: Path) -> ModelConfig:
    """The same pictures under other names, so that they come in another order."""
    folder.mkdir()
    found = sorted(before.calibration.images.iterdir())
    for index, place in enumerate(np.random.default_rng(3).permutation(len(found))):
        shutil.copy(found[int(place)], folder / f"{index:04d}.jpg")
    return before.model_copy(update={"calibration": before.calibration.model_copy(update={"images": folder})})


def same(a: Chosen, b: Chosen, target: str) -> bool:
    written = [serialize(c.typed(TARGETS[target])) for c in (a, b)]
    return a.plan == b.plan and dict(a.ranges) == dict(b.ranges) and written[0] == written[1]


class TestSameSamples:
    @pytest.mark.parametrize(("name", "target"), [("residual", "orin"), ("depthwise_swish", "ada")])
    def test_shuffled_pictures_give_the_same_plan_ranges_and_graph(
        self, name: str, target: str, tmp_path: Path
    ) -> None:
        first = config(tmp_path, graphs.GOOD[name]())
        second = shuffled(first, tmp_path / "shuffled")
        shops = [workshop(c, tmp_path / f"store{i}") for i, c in enumerate((first, second))]
        calibrations = [shop.chooser.calibration for shop in shops if shop.chooser]
        assert calibrations[0] == calibrations[1]
        a, b = (chosen(shop, target) for shop in shops)
        assert same(a, b, target)
        assert a.found is not None and b.found is not None
        assert a.found.judged == b.found.judged

    @pytest.mark.parametrize("batch", [1, 8, 32])
    def test_batches_of_samples_give_the_same_ranges(self, batch: int) -> None:
        index = graphs.graph(graphs.residual())
        samples = graphs.feeds(40)
        tensors = observed_tensors(index)
        alone = calibrate(index.model, tensors, samples, 40, "0" * 64)
        together = calibrate(index.model, tensors, batched(samples[::-1], batch), 40, "0" * 64)
        assert alone == together
        assert together.samples == 40

    def test_batches_of_samples_give_the_same_plan_and_graph(self, tmp_path: Path) -> None:
        made = config(tmp_path, graphs.depthwise_swish())
        before = chosen(workshop(made, tmp_path))
        for batch in (8, 32):
            again = workshop(made, tmp_path / f"{batch}")
            assert again.chooser is not None
            again.chooser.calibration = in_batches(again, batch)
            assert same(before, chosen(again), "orin")

    def test_a_second_build_is_the_same(self, tmp_path: Path) -> None:
        """With what the first one left in the store's cache, and without."""
        made = config(tmp_path)
        first = chosen(workshop(made, tmp_path / "a"))
        heard = Silent()
        cached = chosen(workshop(made, tmp_path / "a", heard))
        assert same(first, cached, "orin") and same(first, chosen(workshop(made, tmp_path / "b")), "orin")
        assert not {"calibrate", "sensitivity to int8", "weights in int8"} & set(heard.steps)

    def test_what_another_version_measured_is_not_taken(self, tmp_path: Path) -> None:
        here = machine.detect()
        inputs = gather(config(tmp_path))
        packages = {**here.packages, "onnxruntime": "0.1"}
        other = dataclasses.replace(here, packages=packages)
        assert inputs.measured(here) == inputs.measured(here) != inputs.measured(other)

    def test_labels_and_names_of_calibration_pictures_do_not_count(self, tmp_path: Path) -> None:
        paths = sorted(graphs.pictures(tmp_path / "p", 8).iterdir())
        forward = split_by_content([Sample(p) for p in paths])
        backward = split_by_content([Sample(p) for p in paths[::-1]])
        assert forward == backward
        fitted, kept = forward
        assert len(kept) == 2 and not {s.path for s in fitted} & {s.path for s in kept}


def batched(samples: list[dict[str, Any]], batch: int) -> Iterator[Mapping[str, Any]]:
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        yield {name: np.concatenate([sample[name] for sample in part]) for name in part[0]}


def in_batches(shop: Workshop, batch: int) -> Calibration:
    """The shop's calibration, measured again with its samples in batches, in another order."""
    chooser = shop.chooser
    assert chooser is not None
    inputs = chooser.inputs
    feeds = [dict(p.feeds) for p in inputs.probes(chooser.graph.inputs[0], inputs.calibration)][::-1]
    tensors = observed_tensors(chooser.graph)
    digest = chooser.calibration.sha256
    return calibrate(chooser.graph.model, tensors, batched(feeds, batch), len(feeds), digest)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("choose")
    return workshop(config(folder), folder)


class TestChoose:
    def test_an_exact_engine_needs_no_search(self, shop: Workshop) -> None:
        found = chosen(shop, "orin", "exact")
        assert found.found is None and not found.plan.quantized
        assert told(found.found) == []

    @pytest.mark.parametrize("variant", ["w8a16", "w4a16"])
    def test_weight_only_engines_are_rounded_without_a_search(self, shop: Workshop, variant: Any) -> None:
        found = chosen(shop, "orin", variant)
        assert found.found is None
        assert found.plan.weight_only and not found.plan.quantized
        assert {key[2] for key in found.compensation.weights} == {"w8a16"}  # convolutions alone
        assert {kind for _, kind in found.compensation.biases} == {"w8a16"}

    def test_one_measurement_serves_every_target_of_a_type(self, tmp_path: Path) -> None:
        heard = Silent()
        shop = workshop(config(tmp_path), tmp_path, heard)
        chosen(shop, "orin")
        assert shop.chooser is not None and shop.chooser.known == ["int8"]
        before = shop.chooser.sensitivity("int8")
        heard.steps.clear()
        chosen(shop, "a100")
        assert shop.chooser.sensitivity("int8") is before
        assert not any(text.startswith(("sensitivity", "weights", "what weights")) for text in heard.steps)

    def test_the_plan_passes_the_stricter_gate_and_says_how_fast_it_is(self, shop: Workshop) -> None:
        found = chosen(shop).found
        assert found is not None and found.passed
        assert told(found) == [
            f"about {found.speed_up:.2g}× as fast as everything in bf16 (roofline estimate)"
        ]
        assert found.speed_up > 1

    def test_a_gate_that_no_plan_meets_gives_the_best_one_and_says_so(self, tmp_path: Path) -> None:
        shop = workshop(config(tmp_path, gate={"min_cosine": 1.0, "min_sqnr_db": 200}), tmp_path)
        found = chosen(shop).found
        assert found is not None and not found.passed
        assert "no plan passed the search's stricter gate; this is the best of them" in told(found)
        best = max(j.accuracy.this for j in found.judged if j.accuracy.this is not None)
        assert best == next(
            j.accuracy.this for j in found.judged if j.noise == found.noise and j.seconds <= found.seconds
        )

    def test_every_variant_runs(self, shop: Workshop) -> None:
        row = TARGETS["orin"]
        for variant in VARIANTS:
            with searching.emulation(shop, row, "run")(chosen(shop, "orin", variant)) as run:
                (value,) = run(graphs.feeds(1)[0]).values()
            assert np.isfinite(value).all()

    def test_a_search_out_of_time_says_so(self, tmp_path: Path) -> None:
        shop = workshop(config(tmp_path, gate={"min_cosine": 1.0, "min_sqnr_db": 200}), tmp_path)
        assert shop.chooser is not None
        shop.chooser.seconds = 0.0
        found = chosen(shop).found
        assert found is not None
        estimated = "sensitivity to int8 is estimated in part, after 0 s"
        assert found.note == f"{estimated}; the search stopped after 0 s"
        assert found.note in told(found)
        assert not shop.chooser.sensitivity("int8").complete
        assert not (shop.chooser.folder / "int8.npz").exists()  # to be measured properly another time

    def test_the_carriers_own_loss_is_not_held_against_a_plan(self) -> None:
        gate = choose.GateConfig(max_drop=1.0)
        lost = Accuracy(metric="top1", fp32=70.0, this=69.7)
        assert choose._stricter(gate, 0.5, lost).max_drop == pytest.approx(0.8)
        gained = Accuracy(metric="top1", fp32=70.0, this=70.4)
        assert choose._stricter(gate, 0.5, gained).max_drop == 0.5
        assert choose._stricter(choose.GateConfig(), 0.5, lost).max_drop is None

    @pytest.mark.parametrize(("macs", "count"), [(0, 32), (1e8, 32), (2e9, 32), (4e9, 16), (1e12, 8)])
    def test_large_models_are_looked_at_with_fewer_samples(self, macs: float, count: int) -> None:
        assert within_reach(int(macs), (8, 32)) == count


class TestUnusualWeights:
    @pytest.mark.parametrize("shape", [(32,), (1, 32, 48), (3, 32, 48)])
    def test_a_matrix_product_with_a_vector_or_a_stack_is_built(
        self, shape: tuple[int, ...], tmp_path: Path
    ) -> None:
        net = graphs.Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 3)), name="stem_relu")  # 1 × 3 × 32 × 32
        x = net.op("MatMul", x, net.weights("odd.weight", *shape), name="odd")
        x = (
            net.op("ReduceMean", x, name="mean", axes=[-1])
            if len(shape) > 1
            else net.op("Unsqueeze", x, net.constant("axes", [-1], np.int64), name="column")
        )
        shop = workshop(config(tmp_path, net.model(net.op("Sigmoid", x, name="sigmoid"))), tmp_path)
        for variant in VARIANTS:
            found = chosen(shop, "orin", variant)
            assert found.plan.precisions["odd"] in ("int8", "w8a16", "bf16")
            if len(shape) == 1:
                assert found.plan.precisions["odd"] == "bf16"

    def test_a_product_in_double_stays_as_it_is(self, tmp_path: Path) -> None:
        net = graphs.Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
        x = net.op("Cast", x, name="wide", to=onnx.TensorProto.DOUBLE)
        x = net.op("MatMul", x, net.constant("double.weight", np.eye(32), np.float64), name="double")
        x = net.op("Cast", x, name="narrow", to=onnx.TensorProto.FLOAT)
        made = config(tmp_path, net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1)), name="s")))
        found = chosen(workshop(made, tmp_path), "orin")
        assert found.found is not None
        assert found.plan.precisions["head"] == "int8" and "double" not in found.plan.precisions

    def test_shared_weights_are_compensated_once(self, tmp_path: Path) -> None:
        net = graphs.Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
        shared = net.weights("shared", 32, 32, 3, 3)
        for name in ("first", "second"):
            x = net.op("Relu", net.op("Conv", x, shared, name=name, pads=[1] * 4), name=f"{name}_relu")
        shop = workshop(
            config(tmp_path, net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1)), name="s"))), tmp_path
        )
        found = chosen(shop, "orin", "w8a16")
        assert [key for key in found.compensation.weights if key[0] == "shared"] == [("shared", 0, "w8a16")]
        assert {("first", "w8a16"), ("second", "w8a16")} <= set(found.compensation.biases)
        held = [t.name for t in found.typed(TARGETS["orin"]).graph.initializer if t.name.startswith("shared")]
        assert len([name for name in held if name.endswith("/int8")]) == 1


@pytest.mark.parametrize("hopeless", [True, False])
def test_int8_on_a_processor_has_fitted_weights_whatever_was_measured_before(
    hopeless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the search ran for the other scheme or was left out, because that one was too slow."""
    times = iter([100.0 if hopeless else 1.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr(processor, "_fastest", lambda engine, feeds: next(times))
    workbench = processor._Workbench(workshop(config(tmp_path), tmp_path), TARGETS["cpu"], "fast", "cpu/fast")
    workbench.gather()
    found = {c.name: c.chosen for c in workbench.candidates}
    for candidate in workbench.candidates:
        candidate.engine.close()
    assert ("int8 u8×s8" in found) != hopeless
    fitted = {key[0] for key in found["int8 s8×s8"].compensation.weights}
    assert fitted and fitted <= {f"{name}.weight" for name in found["int8 s8×s8"].plan.quantized}


@contextmanager
def refusing(found: Chosen) -> Iterator[Run]:
    raise AssertionError("nothing has to be run")
    yield lambda feeds: {}


def test_a_graph_without_anything_to_quantize_is_not_searched(tmp_path: Path) -> None:
    net = graphs.Net()
    model = net.model(net.op("Sigmoid", net.op("ReduceMean", "image", name="m", axes=[1]), name="s"))
    shop = workshop(config(tmp_path, model), tmp_path)
    assert shop.chooser is not None
    found = shop.chooser.choose(TARGETS["orin"], "fast", refusing, "orin")
    assert found.found is None and found.plan.label == "bf16"
