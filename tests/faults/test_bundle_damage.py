"""What can go wrong on the way to a device and on it: a clear error, nothing published, nothing lost."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from devices import HOPPER, ORIN, Board, Device, bundles, device

from edge.build import finish, reference
from edge.build.tensorrt import CompileRequest, compile_engine
from edge.cli import main
from edge.manifest import SUMS
from edge.store import Store

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where bundles for Orin and Hopper were built; to be read only."""
    folder = tmp_path_factory.mktemp("built")
    bundles(folder)
    return folder


@pytest.fixture
def tar(built: Path, tmp_path: Path) -> Path:
    """A copy of Orin's, to be damaged."""
    return Path(shutil.copy(built / "tars" / "net-orin-fast.tar", tmp_path))


@pytest.fixture
def folder(tar: Path) -> Path:
    """The same, unpacked."""
    subprocess.run(["tar", "xf", str(tar)], cwd=tar.parent, check=True)
    return tar.parent / "net-orin-fast"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


@pytest.fixture
def orin(tmp_path: Path, temporary: Path) -> Iterator[Device]:
    """A device on which nothing is compiled, unless a test allows it, and nothing is ever left behind."""
    with device(ORIN, tmp_path) as there:
        yield there
    assert list(temporary.iterdir()) == []


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        finish, "compile_engine", lambda *_, **__: pytest.fail("a damaged graph was compiled")
    )


def contents(path: Path) -> dict[str, str]:
    """Name → hash of all files at a path."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def refused(there: Device, bundle: Path, code: int, *said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Finishing ends in this exit code and says all this; nothing is published, the bundle is untouched."""
    before = contents(bundle)
    assert there.finish(bundle) == code
    error = " ".join(capsys.readouterr().err.split())
    assert all(text in error for text in said), error
    assert "Traceback" not in error and "please report" not in error
    assert there.published == [] and contents(bundle) == before
    assert [row["state"] for row in there.rows] == ["failed"]


# ---------------------------------------------------------------------- damage on the way


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("name", ["graph.onnx", "manifest.json", "reference.npz", "finish.sh", "README.txt"])
@pytest.mark.parametrize("packed", [True, False], ids=["tar", "folder"])
def test_a_changed_byte(
    name: str, packed: bool, folder: Path, tar: Path, orin: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    if packed:
        subprocess.run(["tar", "cf", str(tar), folder.name], cwd=folder.parent, check=True)
    said = (f"{name} is not the file that was bundled (sha256 differs)", "copy it again")
    refused(orin, tar if packed else folder, 4, *said, capsys=capsys)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.9, 0.98])
def test_a_tar_that_was_cut_off(
    part: float, tar: Path, orin: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    content = tar.read_bytes()
    written = len(content.rstrip(b"\0"))  # a tar ends in zeros that nobody misses
    tar.write_bytes(content[: int(written * part)])
    refused(orin, tar, 4, str(tar), "copy it again" if part > 0.1 else "", capsys=capsys)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("name", ["graph.onnx", "manifest.json", "reference.npz"])
def test_a_file_that_is_missing(
    name: str, folder: Path, orin: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).unlink()
    refused(orin, folder, 4, f"{name}: No such file", capsys=capsys)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "does not list manifest.json, graph.onnx, reference.npz"),
        ("not a hash", "a line that is no hash and file name"),
        (f"{'0' * 64}  ../../etc/passwd\n", "a line that is no hash and file name"),
        (f"{'0' * 64}  /etc/passwd\n", "a line that is no hash and file name"),
        (f"{'0' * 64}  .hidden\n", "a line that is no hash and file name"),
    ],
)
def test_hashes_that_make_no_sense(
    lines: str, said: str, folder: Path, orin: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / SUMS).write_text(lines)
    refused(orin, folder, 4, said, capsys=capsys)


@pytest.mark.usefixtures("no_compiler")
def test_what_is_no_bundle_at_all(orin: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").mkdir()
    refused(orin, tmp_path / "notes", 4, "is not a bundle", "it holds no SHA256SUMS", capsys=capsys)
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8" * 600)
    refused(orin, tmp_path / "picture.jpg", 4, "is not a whole .tar", capsys=capsys)
    refused(orin, tmp_path / "gone.tar", 4, "there is no such file or folder", capsys=capsys)


def signed(folder: Path) -> None:
    """Hashes that fit what is there now: whoever tampers can do so."""
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != SUMS}
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda text: "{", 4, "not JSON"),
        (lambda text: "[" * 100_000, 4, "not JSON"),
        (lambda text: text.replace('"schema": 1', '"schema": 9'), 4, "schema 9"),
        (lambda text: text.replace('"model": "net"', '"model": "../../net"'), 2, "cannot be the name"),
        (lambda text: text.replace('"target": "orin"', '"target": "/orin"'), 2, "cannot be the name"),
        (lambda text: text.replace('"graph.onnx"', '"../graph.onnx"'), 4, "is not a file name"),
        (lambda text: text.replace('"size"', '"sizes"'), 2, "unknown key 'input.sizes'"),
        (lambda text: text.replace('"8.7"', '"87"'), 2, "'87' is not a compute capability"),
        (lambda text: text.replace('"8.7"', "null"), 4, "an engine for processors"),
        (lambda text: text.replace('"8.7"', '"3.5"'), 2, "no target has compute capability 3.5"),
    ],
)
def test_a_manifest_that_was_tampered_with(
    change: Callable[[str], str],
    code: int,
    said: str,
    folder: Path,
    orin: Device,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = folder / "manifest.json"
    text = change(path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    signed(folder)
    refused(orin, folder, code, said, capsys=capsys)


def test_a_graph_and_a_manifest_of_different_bundles(
    built: Path, folder: Path, orin: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Store(built / "engines").find("net", "hopper", "exact")
    shutil.copy(other.path / "graph.onnx", folder)
    signed(folder)
    refused(orin, folder, 4, "manifest.json and SHA256SUMS differ about graph.onnx", capsys=capsys)


@pytest.mark.usefixtures("no_compiler")
def test_a_reference_of_another_model(folder: Path, orin: Device, capsys: pytest.CaptureFixture[str]) -> None:
    samples = reference.ReferenceSamples(
        "image", np.zeros((1, 3, 8, 8), np.uint8), {"out": np.zeros((1, 1, 1, 4, 4), np.float32)}
    )
    samples.save(folder / "reference.npz")
    manifest = (folder / "manifest.json").read_text()
    (folder / SUMS).unlink()
    digest = hashlib.sha256((folder / "reference.npz").read_bytes()).hexdigest()
    recorded = manifest.split('"reference.npz": "')[1][:64]
    (folder / "manifest.json").write_text(manifest.replace(recorded, digest))
    signed(folder)
    refused(orin, folder, 4, "its pictures are uint8 [3, 8, 8], not [3, 32, 32]", capsys=capsys)


# ---------------------------------------------------------------------- hostile archives


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type = kind
    for key, value in more.items():
        setattr(found, key, value)
    return found


HOSTILE = {
    "absolute": [member("/etc/cron.d/evil", size=1)],
    "absolute, short": [member("/evil", size=1)],
    "above": [member("../evil", size=1)],
    "above, deep": [member("net/../../evil", size=1)],
    "nested": [member("net/deep/evil", size=1)],
    "two folders": [member("a/x", size=1), member("b/y", size=1)],
    "twice": [member("net/x", size=1), member("net/x", size=1)],
    "hidden": [member("net/.bashrc", size=1)],
    "link": [member("net/graph.onnx", tarfile.SYMTYPE, linkname="/etc/passwd")],
    "hard link": [member("net/graph.onnx", tarfile.LNKTYPE, linkname="../../etc/passwd")],
    "device": [member("net/graph.onnx", tarfile.CHRTYPE)],
    "fifo": [member("net/graph.onnx", tarfile.FIFOTYPE)],
    "many": [member(f"net/{i}", size=1) for i in range(80)],
    "no name": [member("", size=1)],
}


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tar(kind: str, tmp_path: Path, orin: Device, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "carried" / "evil.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for each in HOSTILE[kind]:
            tar.addfile(each, io.BytesIO(b"x") if each.size else None)
    said = "twice" if kind == "twice" else "was not packed by a builder"
    refused(orin, path, 4, said, capsys=capsys)
    assert [p.name for p in path.parent.iterdir()] == ["evil.tar"]
    assert not (tmp_path / "evil").exists()


@pytest.mark.usefixtures("no_compiler")
def test_a_tar_that_claims_more_than_it_holds(
    tmp_path: Path, orin: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.tar"
    path.write_bytes(member("net/graph.onnx", size=8 << 30).tobuf(tarfile.GNU_FORMAT) + b"x" * 1024)
    refused(orin, path, 4, "it holds more than a bundle does", capsys=capsys)


@pytest.mark.usefixtures("no_compiler")
def test_a_sparse_file_of_gigabytes(tmp_path: Path, orin: Device, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evil.tar"
    with (tmp_path / "graph.onnx").open("wb") as file:
        file.truncate(8 << 30)
    subprocess.run(["tar", "--sparse", "-cf", str(path), "graph.onnx"], cwd=tmp_path, check=True)
    (tmp_path / "graph.onnx").unlink()
    refused(orin, path, 4, "was not packed by a builder", capsys=capsys)


@pytest.mark.usefixtures("no_compiler")
def test_a_compressed_tar_is_not_unpacked(
    tar: Path, orin: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["gzip", str(tar)], check=True)
    refused(orin, tar.with_name(tar.name + ".gz"), 4, "is not a whole .tar", capsys=capsys)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("seed", range(40))
def test_a_tar_with_noise_in_it(
    seed: int, tar: Path, orin: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """Headers and contents alike: whatever it does to them, it is noticed."""
    random = np.random.default_rng(seed)
    content = np.frombuffer(tar.read_bytes(), np.uint8).copy()
    names = np.flatnonzero(content)  # padding may change without harm
    where = random.choice(names, 20)
    content[where] = random.integers(0, 256, 20)
    tar.write_bytes(content.tobytes())
    refused(orin, tar, 4, str(tar), capsys=capsys)


# ---------------------------------------------------------------------- the device


@pytest.mark.usefixtures("no_compiler")
def test_the_wrong_gpu(tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with device(HOPPER, tmp_path) as there:
        said = ("they need compute capability 8.7, here is NVIDIA H200 (9.0)", "Jetson AGX Orin")
        refused(there, tar, 5, *said, capsys=capsys)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize(
    ("board", "absent", "said"),
    [
        (ORIN, "tensorrt", "nvidia-jetpack"),
        (ORIN, "pycuda", "pip install '.[gpu]'"),
        (HOPPER, "tensorrt", "pip install '.[trt]'"),
    ],
)
def test_a_package_that_is_missing(
    board: Board, absent: str, said: str, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = built / "tars" / f"net-{board.target}-fast.tar"
    with device(board, tmp_path, **{absent: None}) as there:
        refused(there, bundle, 5, f"{absent} not installed", "the bundle stays", said, capsys=capsys)


def test_tensorrt_that_is_listed_and_cannot_be_imported(
    tar: Path, orin: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    refused(orin, tar, 2, "needs the package 'tensorrt'", capsys=capsys)


def test_no_driver(tar: Path, orin: Device, capsys: pytest.CaptureFixture[str]) -> None:
    orin.cuda.present = False
    refused(orin, tar, 5, "no NVIDIA driver", capsys=capsys)


def test_no_room_on_the_gpu(tar: Path, orin: Device, capsys: pytest.CaptureFixture[str]) -> None:
    orin.cuda.fail_next("cuMemHostAlloc", "CUDA_ERROR_OUT_OF_MEMORY")
    refused(orin, tar, 5, "CUDA_ERROR_OUT_OF_MEMORY", capsys=capsys)


def test_a_gpu_that_dies_while_it_is_timed(
    tar: Path, orin: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    orin.cuda.fail_next("cuEventSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS", after=5)
    refused(orin, tar, 5, "CUDA_ERROR_ILLEGAL_ADDRESS", capsys=capsys)


def miscompiled(request: CompileRequest, progress: Any = None) -> Any:
    """A compiler that loses the sign of a layer's weights."""
    model = onnx.load_from_string(request.graph)
    output = model.graph.output[0].name
    (last,) = (node for node in model.graph.node if output in node.output)
    last.output[0] = "right"
    model.graph.node.append(onnx.helper.make_node("Neg", ["right"], [output], name="wrong"))
    return compile_engine(dataclasses.replace(request, graph=model.SerializeToString(), plan=()), progress)


def test_an_engine_that_computes_something_else_there(
    tar: Path, orin: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finish, "compile_engine", miscompiled)
    said = (
        "orin/fast fails its accuracy gate on Jetson AGX Orin",
        "cosine of 'out' is -0.9999",
        "emulated: cosine 0.9999",
        "it was not published",
    )
    refused(orin, tar, 3, *said, capsys=capsys)


def test_where_one_was_verified_before_it_stays(
    tar: Path, orin: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert orin.finish(tar) == 0
    before = orin.manifest()
    monkeypatch.setattr("edge.build.carried.engine_key", lambda *_: "another")
    monkeypatch.setattr(finish, "compile_engine", miscompiled)
    assert orin.finish(tar) == 3
    assert orin.manifest() == before


def test_on_the_way_from_the_model_the_bundle_stays(
    built: Path, tmp_path: Path, orin: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built / "engines", tmp_path / "device")
    before = orin.manifest()
    monkeypatch.setattr(finish, "compile_engine", miscompiled)
    words = ["--onnx", str(built / "net.onnx"), "--calib", str(built / "pictures"), "--targets", "orin"]
    assert orin.build(*words, "--variants", "fast") == 3
    assert orin.manifest() == before and before.state == "bundle"


def test_ctrl_c_while_compiling(
    tar: Path, orin: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(request: CompileRequest, progress: Any = None) -> Any:
        def press(*_: object) -> None:
            raise KeyboardInterrupt

        return compile_engine(request, press)

    monkeypatch.setattr(finish, "compile_engine", interrupted)
    before = contents(tar)
    assert orin.finish(tar) == 130
    assert "edge: interrupted" in capsys.readouterr().err
    assert orin.published == [] and contents(tar) == before


def test_ctrl_c_while_timing(
    tar: Path, orin: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finish, "_timed", press)
    assert orin.finish(tar) == 130
    assert orin.published == []


def test_a_full_disk_while_publishing(
    tar: Path, orin: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(source: Path, destination: Path) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(destination))

    with monkeypatch.context() as patch:
        patch.setattr("edge.store._copy", full)
        refused(orin, tar, 5, "cannot publish net/orin/fast", "free some space", capsys=capsys)
    assert orin.finish(tar) == 0


def test_a_full_disk_while_unpacking(
    tar: Path, orin: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        refused(orin, tar, 4, "cannot unpack", "No space left on device", capsys=capsys)


def test_one_that_fails_costs_no_other(
    built: Path, tar: Path, orin: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    good = built / "tars" / "net-orin-exact.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    assert orin.finish(tar, built / "tars" / "net-hopper-fast.tar", good) == 4  # the first one's
    assert [row["state"] for row in orin.rows] == ["failed", "failed", "verified"]
    error = capsys.readouterr().err
    assert "net-orin-fast.tar failed: " in error and "net-hopper-fast.tar failed: " in error
    assert orin.manifest("exact").state == "verified"


@pytest.mark.parametrize("option", ["--calib", "--size", "--name", "--targets", "--variants", "--bundles"])
def test_options_that_a_bundle_has_no_use_for(
    option: str, tar: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--bundle", str(tar), option, "x"]) == 2
    assert f"{option} is not for --bundle" in capsys.readouterr().err
