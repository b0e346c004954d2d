"""`make gpu-check` on a simulated GPU: every section runs, and the report says what was found, and what not.

The numbers are those of threads that pretend to be a GPU: what is tested is that they are taken and judged.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes.cuda import FakeCuda
from kernel_on_host import ABSENT
from streaming import SIZE, heatmap_graph

TESTS = Path(__file__).resolve().parents[1]
BENCHMARKS = TESTS.parent / "benchmarks"
sys.path += [str(BENCHMARKS), str(TESTS / "gpu")]

import gpu_check  # noqa: E402
from gpu.report import Section, document, file_name, outcome, table  # noqa: E402
from gpu.setting import Setting  # noqa: E402
from gpu.synthetic import SOURCE, jump, on_processor  # noqa: E402
from simulated_gpu import install  # noqa: E402

from edge.errors import RuntimeFault  # noqa: E402

needs_kernel = pytest.mark.skipif(bool(ABSENT), reason=ABSENT)

MODEL = f"""
name = "tiny"
onnx = "tiny.onnx"
[input]
size = [{SIZE}, {SIZE}]
[task]
kind = "segment"
label = "thing"
[calibration]
images = "pictures"
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of one convolution, with eight pictures."""
    heatmap_graph(tmp_path / "tiny.onnx")
    (tmp_path / "pictures").mkdir()
    for seed in range(8):
        noise = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{seed}.png"), noise)
    path = tmp_path / "tiny.toml"
    path.write_text(MODEL)
    return path


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with FakeCuda(seed=11) as device:
        yield device


def check(model: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report of a check in this process, as short as it can be."""
    out = model.parent / "results"
    short = ["--in-process", "--pace", "0.005", "--model", str(model), "--frame", "60x80", "--out", str(out)]
    status = gpu_check.main([*short, *options])
    written = list(out.glob("*.json"))
    assert len(written) == 1 and written[0].name.startswith("simulated-gpu-20")
    return status, json.loads(written[0].read_text())


def figures(report: dict[str, Any], section: str) -> dict[str, Any]:
    return {figure["name"]: figure["value"] for figure in report["sections"][section]["figures"]}


# The whole check


@needs_kernel
@pytest.mark.slow
def test_every_section_runs_on_a_machine_that_has_everything(
    monkeypatch: pytest.MonkeyPatch, model: Path, cuda: FakeCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, cuda, model.parent / "cache")
    monkeypatch.setenv("EDGE_TEST_GPU", "simulated")
    status, report = check(model)
    cuda.assert_clean()
    sections = report["sections"]
    assert list(sections) == list(gpu_check.SECTIONS)
    assert {name: s["error"] for name, s in sections.items() if s["error"]} == {}
    assert {s["status"] for s in sections.values()} <= {"passed", "missed"}
    assert status == (0 if report["outcome"] == "passed" else 1)
    assert report["device"] == "Simulated GPU" and report["cuda"]["compute_capability"] == "9.0"

    built = figures(report, "build")
    assert built["hopper/fast"] == built["hopper/exact"] == built["cpu/exact"] == "verified"
    assert figures(report, "tests")["failed"] == 0 and figures(report, "tests")["passed"] > 80
    compared = figures(report, "compare")
    assert {v for k, v in compared.items() if k.startswith("bytes that differ from the rule")} == {0.0}
    assert compared["overlapped findings that differ from serial ones"] == 0
    assert compared["tensorrt hopper/fast: pictures whose findings depend on who prepares"] == 0
    assert compared["tensorrt hopper/exact: cosine with the processor"] > 0.999
    for name, engine in (
        ("runner", "synthetic"),
        ("engine", "tensorrt"),
        ("onnxruntime", "onnxruntime_cuda"),
    ):
        assert figures(report, name)["engine"].startswith(engine)
        runs = {(row.get("slots"), row.get("graphs")) for row in sections[name]["details"]["runs"]}
        assert {(2, True), (1, True), (3, True), (1, False), (2, False), (3, False)} <= runs
        assert figures(report, name)["allocations after warm-up"] == 0
    assert figures(report, "leaks")["cycles"] >= 4
    printed = capsys.readouterr().out
    for name in gpu_check.SECTIONS:
        assert f"\n{name}  [" in f"\n{printed}"


@needs_kernel
def test_without_tensorrt_the_rest_is_checked_and_the_report_says_so(
    monkeypatch: pytest.MonkeyPatch, model: Path, cuda: FakeCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, cuda, model.parent / "cache", tensorrt=False)
    _, report = check(model, "--sections", "build,compare,engine")
    cuda.assert_clean()
    assert "cpu/fast" not in figures(report, "build") and report["sections"]["build"]["status"] == "noted"
    assert figures(report, "build")["hopper/fast"] == "bundle"
    assert figures(report, "compare")["engine"] == "onnxruntime_cuda cpu/exact"
    assert figures(report, "compare")["onnxruntime_cuda cpu/exact: cosine with the processor"] > 0.999
    assert report["sections"]["engine"]["status"] == "not done"
    reasons = {item["what"]: item["why"] for item in report["not_done"]}
    assert "tensorrt not installed" in reasons["compiling and running hopper/fast"]
    assert "none in the store" in reasons["an engine compiled for this GPU"]
    assert "not done: compiling and running hopper/fast" in capsys.readouterr().out


@needs_kernel
@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
def test_with_nothing_but_pycuda_and_a_compiler_the_runner_is_still_measured(
    monkeypatch: pytest.MonkeyPatch, model: Path, integrated: bool
) -> None:
    with FakeCuda(seed=12, integrated=integrated) as cuda:
        install(monkeypatch, cuda, model.parent / "cache", tensorrt=False)
        _, report = check(model, "--sections", "compare,runner,leaks")
        cuda.assert_clean()
    assert report["cuda"]["integrated"] == integrated and report["sections"]["device"]["status"] == "passed"
    assert figures(report, "compare")["engine"].startswith("synthetic")
    assert figures(report, "compare")["words of the synthetic engine that are wrong"] == 0
    assert figures(report, "runner")["2 feeds in batches of 2: kept of the engine's"] > 0
    assert figures(report, "leaks")["GPU memory, growth"] == 0


@needs_kernel
def test_an_engine_of_this_gpu_that_does_not_load_is_a_miss(
    monkeypatch: pytest.MonkeyPatch, model: Path, cuda: FakeCuda
) -> None:
    """All is installed, it was built and verified here: then it has to run."""
    from fakes.tensorrt import FakeTensorRT

    install(monkeypatch, cuda, model.parent / "cache")
    kept = str(model.parent / "kept")
    check(model, "--sections", "build", "--keep", kept)
    monkeypatch.setattr(FakeTensorRT, "check", lambda *_: "Error Code 1: Myelin (no)")
    status, report = check(model, "--sections", "engine", "--keep", kept)
    cuda.assert_clean()
    assert status == gpu_check.MISSED and report["sections"]["engine"]["status"] == "missed"
    assert "Myelin" in figures(report, "engine")["tensorrt hopper/fast loads"]


# Nothing to check


def test_a_machine_without_a_gpu_is_not_checked_and_does_not_look_like_a_pass(
    monkeypatch: pytest.MonkeyPatch, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeCuda(present=False) as cuda:
        cuda.install(monkeypatch)
        assert gpu_check.main(["--out", str(model.parent / "results")]) == gpu_check.NOT_CHECKED == 77
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("NOT CHECKED: no NVIDIA GPU here") and "no NVIDIA driver" in line
    assert not (model.parent / "results").exists()


def test_a_gpu_that_nothing_can_use_is_not_checked_either(
    monkeypatch: pytest.MonkeyPatch, model: Path, cuda: FakeCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge.errors import missing_package

    def absent(*args: Any) -> None:
        raise missing_package("pycuda", "gpu", "running on an NVIDIA GPU")

    cuda.install(monkeypatch)
    monkeypatch.setattr("edge.cuda.device.bindings", absent)
    out = model.parent / "results"
    status = gpu_check.main(["--in-process", "--sections", "device,runner", "--out", str(out)])
    report = json.loads(next(out.glob("*.json")).read_text())
    assert status == gpu_check.NOT_CHECKED and report["outcome"] == "not checked"
    assert any("pip install pycuda" in item["why"] for item in report["not_done"])


# Sections stand alone


def test_a_section_that_breaks_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, model: Path, cuda: FakeCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda.install(monkeypatch)
    others = {"absent": ("no_such_package", "check", 10), "broken": ("gpu.nowhere", "check", 10)}

    def breaks(setting: Setting, found: Section) -> None:
        raise RuntimeFault("the engine fell off", "a screw was loose")

    monkeypatch.setattr("gpu.leaks.check", breaks)
    monkeypatch.setattr(gpu_check, "SECTIONS", {**gpu_check.SECTIONS, **others})
    status, report = check(model, "--sections", "leaks,absent,broken")
    assert status == gpu_check.MISSED
    assert list(report["sections"]) == ["device", "leaks", "absent", "broken"]
    assert report["sections"]["leaks"]["error"] == "RuntimeFault: the engine fell off: a screw was loose"
    assert report["sections"]["absent"]["status"] == "not done"
    assert "'no_such_package' is not installed" in report["not_done"][0]["why"]
    assert report["sections"]["broken"]["error"].startswith("ModuleNotFoundError")
    assert report["sections"]["device"]["status"] == "passed"
    assert "MISSED  leaks: RuntimeFault" in capsys.readouterr().out


def test_a_section_runs_in_a_process_of_its_own_and_its_report_comes_back(tmp_path: Path) -> None:
    section = gpu_check.run_in_child("device", Setting(str(tmp_path), seconds=60))
    assert section.details["python"] and section.details["packages"]["numpy"]
    assert section.figures or "no NVIDIA driver" in section.error


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os.abort()", "status -6"),
        ("import time; print('hm', flush=True); time.sleep(60)", "within"),
    ],
    ids=["crashes", "hangs"],
)
def test_a_section_that_crashes_or_hangs_is_told_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, says: str
) -> None:
    script = tmp_path / "section.py"
    script.write_text(code)
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    monkeypatch.setattr(gpu_check, "GRACE", 0.5)
    section = gpu_check.run_in_child("leaks", Setting(str(tmp_path), seconds=1))
    assert section.status == "failed" and says in section.error
    assert section.details["last words"] == ("hm\n" if says == "within" else "")


def test_options_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--sections", "leeks"], ["--frame", "large"]):
        with pytest.raises(SystemExit, match="2"):
            gpu_check.main(options)
    assert "no section leeks; there are device" in capsys.readouterr().err


# The report


def test_an_outcome_needs_a_verdict() -> None:
    only_noted, judged, missed = Section("a"), Section("b"), Section("c")
    only_noted.note("clock", 1980, "MHz")
    judged.at_least("kept", 0.98, 0.97)
    missed.at_most("added", 1.5, 1.0, "ms")
    assert outcome([]) == outcome([only_noted]) == "not checked" and only_noted.status == "noted"
    assert outcome([only_noted, judged]) == "passed"
    assert outcome([judged, missed]) == "missed"
    assert outcome([judged, Section("d", error="it fell off")]) == "missed"


def test_a_section_survives_its_way_through_json() -> None:
    section = Section("runner", seconds=2.0)
    section.at_least("kept", 0.98, 0.97)
    section.skip("batches", "the engine\n takes one")
    again = Section.from_json(json.loads(json.dumps(section.to_json())))
    assert again == section and table(again) == table(section)
    assert document([again], {"device": "x"}, False)["not_done"][0]["why"] == "the engine takes one"


@pytest.mark.parametrize(
    ("name", "slug"),
    [("NVIDIA H200", "nvidia-h200"), ("Orin (nvgpu)/integrated", "orin-nvgpu-integrated"), ("", "gpu")],
)
def test_reports_are_named_after_gpu_and_day(name: str, slug: str) -> None:
    assert file_name(name, "2026-11-22") == f"{slug}-2026-11-22.json"
    assert file_name(name, "2026-11-22", "quick") == f"{slug}-2026-11-22-quick.json"


# The synthetic engine


@pytest.mark.parametrize("rounds", [0, 1, 2, 7, 1000])
def test_the_generator_can_be_jumped_ahead_in(rounds: int) -> None:
    value = start = 123456789
    for _ in range(rounds):
        value = (value * 1664525 + 1013904223) % 2**32
    factor, offset = jump(rounds)
    assert (start * factor + offset) % 2**32 == value


@needs_kernel
def test_the_kernel_does_what_the_processor_expects_of_it(tmp_path: Path) -> None:
    """Its own text, compiled as C++."""
    source = tmp_path / "host.cpp"
    source.write_text(
        f'#include "{TESTS / "host_cuda.h"}"\n#include "{SOURCE}"\n'
        'extern "C" void run(const unsigned* in, unsigned* out, int rows, int in_words, int out_words,'
        " unsigned rounds, int threads) { blockDim = {threads, 1}; for (int b = 0; b < 9; ++b)"
        " for (int t = 0; t < threads; ++t) { blockIdx = {b, 0}; threadIdx = {t, 0};"
        " synthetic_load(in, out, rows, in_words, out_words, rounds); } }"
    )
    built = tmp_path / "load.so"
    subprocess.run(["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-o", built, source], check=True)
    tensor = np.random.default_rng(0).random((3, 2, 5, 7), np.float32)
    out = np.zeros(3 * 12 + 1, np.uint32)
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (tensor, out))
    ctypes.CDLL(str(built)).run(*pointers, 3, 70, 12, ctypes.c_uint(500), 5)
    np.testing.assert_array_equal(out[:-1].reshape(3, 12), on_processor(tensor, 12, 500))
    assert out[-1] == 0
