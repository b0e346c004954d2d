"""`edge build` end to end on tiny graphs, in process: rows, cache, gate; a failure leaves the rest alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import graphs
import onnx
import pytest
from clocks import int8_is_faster

from edge import machine
from edge.build import gpu, inputs
from edge.build.tensorrt import Compiled, CompileRequest, Progress
from edge.cli import main
from edge.graph import sha256
from edge.store import Store

ROW = {
    "model", "target", "variant", "state", "key", "size_bytes", "quantized_mac_share", "accuracy",
    "build_seconds", "peak_rss_bytes", "path", "reason",
}  # fmt: skip
Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True, scope="module")
def _quick(no_sync: None) -> Iterator[None]:
    with int8_is_faster():
        yield


def without_compiler(patch: pytest.MonkeyPatch) -> None:
    """This machine, as it would be without tensorrt-rtx: GPU targets become bundles, which is quick."""
    here = machine.detect()
    packages = {k: v for k, v in here.packages.items() if k != "tensorrt-rtx"}
    bare = machine.Machine(here.cpu, here.arch, here.cpu_features, here.cores, packages=packages)
    patch.setattr(machine, "detect", lambda: bare)


class Shop:
    """A folder with a graph, pictures and a store."""

    def __init__(self, folder: Path, model: onnx.ModelProto) -> None:
        self.folder = folder
        self.graph = graphs.saved(model, folder / "net.onnx")
        self.pictures = graphs.pictures(folder / "pictures", 5)
        self.store = Store(folder / "engines")

    def edge(self, *words: str, targets: str = "cpu") -> int:
        return main(
            [
                "build",
                *words,
                "--targets",
                targets,
                "--out",
                str(self.store.root),
                "--json",
                str(self.rows_file),
            ]
        )

    def build(self, *words: str, targets: str = "cpu") -> int:
        return self.edge("--onnx", str(self.graph), "--calib", str(self.pictures), *words, targets=targets)

    @property
    def rows_file(self) -> Path:
        return self.folder / "rows.json"

    @property
    def rows(self) -> Rows:
        rows: Rows = json.loads(self.rows_file.read_text())
        return rows

    def config(self, gate: str = "min_cosine = 0.9", extra: str = "") -> str:
        path = self.folder / "net.toml"
        path.write_text(
            f'name = "net"\nonnx = "net.onnx"\n{extra}[input]\nsize = [32, 32]\n[task]\nkind = "segment"\n'
            f'[calibration]\nimages = "pictures"\n[gate]\n{gate}\n'
        )
        return str(path)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, graphs.residual())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Two variants for a processor, and for two devices as bundles; to be read only."""
    shop = Shop(tmp_path_factory.mktemp("built"), graphs.residual())
    with pytest.MonkeyPatch.context() as patch:
        without_compiler(patch)
        assert shop.build(targets="cpu,orin,ada") == 0
    return shop


@pytest.fixture
def again(built: Shop, tmp_path: Path) -> Iterator[Shop]:
    """A copy of what was built, to be changed."""
    shutil.copytree(built.folder, tmp_path / "copy")
    shop = object.__new__(Shop)
    shop.folder = tmp_path / "copy"
    shop.graph, shop.pictures = shop.folder / "net.onnx", shop.folder / "pictures"
    shop.store = Store(shop.folder / "engines")
    with pytest.MonkeyPatch.context() as patch:
        without_compiler(patch)
        yield shop


def cached(rows: Rows) -> list[bool]:
    return [row["cached"] for row in rows]


class TestRows:
    def test_every_engine_has_one_with_all_fields(self, built: Shop) -> None:
        rows = built.rows
        assert [(r["target"], r["variant"]) for r in rows] == [
            (t, v) for t in ("cpu", "orin", "ada") for v in ("fast", "exact")
        ]
        for row in rows:
            assert set(row) >= ROW
            assert row["model"] == "net"
            assert row["state"] == ("verified" if row["target"] == "cpu" else "bundle")
            assert set(row["accuracy"]) == {"metric", "fp32", "this", "drop_error", "samples"}
            assert row["accuracy"]["metric"] == "cosine" and 0.95 < row["accuracy"]["this"] <= 1 + 1e-9
            assert row["accuracy"]["samples"] == 1  # every fourth of five is held out
            assert row["size_bytes"] > 0 and row["build_seconds"] > 0 and row["peak_rss_bytes"] > 1 << 20
            assert row["reason"]

    def test_the_path_holds_what_the_row_says(self, built: Shop) -> None:
        for row in built.rows:
            entry = built.store.find("net", row["target"], row["variant"])
            assert str(entry.path) == row["path"]
            assert entry.manifest.key == row["key"] == entry.path.name
            assert entry.manifest.size_bytes == sum(
                (entry.path / name).stat().st_size for name in entry.manifest.files
            )
            assert entry.manifest.quantized_mac_share == pytest.approx(row["quantized_mac_share"], abs=1e-4)

    def test_the_share_is_zero_for_exact_and_high_for_fast(self, built: Shop) -> None:
        shares = {(r["target"], r["variant"]): r["quantized_mac_share"] for r in built.rows}
        assert shares["orin", "fast"] > 0.99 and shares["ada", "fast"] > 0.9
        assert shares["cpu", "exact"] == shares["orin", "exact"] == shares["ada", "exact"] == 0

    def test_without_a_compiler_there_is_a_bundle_that_says_how_to_finish_it(self, built: Shop) -> None:
        entry = built.store.find("net", "ada", "fast")
        assert entry.manifest.state == "bundle"
        assert entry.manifest.engine_file == "graph.onnx"
        travelling = {"graph.onnx", "reference.npz", "README.txt", "finish.sh"}
        assert set(entry.manifest.files) == travelling
        assert "sh finish.sh" in entry.manifest.reason
        script = (entry.path / "finish.sh").read_text()
        assert 'build --bundle "$bundle"' in script and "compute capability 8.9" in script
        assert os.system(f"sh -n '{entry.path / 'finish.sh'}'") == 0

    def test_the_manifest_holds_what_the_engine_depends_on(self, built: Shop) -> None:
        manifest = built.store.find("net", "orin", "fast").manifest
        assert manifest.graph_sha256 == sha256(built.graph.read_bytes())
        assert manifest.calibration_sha256
        assert manifest.carrier == "bf16" and manifest.compute_capability == "8.7"
        assert [(t.name, t.dtype, t.shape) for t in manifest.inputs] == [("image", "float32", (1, 3, 32, 32))]
        assert [(t.name, t.dtype, t.shape) for t in manifest.outputs] == [("out", "float32", (1, 1, 16, 16))]
        assert {"right", "head", "add"} <= {p.node for p in manifest.plan}
        assert manifest.accuracy and "held out from the calibration set" in manifest.accuracy.how
        assert built.store.find("net", "orin", "exact").manifest.calibration_sha256 is None

    def test_the_processors_engine_says_what_it_was_chosen_over(self, built: Shop) -> None:
        reason = built.store.find("net", "cpu", "fast").manifest.reason
        assert reason.startswith("chosen ") and "int8 u8×s8" in reason and "int8 s8×s8" in reason


class TestCache:
    def test_a_second_build_changes_nothing(self, again: Shop) -> None:
        files = {p: p.stat().st_mtime_ns for p in again.store.root.rglob("*") if p.is_file()}
        assert again.build(targets="cpu,orin,ada") == 0
        assert cached(again.rows) == [True] * 6
        assert {p: p.stat().st_mtime_ns for p in again.store.root.rglob("*") if p.is_file()} == files

    def test_a_second_build_runs_no_network(self, again: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object) -> None:
            raise AssertionError("a cache hit needs no session")

        monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
        config = Path(again.rows[0]["path"])  # the guess reads the graph; with a config nothing is run
        assert config.is_dir()
        monkeypatch.setattr("edge.build.guess.prepare", lambda *a: (_ for _ in ()).throw(AssertionError()))
        toml = again.folder / "net.toml"
        toml.write_text(again_config(again))
        assert again.edge("--model", str(toml), targets="cpu,orin,ada") == 0
        assert cached(again.rows) == [True] * 6

    def test_a_picture_more_rebuilds(self, again: Shop) -> None:
        graphs.pictures(again.folder / "more", 1, seed=5)
        (again.folder / "more" / "0000.jpg").rename(again.pictures / "0009.jpg")
        assert again.build(targets="orin") == 0
        assert cached(again.rows) == [False, False]

    def test_a_changed_picture_rebuilds(self, again: Shop) -> None:
        graphs.pictures(again.pictures, 1, seed=7)
        assert again.build(targets="orin") == 0
        assert cached(again.rows) == [False, False]

    def test_renamed_pictures_do_not(self, again: Shop) -> None:
        again.pictures.rename(again.folder / "elsewhere")
        again.pictures = again.folder / "elsewhere"
        assert again.build(targets="orin") == 0
        assert cached(again.rows) == [True, True]

    def test_a_changed_graph_rebuilds(self, again: Shop) -> None:
        graphs.saved(graphs.residual(seed=4), again.graph)
        assert again.build(targets="orin") == 0
        assert cached(again.rows) == [False, False]

    def test_external_weights_belong_to_the_graph(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        without_compiler(monkeypatch)
        config = shop.config()
        keys = []
        for seed in (0, 1):
            shop.graph.unlink()
            (shop.folder / "weights.bin").unlink(missing_ok=True)
            onnx.save(
                graphs.residual(seed=seed),
                shop.graph,
                save_as_external_data=True,
                location="weights.bin",
                size_threshold=0,
            )
            assert shop.edge("--model", config, "--variants", "exact", targets="orin") == 0
            keys.append(shop.rows[0]["key"])
        assert keys[0] != keys[1]

    def test_another_gate_rebuilds(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        without_compiler(monkeypatch)
        for gate, expected in (
            ("min_cosine = 0.9", False),
            ("min_cosine = 0.9", True),
            ("min_cosine = 0.8", False),
        ):
            assert shop.edge("--model", shop.config(gate), "--variants", "exact", targets="orin") == 0
            assert cached(shop.rows) == [expected]

    @pytest.mark.parametrize("damage", ["engine", "manifest", "current", "no engine"])
    def test_a_damaged_engine_is_built_again(self, again: Shop, damage: str) -> None:
        entry = again.store.find("net", "orin", "fast")
        path = {
            "engine": entry.engine,
            "manifest": entry.path / "manifest.json",
            "current": entry.path.parent / "current",
            "no engine": entry.engine,
        }[damage]
        if damage == "no engine":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:5])
        assert again.build(targets="orin") == 0
        assert cached(again.rows) == [False, True]
        assert again.store.find("net", "orin", "fast").manifest.key == entry.manifest.key

    def test_code_is_part_of_the_key(self, again: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inputs, "code_sha256", lambda: "of another version")
        assert again.build(targets="orin") == 0
        assert cached(again.rows) == [False, False]


def again_config(shop: Shop) -> str:
    """The config that `--onnx` guessed, as it was recorded in a manifest."""
    from edge.build.guess import Guess
    from edge.config import ModelConfig, validate

    recorded = shop.store.find("net", "orin", "fast").manifest.config
    config = validate(ModelConfig, recorded, "manifest")
    moved = config.model_copy(
        update={
            "onnx": shop.graph,
            "calibration": config.calibration.model_copy(update={"images": shop.pictures}),
        }
    )
    return Guess(moved, ()).to_toml()


class TestGate:
    def test_int8_takes_the_place_of_fp8_where_the_gate_asks_for_it(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A policy of speed takes what the device prefers; a gate that fp8 cannot pass moves it on."""
        without_compiler(monkeypatch)
        (shop.folder / "speed.json").write_text('{"name": "speed", "prefer": "speed"}')
        policy = '[quantize]\npolicy = "speed.json"\n'
        words = ("--model", shop.config(extra=policy), "--variants", "fast")
        assert shop.edge(*words, targets="orin,hopper") == 0
        cosine = {row["target"]: row["accuracy"]["this"] for row in shop.rows}
        assert cosine["hopper"] < cosine["orin"], "three bits of mantissa are coarser than eight bits"
        share = shop.store.find("net", "hopper", "fast").manifest.mac_shares
        assert share["fp8"] > 0.9
        between = (cosine["hopper"] + cosine["orin"]) / 2
        shop.config(gate=f"min_cosine = {between!r}", extra=policy)
        assert shop.edge(*words, targets="hopper") == 0
        (row,) = shop.rows
        assert row["accuracy"]["this"] >= between
        assert shop.store.find("net", "hopper", "fast").manifest.mac_shares["int8"] > share["int8"]

    def test_a_failed_gate_publishes_nothing_and_keeps_the_engine_before(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        without_compiler(monkeypatch)
        assert shop.edge("--model", shop.config(), targets="orin,ada") == 0
        before = {v: shop.store.find("net", "orin", v).manifest.key for v in ("fast", "exact")}
        capsys.readouterr()
        assert shop.edge("--model", shop.config("min_cosine = 0.999999"), targets="orin,ada") == 3
        rows = {(r["target"], r["variant"]): r for r in shop.rows}
        assert rows["orin", "fast"]["state"] == rows["ada", "fast"]["state"] == "failed"
        assert rows["orin", "fast"]["path"] is None
        assert 0.9999 < rows["orin", "fast"]["accuracy"]["this"] < 0.999999, "what was measured is not lost"
        assert "cosine of 'out' is 0.9999" in rows["orin", "fast"]["reason"]
        assert "the gate asks for 0.999999" in rows["orin", "fast"]["reason"]
        assert shop.store.find("net", "orin", "fast").manifest.key == before["fast"]
        said = capsys.readouterr()
        assert "failed" in said.out and "error: orin/fast fails its accuracy gate\n  why: " in said.err

    def test_a_gate_on_a_metric_needs_labels(self, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
        assert shop.edge("--model", shop.config("max_drop = 0.1")) == 2
        assert "max_drop under [gate] needs labelled pictures" in capsys.readouterr().err
        (shop.folder / "empty").mkdir()
        config = Path(shop.config())
        text = config.read_text().replace(
            "[gate]", '[evaluation]\nimages = "pictures"\nlabels = "empty"\n[gate]'
        )
        config.write_text(text)
        assert shop.edge("--model", str(config)) == 4
        assert "has a label" in capsys.readouterr().err

    def test_pictures_that_were_calibrated_with_are_told(self, shop: Shop) -> None:
        config = Path(shop.config())
        config.write_text(config.read_text().replace("[gate]", '[evaluation]\nimages = "pictures"\n[gate]'))
        assert shop.edge("--model", str(config), "--variants", "exact") == 0
        accuracy = shop.store.find("net", "cpu", "exact").manifest.accuracy
        assert accuracy is not None and "calibrated with, too" in accuracy.how

    def test_a_fault_of_ours_costs_one_engine(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        without_compiler(monkeypatch)

        def broken(*args: object) -> None:
            raise ValueError("unforeseen")

        monkeypatch.setattr(gpu.linter, "lint", broken)
        assert shop.edge("--model", shop.config(), "--variants", "exact", targets="cpu,orin") == 5
        assert {r["target"]: r["state"] for r in shop.rows} == {"cpu": "verified", "orin": "failed"}

    def test_the_other_targets_are_still_built(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        without_compiler(monkeypatch)
        assert shop.edge("--model", shop.config("min_sqnr_db = 60"), targets="cpu,orin") == 3
        states = {(r["target"], r["variant"]): r["state"] for r in shop.rows}
        assert states == {
            ("cpu", "fast"): "verified",  # fp32, the only candidate that passes
            ("cpu", "exact"): "verified",
            ("orin", "fast"): "failed",
            ("orin", "exact"): "failed",
        }
        assert "fails the gate" in shop.store.find("net", "cpu", "fast").manifest.reason


def crash(request: CompileRequest, progress: Progress) -> Compiled:
    """A compiler that is killed, for one device only."""
    if request.capability == (8, 9):
        os._exit(9)
    return Compiled(b"an engine", "1.0")


def raises(request: CompileRequest, progress: Progress) -> Compiled:
    raise ZeroDivisionError("inside the compiler")


@pytest.mark.skipif("tensorrt-rtx" not in machine.detect().packages, reason="tensorrt-rtx is not installed")
class TestCompiler:
    def test_one_that_crashes_fails_its_row_and_no_other(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gpu, "compile_engine", crash)
        assert shop.build("--variants", "exact", targets="a10,ada,orin") == 5
        rows = {r["target"]: r for r in shop.rows}
        assert [rows[t]["state"] for t in ("a10", "ada", "orin")] == ["simulated", "failed", "bundle"]
        assert rows["ada"]["reason"] == "crash died: its process ended with status 9"
        assert shop.store.current("net", "ada", "exact") is None
        assert shop.store.find("net", "a10", "exact").engine.read_bytes() == b"an engine"

    def test_an_exception_inside_it_is_a_failed_row(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(gpu, "compile_engine", raises)
        assert shop.build("--variants", "exact", targets="ada") == 5
        assert "died" in shop.rows[0]["reason"]
        assert "ZeroDivisionError: inside the compiler" in capfd.readouterr().err  # its last words


class TestLine:
    def test_json_goes_to_standard_output_alone(
        self, built: Shop, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = [
            "--onnx",
            str(built.graph),
            "--calib",
            str(built.pictures),
            "--targets",
            "cpu",
            "--json",
            "-",
        ]
        assert main(["build", *words, "--out", str(built.store.root)]) == 0
        assert [r["target"] for r in json.loads(capsys.readouterr().out)] == ["cpu", "cpu"]

    def test_the_table_names_every_engine(self, again: Shop, capsys: pytest.CaptureFixture[str]) -> None:
        assert again.build(targets="cpu,orin,ada") == 0
        out = capsys.readouterr().out
        assert "bundle" in out and "verified" in out and "cached" in out
        assert "\x1b" not in out  # no colours where nobody sees them

    def test_guesses_are_said_with_a_config_to_save(
        self, built: Shop, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert built.build() == 0
        said = capsys.readouterr().err
        assert "task = segment: output 1×1×16×16 is a map" in said
        assert "[input]\nsize = [32, 32]" in said

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--onnx", "x.onnx"], "--onnx needs --calib"),
            (["--model", "yolox_nano", "--calib", "x"], "--calib is for --onnx"),
            (["--model", "yolox_nano", "--size", "32x32"], "--size is for --onnx"),
            (["--model", "x", "--onnx", "y"], "not allowed with argument"),
            ([], "one of the arguments --model --onnx --bundle is required"),
        ],
    )
    def test_wrong_combinations_are_usage_errors(
        self, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["build", *words]) == 2
        assert said in capsys.readouterr().err

    def test_a_misspelt_target_is_a_usage_error(self, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
        assert shop.build(targets="cpu,orinn") == 2
        assert "did you mean 'orin'?" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--variants", "fats"], "no variant 'fats'"),
            (["--variants", ","], "no variant given"),
            (["--size", "32"], "--size '32' is not a size"),
            (["--size", "0x32"], "--size '0x32' is not a size"),
        ],
    )
    def test_wrong_values_are_usage_errors(
        self, shop: Shop, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert shop.build(*words) == 2
        assert said in capsys.readouterr().err


Make = Callable[[], onnx.ModelProto]


@pytest.mark.parametrize("make", [graphs.depthwise_swish, graphs.resize, graphs.channels_last, graphs.loop])
def test_other_graphs_come_through(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiler(monkeypatch)
    shop = Shop(tmp_path, make())
    assert shop.edge("--model", shop.config(), targets="cpu,t4,orin,ada") == 0
    assert {r["state"] for r in shop.rows} == {"verified", "bundle"}
