"""The command line's shell: commands, errors in three lines, exit codes; `doctor` and `inspect`."""

from __future__ import annotations

import argparse
import errno
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge import __version__
from edge.cli import COMMANDS, main
from edge.cli.doctor import outlook
from edge.errors import (
    ConfigError,
    EdgeError,
    GateError,
    InputError,
    MissingPackage,
    ModelError,
    RuntimeFault,
    StoreError,
    UsageError,
)
from edge.machine import INT8_DOT, Gpu, Machine
from edge.store import Accuracy, BuilderInfo, Manifest, OutputAccuracy, PlanEntry, Store
from edge.targets import TARGETS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], int]], None]:
    """Put a function in the place of `edge bench`."""

    def install(run: Callable[[argparse.Namespace], int]) -> None:
        module = types.ModuleType("edge.cli.bench")
        module.add_arguments = lambda parser: None  # type: ignore[attr-defined]
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "edge.cli.bench", module)

    return install


class TestShell:
    def test_help_names_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        text = capsys.readouterr().out
        assert all(name in text for name in COMMANDS)

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"edge {__version__}\n"

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_has_help(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([name, "--help"]) == 0
        assert f"edge {name}" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ([], "required: COMMAND"),
            (["dctor"], "did you mean 'doctor'?"),
            (["doctor", "--jsn"], "--jsn"),
            (["inspect", "a", "b"], "edge inspect: unrecognized arguments: b\n   do: edge inspect --help"),
        ],
    )
    def test_a_wrong_command_line(
        self, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(words) == 2
        assert says in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("kind", "code"),
        [
            (UsageError, 2),
            (ConfigError, 2),
            (MissingPackage, 2),
            (GateError, 3),
            (InputError, 4),
            (ModelError, 4),
            (RuntimeFault, 5),
            (StoreError, 5),
        ],
    )
    def test_an_error_is_three_lines_and_its_exit_code(
        self,
        kind: type[EdgeError],
        code: int,
        command: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def fail(args: argparse.Namespace) -> int:
            raise kind("it broke", "because", "mend it")

        command(fail)
        assert main(["bench"]) == code
        assert capsys.readouterr().err == "error: it broke\n  why: because\n   do: mend it\n"

    def test_a_commands_exit_code_is_the_programs(self, command: Callable[..., None]) -> None:
        command(lambda args: 3)
        assert main(["bench"]) == 3

    def test_ctrl_c(self, command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
        def interrupted(args: argparse.Namespace) -> int:
            raise KeyboardInterrupt

        command(interrupted)
        assert main(["bench"]) == 130
        assert "interrupted" in capsys.readouterr().err

    def test_the_systems_own_errors_are_told_too(
        self, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(args: argparse.Namespace) -> int:
            raise OSError(errno.ENOSPC, "No space left on device", "/out/x.json")

        command(full)
        assert main(["bench"]) == 5
        assert "No space left on device" in (text := capsys.readouterr().err) and "/out/x.json" in text
        assert "check the path, its permissions and the disk" in text

    def test_a_closed_pipe_is_no_error(self) -> None:
        edge = [sys.executable, "-m", "edge", "inspect", "--help"]
        done = subprocess.run(
            f"{' '.join(map(repr, edge))} | head -c 1", shell=True, cwd=ROOT, capture_output=True, text=True
        )
        assert done.stderr == "" and done.returncode == 0


class TestWithoutInstalling:
    @pytest.mark.parametrize(("script", "name"), [("build_engines.py", "build"), ("run_stream.py", "run")])
    def test_the_wrappers_work_from_anywhere(self, script: str, name: str, tmp_path: Path) -> None:
        command = [sys.executable, str(ROOT / script), "--help"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"edge {name}" in done.stdout

    def test_no_command_is_loaded_before_it_is_typed(self) -> None:
        code = (
            "import sys; from edge.cli import main; main(['--help'])\n"
            "heavy = {'numpy', 'onnx', 'cv2', 'pydantic', 'rich', 'edge.cli.build'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("name", COMMANDS)
    def test_options_are_declared_without_a_runtime(self, name: str) -> None:
        code = (
            f"import sys; from edge.cli import main; assert main(['{name}', '--help']) == 0\n"
            "heavy = {'onnx', 'onnxruntime', 'cv2', 'tensorrt_rtx', 'pydicom', 'matplotlib'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class TestDoctor:
    SERVER = Machine("Xeon", "x86_64", frozenset({INT8_DOT}), packages={"onnxruntime": "1.20.1"})

    def test_it_prints_every_target(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor"]) == 0
        text = capsys.readouterr().out
        assert all(name in text for name in TARGETS)

    def test_json_tells_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert [row["target"] for row in document["targets"]] == list(TARGETS)
        cpu = document["targets"][0]
        assert cpu["runs"] and cpu["state"] == "verified"
        assert document["machine"]["cores"] >= 1

    def test_rows_of_ones_own_are_shown(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "mine.toml"
        file.write_text('[targets.orin_nano]\nlike = "orin"\n')
        assert main(["doctor", "--matrix", str(file)]) == 0
        assert "orin_nano" in capsys.readouterr().out

    def test_without_tensorrt_rtx_gpus_get_bundles(self) -> None:
        found = outlook(TARGETS["ada"], self.SERVER)
        assert (found.state, found.runs, found.note) == ("bundle", False, "needs tensorrt-rtx")

    def test_with_tensorrt_rtx_gpus_are_simulated(self) -> None:
        server = Machine("Xeon", "x86_64", packages={"tensorrt-rtx": "1.7.1.116"})
        assert outlook(TARGETS["ada"], server).state == "simulated"
        assert outlook(TARGETS["orin"], server).state == "bundle"

    def test_on_arm_tensorrt_rtx_is_not_offered(self) -> None:
        board = Machine("ARM", "aarch64", gpus=(Gpu("Orin", (8, 7)),), jetson="Jetson AGX Orin")
        assert outlook(TARGETS["ada"], board).note == "an x86-64 machine"
        assert outlook(TARGETS["orin"], board).state == "bundle"

    def test_a_gpu_that_is_here_is_not_promised_to_run(self) -> None:
        server = Machine(
            "Xeon", "x86_64", gpus=(Gpu("L4", (8, 9)),), packages={"tensorrt": "10.13", "tensorrt-rtx": "1.7"}
        )
        found = outlook(TARGETS["ada"], server)
        assert (found.state, found.here, found.runs) == ("simulated", True, False)

    def test_a_processor_without_dot_products_is_warned(self) -> None:
        old = Machine("i5", "x86_64", packages={"onnxruntime": "1.20.1"})
        assert "slow" in outlook(TARGETS["cpu"], old).note and outlook(TARGETS["cpu"], old).runs


class TestInspect:
    @pytest.fixture
    def engines(self, tmp_path: Path) -> Path:
        (tmp_path / "file").write_bytes(b"engine")
        manifest = Manifest(
            model="net",
            target="ada",
            variant="fast",
            key="k1",
            state="simulated",
            graph_sha256="ab" * 32,
            carrier="bf16",
            builder=BuilderInfo(name="tensorrt_rtx", version="1.7.1"),
            backend="tensorrt_rtx",
            engine_file="net.engine",
            compute_capability="8.9",
            plan=(
                PlanEntry(node="stem", op="Conv", precision="bf16", reason="[7x7] kernel too large for fp8"),
                PlanEntry(node="conv2", op="Conv", precision="fp8", reason="pays"),
                PlanEntry(node="conv3", op="Conv", precision="fp8", reason="pays"),
            ),
            accuracy=Accuracy(
                metric="f1", fp32=0.9, this=0.89, samples=40, how="emulated",
                outputs=(OutputAccuracy(name="heatmap", cosine=0.999, sqnr_db=31.0),),
            ),
            quantized_mac_share=0.95,
        )  # fmt: skip
        Store(tmp_path / "engines").publish(manifest, {"net.engine": tmp_path / "file"})
        return tmp_path / "engines"

    def test_an_engine(self, engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["inspect", "net/ada/fast", "--engines", str(engines)]) == 0
        text = capsys.readouterr().out
        assert "simulated" in text and "f1 0.89 (fp32 0.9), 40 samples" in text and "95% of MACs" in text
        assert "[7x7] kernel too large for fp8" in text  # not taken for markup
        assert "2       fp8" in text

    def test_its_plan(self, engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["inspect", "net/ada/fast", "--plan", "--engines", str(engines)]) == 0
        text = capsys.readouterr().out
        assert all(node in text for node in ("stem", "conv2", "conv3"))

    @pytest.mark.parametrize("what", ["", "net", "net/ada", "net/ada/fast"])
    def test_json_is_the_manifests(
        self, what: str, engines: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["inspect", *([what] if what else []), "--json", "--engines", str(engines)]) == 0
        (manifest,) = json.loads(capsys.readouterr().out)
        assert manifest["schema"] == 1 and manifest["compute_capability"] == "8.9"

    def test_a_folder(self, engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for folder in ("net/ada/fast/k1", "net/ada/fast", "net/ada/fast/"):
            assert main(["inspect", f"{engines}/{folder}"]) == 0
            assert "net/ada/fast" in capsys.readouterr().out

    def test_the_plans_of_all_engines_of_a_target(
        self, engines: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        m = Store(engines).find("net", "ada", "fast").manifest
        weights = m.model_copy(
            update={"variant": "w8a16", "key": "k2", "plan": m.plan[:1], "quantized_mac_share": 0.0}
        )
        Store(engines).publish(weights, {"net.engine": engines / "net/ada/fast/k1/net.engine"})
        assert main(["inspect", "net/ada", "--plan", "--engines", str(engines)]) == 0
        text = capsys.readouterr().out
        assert "net/ada/fast" in text and "net/ada/w8a16" in text and text.count("stem") == 2
        assert main(["inspect", "--engines", str(engines)]) == 0
        assert re.search(r"w8a16 +simulated +weights ", capsys.readouterr().out)

    def test_reasons_that_differ_in_a_number_are_one_line(
        self, engines: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        m = Store(engines).find("net", "ada", "fast").manifest
        reasons = [f"fp8: {i}.5% of it in b1" for i in range(len(m.plan))]
        plan = [e.model_copy(update={"reason": r}) for e, r in zip(m.plan, reasons, strict=True)]
        other = m.model_copy(update={"key": "k3", "plan": tuple(plan)})
        Store(engines).publish(other, {"net.engine": engines / "net/ada/fast/k1/net.engine"})
        assert main(["inspect", "net/ada/fast", "--engines", str(engines)]) == 0
        assert re.search(r"2 +fp8 +fp8: …% of it in b1", capsys.readouterr().out)

    def test_a_tampered_engine_is_refused(self, engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (engines / "net/ada/fast/k1/net.engine").write_bytes(b"other!")
        assert main(["inspect", "net/ada/fast", "--engines", str(engines)]) == 5
        assert "net.engine is not the file that was published" in capsys.readouterr().err

    def test_the_store_with_a_damaged_engine(self, engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (engines / "net/ada/fast/k1/manifest.json").write_text("{")
        assert main(["inspect", "--engines", str(engines)]) == 2
        captured = capsys.readouterr().err
        assert "not JSON" in captured and "no engines in" in captured

    @pytest.mark.parametrize(
        ("what", "code", "says"),
        [("nat/ada", 2, "did you mean 'net/ada'?"), ("net/cpu/fast", 2, "built are ada/fast"),
         ("net/ada/fats", 2, "did you mean 'ada/fast'?"),
         ("gone.onnx", 4, "there is no such file"), ("a/b/c/d", 4, "no such file or engine folder")],
    )  # fmt: skip
    def test_what_is_not_there(
        self, what: str, code: int, says: str, engines: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["inspect", what, "--engines", str(engines)]) == code
        assert says in capsys.readouterr().err

    def test_a_graph(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        weight = onnx.numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4, 6, 6])],
            [weight],
        )
        path = tmp_path / "net.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), path)
        assert main(["inspect", str(path), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["inputs"] == [{"name": "x", "dtype": "float", "shape": ["N", 3, 8, 8]}]
        assert (facts["parameters"], facts["opset"], facts["operators"]) == (
            108,
            {"ai.onnx": 19},
            {"Conv": 1, "Relu": 1},
        )
        assert main(["inspect", str(path)]) == 0
        assert "N×3×8×8" in capsys.readouterr().out

    def test_a_file_that_is_no_graph(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "net.onnx").write_bytes(b"\x00not a graph")
        assert main(["inspect", str(tmp_path / "net.onnx")]) == 4
        assert "not a valid ONNX model" in capsys.readouterr().err
