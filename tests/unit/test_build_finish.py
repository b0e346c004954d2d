"""Engines finished on their device: compiled there, run, compared with fp32, timed, published as verified.

GPU, driver and TensorRT are simulated (`tests/fakes`): an engine computes what its graph does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from devices import HOPPER, L4, ORIN, Board, builder, bundles, compile_for_orin, device
from fakes.tensorrt import fake_plan

from edge import machine
from edge.backends import EngineOptions, backend
from edge.build import build, finish, resources, site
from edge.build.finish import broken_promises, measure_latency
from edge.build.inputs import engine_key
from edge.build.tensorrt import Compiled, CompileRequest, compile_engine
from edge.build.verify import measure
from edge.cli import main
from edge.cli.doctor import outlook
from edge.cuda import device as cuda_device
from edge.cuda import driver
from edge.errors import RuntimeFault
from edge.manifest import OutputAccuracy, check_machine
from edge.store import Store
from edge.stream.network import find_engine
from edge.targets import TARGETS

COMPILER = pytest.mark.skipif(
    "tensorrt-rtx" not in machine.detect().packages, reason="tensorrt-rtx is not installed"
)
BOARDS = pytest.mark.parametrize("board", [ORIN, HOPPER], ids=lambda board: board.target)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where bundles for Orin, Hopper and Ada were built: the graph, its pictures, a store, .tar files."""
    folder = tmp_path_factory.mktemp("built")
    bundles(folder, targets="orin,hopper,ada")
    return folder


def tar(built: Path, board: Board, variant: str = "fast") -> Path:
    return built / "tars" / f"net-{board.target}-{variant}.tar"


def model(built: Path) -> list[str]:
    """The words that build from the model."""
    words = ["--onnx", str(built / "net.onnx"), "--calib", str(built / "pictures")]
    return [*words, "--policy", str(built / "fastest.json")]


def labelled(folder: Path) -> list[str]:
    """The words that build an engine for Orin from a model whose pictures have masks."""
    graphs.saved(graphs.residual(), folder / "net.onnx")
    graphs.pictures(folder / "pictures", 3)
    graphs.pictures(folder / "held_out", 6, masks=True, seed=1)
    (folder / "net.toml").write_text(
        'name = "net"\nonnx = "net.onnx"\n[input]\nsize = [32, 32]\n[task]\nkind = "segment"\n'
        '[calibration]\nimages = "pictures"\n[evaluation]\nimages = "held_out"\nlabels = "held_out"\n'
    )
    return ["--model", str(folder / "net.toml"), "--targets", "orin", "--variants", "fast"]


class TestABundle:
    @BOARDS
    @pytest.mark.parametrize("variant", ["fast", "exact"])
    def test_carried_to_its_device_it_is_verified_there(
        self, board: Board, variant: str, built: Path, tmp_path: Path
    ) -> None:
        before = Store(built / "engines").find("net", board.target, variant).manifest
        with device(board, tmp_path) as there:
            assert there.finish(tar(built, board, variant)) == 0
            found = there.manifest(variant)
        assert (before.state, found.state) == ("bundle", "verified")
        assert (found.backend, found.builder.name, found.builder.version) == (
            "tensorrt", "tensorrt", board.version,
        )  # fmt: skip
        assert set(found.files) == {"engine.plan", "layers.json", "graph.onnx", "reference.npz"}
        assert found.files["graph.onnx"] == before.files["graph.onnx"]
        assert found.compute_capability == before.compute_capability
        assert found.gpu and found.gpu.name == board.name and found.verified_at.endswith("+00:00")
        assert board.name in found.machine and before.machine in found.reason
        assert found.recipe == before.recipe and found.key != before.key
        assert (found.plan, found.config) == (before.plan, before.config)

    @BOARDS
    def test_it_gives_there_what_emulation_promised(self, board: Board, built: Path, tmp_path: Path) -> None:
        before = Store(built / "engines").find("net", board.target, "fast").manifest.accuracy
        with device(board, tmp_path) as there:
            there.finish(tar(built, board))
            after = there.manifest().accuracy
        assert before and after and after.promised == before.outputs
        (now,), (promised,) = after.outputs, after.promised
        assert now.cosine == pytest.approx(promised.cosine, abs=1e-7) and now.cosine < 1
        assert after.how == f"run on {board.name}: 1 reference sample"
        assert after.this == now.cosine and after.samples == 1

    def test_its_latency_is_measured_and_told(
        self, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with device(ORIN, tmp_path) as there:
            there.finish(tar(built, ORIN))
            found = there.manifest().latency
            assert found and 0 < found.p50_ms <= found.p99_ms and found.per_second > 0 and found.batch == 1
            assert there.rows[0]["latency"] == found.model_dump()
            assert f"{found.p50_ms:.2f} ms" in capsys.readouterr().out
            assert main(["inspect", "net/orin/fast", "--engines", str(there.store.root)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"latency {found.p50_ms:.3g} ms" in said and f"verified on {ORIN.name}" in said
        assert "kernel timings tensorrt-10.3.0-sm87.timing (new)" in said

    def test_it_can_be_run_there_and_a_bundle_cannot(
        self, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with device(HOPPER, tmp_path) as there:
            there.finish(tar(built, HOPPER))
            entry = find_engine(there.store, "net", None, "fast")
            assert entry.manifest.state == "verified" and entry.manifest.target == "hopper"
            check_machine(entry.manifest, machine.detect())

    def test_a_second_time_nothing_is_to_be_done(self, built: Path, tmp_path: Path) -> None:
        with device(ORIN, tmp_path) as there:
            assert there.finish(tar(built, ORIN)) == 0
            first = there.manifest()
            assert there.finish(tar(built, ORIN)) == 0
            assert there.rows[0]["cached"] and there.manifest() == first

    def test_several_are_finished_at_once(self, built: Path, tmp_path: Path) -> None:
        with device(ORIN, tmp_path) as there:
            assert there.finish(tar(built, ORIN), tar(built, ORIN, "exact")) == 0
            assert [row["state"] for row in there.rows] == ["verified"] * 2

    def test_in_its_own_store_it_takes_the_bundles_place(self, built: Path, tmp_path: Path) -> None:
        shutil.copytree(built / "engines", tmp_path / "device")
        with device(ORIN, tmp_path) as there:
            entry = there.store.find("net", "orin", "fast")
            assert main(["build", "--bundle", str(entry.path)]) == 0  # no --out: the store it lies in
            assert there.manifest().state == "verified"
            assert entry.path.is_dir()  # the one before stays

    def test_tensorrt_rtx_finishes_where_it_knows_the_gpu(self, built: Path, tmp_path: Path) -> None:
        with device(L4, tmp_path) as there:
            assert there.finish(tar(built, L4)) == 0
            found = there.manifest()
        assert (found.state, found.backend, found.engine_file) == ("verified", "tensorrt_rtx", "engine.rtx")
        assert found.gpu and found.gpu.driver == "570.1"

    def test_tensorrt_is_preferred_where_both_are(self, built: Path, tmp_path: Path) -> None:
        both = L4.machine(tensorrt="10.13.0")
        found = site.find_site(TARGETS["ada"], both)
        assert found and found.runtime == "tensorrt"

    def test_a_thor_that_an_old_driver_calls_10_1(self) -> None:
        thor = Board("Jetson AGX Thor", "thor", (10, 1), integrated=True, version="10.13.0").machine()
        found = site.find_site(TARGETS["thor"], thor)
        assert found and found.gpu.compute_capability == (10, 1)

    def test_the_compiler_works_in_a_process_of_its_own(self, built: Path, tmp_path: Path) -> None:
        with device(ORIN, tmp_path) as there, pytest.MonkeyPatch.context() as patch:
            patch.setattr(finish, "in_child", resources.in_child)
            patch.setattr(finish, "compile_engine", compile_for_orin)
            assert there.finish(tar(built, ORIN)) == 0
            assert there.manifest().peak_rss_bytes > 1 << 24


class TestTheModel:
    @BOARDS
    def test_local_gives_verified_engines(self, board: Board, built: Path, tmp_path: Path) -> None:
        with device(board, tmp_path) as there:
            assert there.build(*model(built), "--targets", "local") == 0
            states = {(r["target"], r["variant"]): r["state"] for r in there.rows}
            found = there.manifest()
        assert states == {(t, v): "verified" for t in ("cpu", board.target) for v in ("fast", "exact")}
        assert found.accuracy and found.accuracy.how.startswith(f"run on {board.name} (held out")
        assert found.latency and found.gpu and found.reason == f"compiled and verified on {board.name}"
        assert set(found.files) == {"engine.plan", "layers.json", "graph.onnx", "reference.npz"}

    def test_the_tasks_metric_is_measured_on_the_device(self, tmp_path: Path) -> None:
        seen = []

        def counted(run: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(run)
            return measure(run, *args, **kwargs)

        with device(ORIN, tmp_path) as there, pytest.MonkeyPatch.context() as patch:
            patch.setattr("edge.build.gpu.measure", counted)
            assert there.build(*labelled(tmp_path)) == 0
            found = there.manifest().accuracy
        assert len(seen) == 1 and found and found.metric == "f1" and found.how == f"run on {ORIN.name}"
        assert found.samples == 6 and found.this is not None and found.promised

    def test_from_a_bundle_that_metric_is_the_emulated_one(self, tmp_path: Path) -> None:
        words = labelled(tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            builder(patch)
            assert main(["build", *words, "--out", str(tmp_path / "device")]) == 0
        with device(ORIN, tmp_path) as there:
            before = there.manifest().accuracy
            assert there.build(*words) == 0
            after = there.manifest().accuracy
        assert before and after and (after.metric, after.this) == (before.metric, before.this)
        assert after.how.startswith(f"run on {ORIN.name}: 4 reference samples; f1: emulated on the processor")

    @pytest.fixture
    def no_calibration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build.calibrate, "calibrate", lambda *_: pytest.fail("calibrated again"))

    @pytest.mark.usefixtures("no_calibration")
    def test_a_bundle_in_the_store_saves_the_calibration(self, built: Path, tmp_path: Path) -> None:
        shutil.copytree(built / "engines", tmp_path / "device")
        shutil.rmtree(tmp_path / "device" / "net" / ".calibration")
        with device(HOPPER, tmp_path) as there:
            before = there.manifest()
            assert there.build(*model(built), "--targets", "hopper") == 0
            assert [row["state"] for row in there.rows] == ["verified"] * 2
            assert there.manifest().files["graph.onnx"] == before.files["graph.onnx"]

    @pytest.mark.usefixtures("no_calibration")
    def test_another_tensorrt_compiles_the_same_graph_again(self, built: Path, tmp_path: Path) -> None:
        words = [*model(built), "--targets", "orin", "--variants", "fast"]
        shutil.copytree(built / "engines", tmp_path / "device")
        with device(ORIN, tmp_path) as there:
            assert there.build(*words) == 0
            first = there.manifest()
        with device(replace(ORIN, version="10.7.0"), tmp_path) as there:
            assert there.build(*words) == 0
            second = there.manifest()
            assert there.build(*words) == 0 and there.rows[0]["cached"]
        assert first.key != second.key and second.builder.version == "10.7.0"
        assert first.recipe == second.recipe
        assert first.accuracy and second.accuracy and second.accuracy.promised == first.accuracy.promised

    def test_another_model_is_not_finished_from_the_bundle(self, built: Path, tmp_path: Path) -> None:
        shutil.copytree(built / "engines", tmp_path / "device")
        graphs.saved(graphs.residual(seed=1), tmp_path / "net.onnx")
        words = ["--onnx", str(tmp_path / "net.onnx"), "--calib", str(built / "pictures")]
        with device(ORIN, tmp_path) as there:
            before = there.manifest()
            assert there.build(*words, "--targets", "orin", "--variants", "fast") == 0
            after = there.manifest()
        assert after.state == "verified" and after.recipe != before.recipe
        assert after.files["graph.onnx"] != before.files["graph.onnx"]

    def test_where_fp8_is_too_coarse_there_int8_is_judged_next(
        self, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The bundle's fp8 graph fails on the device, whatever emulation said; so does the model's."""
        tried = []

        def coarse(request: CompileRequest, progress: Any = None) -> Compiled:
            kinds = {precision for _, precision in request.plan}
            tried.append("fp8" if "fp8" in kinds else "int8")
            done = compile_engine(request, progress)
            return done if "fp8" not in kinds else replace(done, engine=negated(request.graph))

        def negated(graph: bytes) -> bytes:
            model = onnx.load_from_string(graph)
            (last,) = (node for node in model.graph.node if model.graph.output[0].name in node.output)
            last.output[0] = "right"
            model.graph.node.append(onnx.helper.make_node("Neg", ["right"], ["out"], name="wrong"))
            return fake_plan(model.SerializeToString(), HOPPER.capability, HOPPER.version)

        shutil.copytree(built / "engines", tmp_path / "device")
        monkeypatch.setattr(finish, "compile_engine", coarse)
        monkeypatch.setattr("edge.build.device_times.measured", lambda *args: None)  # by estimate fp8 wins
        with device(HOPPER, tmp_path) as there:
            assert there.build(*model(built), "--targets", "hopper", "--variants", "fast") == 0
            found = there.manifest()
        assert tried == ["fp8", "fp8", "int8"]
        assert found.state == "verified"
        assert found.reason.startswith("int8, because with fp8 it fails the gate")
        assert "int8" in {step.precision for step in found.plan}

    def test_elsewhere_a_verified_engine_is_kept(self, built: Path, tmp_path: Path) -> None:
        words = [*model(built), "--targets", "orin", "--variants", "fast"]
        with device(ORIN, tmp_path) as there:
            assert there.build(*words) == 0
            before = there.manifest()
        with pytest.MonkeyPatch.context() as patch:
            builder(patch)
            assert main(["build", *words, "--out", str(there.store.root)]) == 0
        assert there.store.find("net", "orin", "fast").manifest == before

    @pytest.mark.slow
    @COMPILER
    def test_a_simulated_engine_is_verified_on_its_device(self, built: Path, tmp_path: Path) -> None:
        """Compiled by the real TensorRT-RTX here, finished on a device."""
        words = [*model(built), "--targets", "ada", "--variants", "fast"]
        assert main(["build", *words, "--out", str(tmp_path / "here"), "--bundles", str(tmp_path)]) == 0
        before = Store(tmp_path / "here").find("net", "ada", "fast").manifest
        assert before.state == "simulated" and {"engine.rtx", "reference.npz"} <= set(before.files)
        with device(L4, tmp_path) as there:
            assert there.finish(tmp_path / "net-ada-fast.tar") == 0
            after = there.manifest()
        assert after.state == "verified" and after.recipe == before.recipe and after.key != before.key


class TestWithoutAllThatIsNeeded:
    def test_local_gives_what_it_gave_and_says_what_is_missing(self, built: Path, tmp_path: Path) -> None:
        with device(ORIN, tmp_path, pycuda=None) as there:
            words = [*model(built), "--targets", "orin", "--variants", "fast"]
            assert there.build(*words) == 0
            (row,) = there.rows
        assert row["state"] == "bundle"
        assert "not verified here: pycuda not installed" in row["reason"]
        assert "pip install '.[gpu]'" in row["reason"]
        assert "not verified" not in there.manifest().reason  # of the engine, wherever it goes

    def test_a_tensorrt_too_old_for_the_device(self) -> None:
        thor = Board("Jetson AGX Thor", "thor", (11, 0), integrated=True, version="10.7.0").machine()
        assert site.find_site(TARGETS["thor"], thor) is None
        why = site.obstacle(TARGETS["thor"], thor)
        assert why and why.why == "TensorRT 10.7.0 does not know thor, 10.13 or newer is needed"


def test_a_driver_too_old_for_the_runtime_is_told_before_minutes_are_spent_on_compiling(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with device(HOPPER, tmp_path) as there:
        there.cuda.driver_version = 11080
        monkeypatch.setattr(there.cuda.driver, "get_version", lambda: (11, 8, 0))
        monkeypatch.setattr(finish, "compile_engine", lambda *a, **k: pytest.fail("it was compiled"))
        assert there.finish(tar(built, HOPPER)) == 5
        assert there.published == []
    said = " ".join(capsys.readouterr().err.split())
    assert "driver is too old for TensorRT 10.13.0" in said and "CUDA 12.0 is needed" in said


class TestSeveralGpus:
    @pytest.fixture
    def _two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """CUDA lists the faster GPU first, whatever nvidia-smi says."""

        class Gpu:
            def __init__(self, index: int) -> None:
                self.index = index

            @staticmethod
            def count() -> int:
                return 2

            def compute_capability(self) -> tuple[int, int]:
                return [(9, 0), (8, 9)][self.index]

        found = driver.Bindings(SimpleNamespace(Device=Gpu, Error=RuntimeError), None)  # type: ignore[arg-type]
        for module in (driver, cuda_device):
            monkeypatch.setattr(module, "bindings", lambda: found)

    @pytest.mark.usefixtures("_two")
    def test_the_one_of_the_target_is_found_by_its_capability(self) -> None:
        assert cuda_device.find_gpu((9, 0)) == 0 and cuda_device.find_gpu((8, 9)) == 1
        with pytest.raises(RuntimeFault, match=r"CUDA sees 9\.0, 8\.9"):
            cuda_device.find_gpu((7, 5))

    @pytest.mark.parametrize(
        ("before", "number", "inside"),
        [(None, 0, None), (None, 1, "1"), ("0,3", 1, "3"), ("GPU-a,GPU-b", 1, "GPU-b"), ("2", 0, "2")],
    )
    def test_the_compiler_sees_that_one_alone(
        self, before: str | None, number: int, inside: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if before is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
        with finish.only_gpu(number):
            assert os.environ.get("CUDA_VISIBLE_DEVICES") == inside
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


class TestDoctor:
    @pytest.mark.parametrize(("board", "by"), [(ORIN, "TensorRT 10.3.0"), (L4, "TensorRT-RTX 1.7.1")])
    def test_a_gpu_with_all_that_is_needed_runs_its_engines(self, board: Board, by: str) -> None:
        found = outlook(TARGETS[board.target], board.machine())
        assert (found.state, found.runs, found.compiled_by, found.note) == ("verified", True, by, "")

    def test_what_is_missing_is_named(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bare = ORIN.machine(pycuda=None, tensorrt=None)
        found = outlook(TARGETS["orin"], bare)
        assert (found.state, found.runs, found.here) == ("bundle", False, True)
        monkeypatch.setattr("edge.cli.doctor.detect", lambda: bare)
        assert main(["doctor"]) == 0
        said = capsys.readouterr().out
        assert "tensorrt and pycuda" in said and "not yet" in said
        assert "sudo apt install nvidia-jetpack" in said and "pip install '.[gpu]'" in said

    def test_an_engine_compiled_ahead_of_time_is_not_one_that_runs(self) -> None:
        found = outlook(TARGETS["ada"], L4.machine(pycuda=None))
        assert (found.state, found.runs) == ("simulated", False)
        assert "pycuda not installed" in found.note


def test_the_key_depends_on_compiler_version_and_gpu() -> None:
    keys = {
        engine_key("r", "tensorrt 10.3.0", (8, 7)),
        engine_key("r", "tensorrt 10.4.0", (8, 7)),
        engine_key("r", "tensorrt 10.3.0", (9, 0)),
        engine_key("r", "tensorrt_rtx 10.3.0", (8, 7)),
        engine_key("r", "tensorrt "),
        engine_key("s", "tensorrt "),
    }
    assert len(keys) == 6


@pytest.mark.parametrize(("found", "count"), [(30.0, 0), (27.5, 0), (26.0, 1), (None, 0)])
def test_much_more_noise_than_promised_is_told(found: float | None, count: int) -> None:
    outputs = [[OutputAccuracy(name="y", sqnr_db=value)] for value in (found, 30.0)]
    said = broken_promises(*outputs)
    assert len(said) == count and all("emulation gave 30.0" in text for text in said)


class TestLatency:
    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Any]:
        path = graphs.saved(graphs.residual(), tmp_path / "net.onnx")
        engine = backend("onnxruntime").load(path, EngineOptions(streams=2))
        yield engine
        engine.close()

    def test_runs_and_seconds_are_both_limits(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        feeds = {"image": np.zeros((1, 3, 32, 32), np.float32)}
        monkeypatch.setattr(finish, "RUNS", 7)
        monkeypatch.setattr(finish, "WARM_UP", 3)
        slots = [engine.slot(), engine.slot()]
        monkeypatch.setattr(engine, "slot", slots.pop, raising=False)
        batches = 0

        def counted(submit: Callable[[], None]) -> Callable[[], None]:
            def one() -> None:
                nonlocal batches
                batches += 1
                submit()

            return one

        for slot in slots:
            monkeypatch.setattr(slot, "submit", counted(slot.submit), raising=False)
        measure_latency(engine, feeds, lambda done, total: None)
        assert batches == 2 * (3 + 7)
        monkeypatch.setattr(finish, "SECONDS", 0.0)
        assert len(finish._timed([], 5)[0]) == 0
