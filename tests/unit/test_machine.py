"""Machine detection, fed with what real machines answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edge.machine import INT8_DOT, NVIDIA_SMI, Gpu, Machine, detect

XEON = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz
flags\t\t: fpu vme sse4_2 avx avx2 avx512f avx512_vnni ht

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz
flags\t\t: fpu vme sse4_2 avx avx2 avx512f avx512_vnni ht
"""
HASWELL = "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i5-4570\nflags\t\t: sse4_2 avx avx2\n"
RYZEN = "processor\t: 0\nmodel name\t: AMD Ryzen 9 7950X\nflags\t\t: avx2 avx512f avx512_vnni avx512_bf16\n"
ORIN_CPU = """\
processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat ssbs
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""
PI3 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd03\n"
ORIN_BOARD = "NVIDIA Jetson AGX Orin Developer Kit\0"
JETPACK_6 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8"

Runner = Callable[[Sequence[str]], str]


def answers(text: str) -> Runner:
    return lambda command: text


def fails(error: Exception) -> Runner:
    def run(command: Sequence[str]) -> str:
        raise error

    return run


no_driver = fails(FileNotFoundError(2, "No such file or directory", "nvidia-smi"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty file system; `machine` fills it."""
    return tmp_path


def machine(root: Path, run: Runner = no_driver, arch: str = "x86_64", **files: str) -> Machine:
    places = {
        "cpuinfo": "proc/cpuinfo",
        "meminfo": "proc/meminfo",
        "status": "proc/self/status",
        "model": "proc/device-tree/model",
        "tegra": "etc/nv_tegra_release",
    }
    for name, text in files.items():
        path = root / places[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return detect(root, run, arch)


class TestServers:
    def test_a_t4_server(self, root: Path) -> None:
        found = machine(
            root,
            answers("Tesla T4, 7.5, 535.183.01, 15360\n"),
            cpuinfo=XEON,
            meminfo="MemTotal:  16196152 kB\n",
        )
        assert found.gpus == (Gpu("Tesla T4", (7, 5), "535.183.01", 15360 << 20),)
        assert found.cpu == "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz"
        assert found.cpu_features == {"avx2", "avx512f", "avx512_vnni", INT8_DOT}
        assert (found.cores, found.memory_bytes) == (2, 16196152 << 10)
        assert found.problems == () and found.jetson is None

    def test_eight_h100(self, root: Path) -> None:
        line = "NVIDIA H100 80GB HBM3, 9.0, 550.54.15, 81559\n"
        found = machine(root, answers(line * 8), cpuinfo=XEON)
        assert [gpu.compute_capability for gpu in found.gpus] == [(9, 0)] * 8

    def test_a_gpus_name_may_hold_a_comma(self, root: Path) -> None:
        found = machine(root, answers("NVIDIA RTX 4090, Founders, 8.9, 550.54.15, 24564\n"))
        assert found.gpus[0].name == "NVIDIA RTX 4090, Founders"

    def test_the_cores_are_those_a_container_allows(self, root: Path) -> None:
        status = "Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t0-1,6\n"
        assert machine(root, cpuinfo=XEON, status=status).cores == 3

    def test_a_processor_without_vnni_has_no_int8_dot(self, root: Path) -> None:
        assert machine(root, cpuinfo=HASWELL).cpu_features == {"avx2"}

    def test_an_amd_processor(self, root: Path) -> None:
        assert {"avx512_vnni", "avx512_bf16", INT8_DOT} <= machine(root, cpuinfo=RYZEN).cpu_features


class TestJetson:
    def test_orin_on_jetpack_6_whose_nvidia_smi_knows_nothing(self, root: Path) -> None:
        found = machine(
            root, answers("Orin (nvgpu), [N/A], 540.4.0, [N/A]\n"), "aarch64",
            cpuinfo=ORIN_CPU, model=ORIN_BOARD, tegra=JETPACK_6,
        )  # fmt: skip
        assert found.jetson == "NVIDIA Jetson AGX Orin Developer Kit"
        assert found.l4t == "36.4.3"
        assert [gpu.compute_capability for gpu in found.gpus] == [(8, 7)]
        assert INT8_DOT in found.cpu_features
        assert found.cpu == "NVIDIA Jetson AGX Orin Developer Kit"
        assert found.problems == ()

    def test_orin_on_jetpack_5_without_nvidia_smi(self, root: Path) -> None:
        found = machine(root, no_driver, "aarch64", cpuinfo=ORIN_CPU, model="Jetson AGX Orin\0")
        assert [gpu.compute_capability for gpu in found.gpus] == [(8, 7)]

    def test_thor_answers_for_itself(self, root: Path) -> None:
        found = machine(
            root, answers("NVIDIA Thor, 11.0, 580.00, [N/A]\n"), "aarch64",
            cpuinfo=ORIN_CPU, model="NVIDIA Jetson AGX Thor Developer Kit\0",
        )  # fmt: skip
        assert found.gpus == (Gpu("NVIDIA Thor", (11, 0), "580.00", None),)

    def test_an_unknown_board_is_reported(self, root: Path) -> None:
        found = machine(root, no_driver, "aarch64", cpuinfo=ORIN_CPU, model="NVIDIA Jetson Rubin\0")
        assert found.gpus == () and "Rubin" in found.problems[0]

    def test_a_raspberry_pi_is_no_jetson(self, root: Path) -> None:
        found = machine(root, no_driver, "aarch64", cpuinfo=PI3, model="Raspberry Pi 3 Model B Rev 1.2\0")
        assert found.jetson is None and found.gpus == ()
        assert INT8_DOT not in found.cpu_features
        assert found.cpu == "Raspberry Pi 3 Model B Rev 1.2"


class TestTrouble:
    def test_no_driver_is_no_problem(self, root: Path) -> None:
        assert machine(root, no_driver, cpuinfo=XEON).problems == ()

    def test_nvidia_smi_that_hangs(self, root: Path) -> None:
        found = machine(root, fails(subprocess.TimeoutExpired(NVIDIA_SMI, 5)), cpuinfo=XEON)
        assert found.gpus == () and "did not answer" in found.problems[0]

    def test_nvidia_smi_that_crashes(self, root: Path) -> None:
        error = subprocess.CalledProcessError(
            18, NVIDIA_SMI, "Failed to initialize NVML: Driver/library version mismatch\n", ""
        )
        found = machine(root, fails(error), cpuinfo=XEON)
        assert "Driver/library version mismatch" in found.problems[0]

    def test_a_driver_too_old_for_the_question(self, root: Path) -> None:
        error = subprocess.CalledProcessError(
            2, NVIDIA_SMI, 'Field "compute_cap" is not a valid field to query.\n', ""
        )
        assert "510 or newer" in machine(root, fails(error), cpuinfo=XEON).problems[0]

    def test_nvidia_smi_without_permission(self, root: Path) -> None:
        found = machine(root, fails(PermissionError(13, "Permission denied")), cpuinfo=XEON)
        assert "Permission denied" in found.problems[0]

    def test_a_gpu_that_tells_nothing_is_reported(self, root: Path) -> None:
        found = machine(root, answers("NVIDIA A10, [Unknown Error], 550.54, 23028\n"), cpuinfo=XEON)
        assert found.gpus == () and "compute capability" in found.problems[0]

    def test_no_devices(self, root: Path) -> None:
        found = machine(root, answers("No devices were found\n"), cpuinfo=XEON)
        assert found.gpus == () and found.problems == ()

    @pytest.mark.parametrize("text", ["", "garbage", "\0\xff,,,,", "flags\t:"])
    def test_a_machine_without_proc_still_has_a_name_and_a_core(self, root: Path, text: str) -> None:
        found = machine(root, cpuinfo=text, meminfo=text, status=text, tegra=text)
        assert found.cpu == "x86_64 processor" and found.cores == 1 and found.memory_bytes == 0

    def test_a_real_command_that_hangs_is_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edge.machine.NVIDIA_SMI_SECONDS", 0.05)
        monkeypatch.setattr("edge.machine.NVIDIA_SMI", (sys.executable, "-c", "import time; time.sleep(60)"))
        assert "did not answer" in detect().problems[0]


class TestThisMachine:
    def test_it_is_detected(self) -> None:
        found = detect()
        assert found.cores >= 1 and found.memory_bytes > 0 and found.cpu
        assert {"numpy", "onnx", "onnxruntime"} <= set(found.packages)

    def test_missing_features_are_named(self) -> None:
        here = Machine("x", "x86_64", frozenset({"avx2"}))
        assert here.missing_features(["avx2", INT8_DOT, "x86_64", "aarch64"]) == ["aarch64", INT8_DOT]

    def test_the_label_names_processor_and_gpu(self) -> None:
        assert Machine("EPYC", "x86_64", cores=1, gpus=(Gpu("L4", (8, 9)),)).label == "EPYC, 1 core + L4"
        orin = Machine("ARM", "aarch64", cores=8, gpus=(Gpu("x", (8, 7)),), jetson="Jetson Orin")
        assert orin.label == "ARM, 8 cores + Jetson Orin"

    def test_importing_detects_nothing(self) -> None:
        """No process, no file of the machine, no optional runtime: at import nothing is known yet."""
        code = """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append((event, args)))
import edge.machine, edge.targets, edge.store
started = [a for e, a in seen if e == "subprocess.Popen"]
touched = [a for e, a in seen if e == "open" and str(a[0]).startswith("/proc")]
loaded = {"onnxruntime", "cv2", "tensorrt_rtx", "tensorrt", "pycuda", "pydicom", "onnx"} & set(sys.modules)
assert not (started or touched or loaded), (started, touched, loaded)
"""
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_two_onnx_runtimes_in_one_environment_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real metadata of distributions, in a folder of their own."""
    assert machine(tmp_path, no_driver, cpuinfo=XEON).problems == ()
    for name in ("onnxruntime", "onnxruntime_gpu"):
        info = tmp_path / "site" / f"{name}-1.22.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.22.0\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (problem,) = machine(tmp_path, no_driver, cpuinfo=XEON).problems
    assert "onnxruntime and onnxruntime-gpu are both installed" in problem
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in problem
