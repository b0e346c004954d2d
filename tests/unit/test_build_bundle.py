"""A bundle: samples that come back exactly, files that check themselves, a .tar that is always the same."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import bundles
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.build import bundle, reference
from edge.build.bundle import documents, opened, tar_name, write_tar
from edge.build.reference import COUNT, LIMIT_BYTES, ReferenceSamples, load, take
from edge.config import InputConfig
from edge.errors import InputError, RuntimeFault, StoreError
from edge.manifest import MANIFEST, SUMS, Manifest
from edge.preprocess import Preprocess
from edge.store import Store
from edge.targets import TARGETS

ROOT = Path(__file__).parents[2]
INPUT = InputConfig(size=(24, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), pad=114)


def cases(count: int, config: InputConfig = INPUT, nbytes: int = 64) -> Iterator[tuple[Any, Any]]:
    """Noise pictures as the network reads them, and some outputs."""
    random = np.random.default_rng(0)
    for index in range(count):
        image = random.integers(0, 256, (20 + index, 40, 3), np.uint8)
        tensor, _ = Preprocess(config).batch([image])
        yield {"image": tensor}, {"a/b:0": random.normal(size=(1, nbytes // 4)).astype(np.float32)}


def saved(samples: ReferenceSamples, path: Path) -> Path:
    samples.save(path)
    return path


class TestReference:
    @settings(max_examples=30, deadline=None)
    @given(
        scale=st.sampled_from([1 / 255, 1.0, 0.017, 1e-30]),
        mean=st.floats(-200, 200),
        std=st.sampled_from([1.0, 0.226, -0.5, 58.0, 1e20]),
        pad=st.integers(0, 255),
        fit=st.sampled_from(["letterbox", "stretch", "crop"]),
        channels=st.sampled_from([1, 3]),
    )
    def test_what_the_network_read_comes_back_bit_for_bit(
        self, tmp_path_factory: pytest.TempPathFactory, channels: Any, **how: Any
    ) -> None:
        config = InputConfig(
            size=(24, 32), channels=channels, **{**how, "mean": (how["mean"],), "std": (how["std"],)}
        )
        path = saved(take(cases(2, config), config), tmp_path_factory.mktemp("x") / "reference.npz")
        found = load(path, config, ["a/b:0"])
        assert found.pixels.dtype == np.uint8
        for (feeds, outputs), (wanted, right) in zip(found.samples(config), cases(2, config), strict=True):
            np.testing.assert_array_equal(feeds["image"], wanted["image"])
            assert feeds["image"].dtype == np.float32
            np.testing.assert_array_equal(outputs["a/b:0"], right["a/b:0"])

    def test_the_first_four_travel(self) -> None:
        assert len(take(cases(9), INPUT)) == COUNT == 4
        assert len(take(cases(3), INPUT)) == 3

    @pytest.mark.parametrize(("nbytes", "count"), [(LIMIT_BYTES // 2, 1), (LIMIT_BYTES // 3, 2)])
    def test_fewer_if_they_are_large(self, nbytes: int, count: int) -> None:
        found = take(cases(4, nbytes=nbytes), INPUT)
        assert len(found) == count
        assert found.pixels.nbytes + sum(v.nbytes for v in found.outputs.values()) <= LIMIT_BYTES

    def test_one_even_if_it_is_too_large(self) -> None:
        assert len(take(cases(4, nbytes=LIMIT_BYTES + 4), INPUT)) == 1

    def test_an_input_that_comes_through_no_table_is_kept_as_it_is(self, tmp_path: Path) -> None:
        tensor = np.random.default_rng(0).normal(size=(1, 3, 24, 32)).astype(np.float32)
        found = take([({"image": tensor}, {"y": np.ones((1, 2), np.float32)})], INPUT)
        assert found.pixels.dtype == np.float32
        (feeds, _), *_ = load(saved(found, tmp_path / "r.npz"), INPUT, ["y"]).samples(INPUT)
        np.testing.assert_array_equal(feeds["image"], tensor)

    def test_the_same_samples_give_the_same_bytes(self, tmp_path: Path) -> None:
        first, second = (saved(take(cases(4), INPUT), tmp_path / name) for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"outputs": {"y": np.ones((1, 2), np.float32)}}, "it has the outputs y, the engine has a/b:0"),
            ({"pixels": np.zeros((2, 3, 32, 24), np.uint8)}, r"its pictures are uint8 \[3, 32, 24\]"),
            ({"pixels": np.zeros((2, 3, 24, 32), np.int64)}, "its pictures are int64"),
            ({"pixels": np.zeros((0, 3, 24, 32), np.uint8)}, "it holds no sample"),
            ({"outputs": {"a/b:0": np.full((2, 1, 3), np.nan, np.float32)}}, "not 2 finite float32"),
            ({"outputs": {"a/b:0": np.ones((1, 1, 3), np.float32)}}, "not 2 finite float32"),
            ({"outputs": {"a/b:0": np.ones((2, 1, 3))}}, "not 2 finite float32"),
        ],
    )
    def test_one_of_another_engine_is_refused(
        self, change: dict[str, Any], said: str, tmp_path: Path
    ) -> None:
        samples = dataclasses.replace(take(cases(2), INPUT), **change)
        with pytest.raises(InputError, match=said):
            load(saved(samples, tmp_path / "r.npz"), INPUT, ["a/b:0"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of bundles, and their .tar files in `tars`; to be read only."""
    folder = tmp_path_factory.mktemp("shop")
    bundles(folder)
    return folder


@pytest.fixture
def tar(shop: Path) -> Path:
    return shop / "tars" / "net-orin-fast.tar"


class TestPacking:
    def test_each_bundle_is_one_tar(self, shop: Path) -> None:
        assert {p.name for p in (shop / "tars").iterdir()} == {
            f"net-{target}-{variant}.tar" for target in ("orin", "hopper") for variant in ("fast", "exact")
        }

    def test_the_same_engine_gives_the_same_bytes(self, shop: Path, tar: Path, tmp_path: Path) -> None:
        entry = Store(shop / "engines").find("net", "orin", "fast")
        for file in entry.path.iterdir():
            os.utime(file, (1, 1))
        assert write_tar(entry, tmp_path).read_bytes() == tar.read_bytes()

    def test_it_tells_nothing_of_the_machine_that_packed_it(self, tar: Path) -> None:
        with tarfile.open(tar, "r:") as packed:
            members = packed.getmembers()
        assert [m.name for m in members] == sorted(m.name for m in members)
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
        assert {m.name.split("/")[0] for m in members} == {"net-orin-fast"}

    def test_the_systems_tools_unpack_and_check_it(self, tar: Path, tmp_path: Path) -> None:
        subprocess.run(["tar", "xf", str(tar)], cwd=tmp_path, check=True)
        check = ["sha256sum", "--strict", "-c", SUMS]
        done = subprocess.run(check, cwd=tmp_path / "net-orin-fast", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        listed = {line.split(":")[0] for line in done.stdout.splitlines()}
        assert listed == {"README.txt", "finish.sh", "graph.onnx", MANIFEST, "reference.npz"}

    def test_a_damaged_engine_is_not_packed(self, tmp_path: Path) -> None:
        entry = Store(bundles(tmp_path, targets="orin").parent / "engines").find("net", "orin", "fast")
        (entry.path / "graph.onnx").write_bytes(b"other")
        with pytest.raises(StoreError, match="cannot be used"):
            write_tar(entry, tmp_path / "elsewhere")
        assert not (tmp_path / "elsewhere").exists()

    def test_a_folder_that_cannot_be_written_is_named(self, shop: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        entry = Store(shop / "engines").find("net", "orin", "fast")
        with pytest.raises(RuntimeFault, match=r"cannot write .*net-orin-fast\.tar"):
            write_tar(entry, tmp_path / "file")

    def test_a_full_disk_leaves_the_older_tar(
        self, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry = Store(shop / "engines").find("net", "orin", "fast")
        path = write_tar(entry, tmp_path)
        before = path.read_bytes()

        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(bundle, "_add", full)
        with pytest.raises(RuntimeFault, match="No space left on device") as caught:
            write_tar(entry, tmp_path)
        assert caught.value.fix == "free some space"
        assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before


class TestOpening:
    def test_a_tar_and_its_folder_are_the_same_bundle(self, tar: Path, tmp_path: Path) -> None:
        subprocess.run(["tar", "xf", str(tar)], cwd=tmp_path, check=True)
        with opened(tar) as packed, opened(tmp_path / "net-orin-fast") as folder:
            assert packed.manifest == folder.manifest
            assert packed.graph.read_bytes() == folder.graph.read_bytes()
            assert packed.manifest.state == "bundle" and tar_name(packed.manifest) == tar.name

    def test_what_was_unpacked_is_gone_afterwards(self, tar: Path) -> None:
        with opened(tar) as packed:
            assert packed.folder.is_dir()
        assert not packed.folder.exists()

    @pytest.mark.parametrize("options", [["-C", "net-orin-fast", "."], ["--format=gnu", "net-orin-fast"]])
    def test_one_that_somebody_packed_again_is_as_good(
        self, options: list[str], tar: Path, tmp_path: Path
    ) -> None:
        subprocess.run(["tar", "xf", str(tar)], cwd=tmp_path, check=True)
        (tmp_path / "net-orin-fast" / "notes.txt").write_text("carried by hand")
        subprocess.run(["tar", "cf", "again.tar", *options], cwd=tmp_path, check=True)
        with opened(tmp_path / "again.tar") as packed:
            assert packed.manifest.target == "orin"


class TestDocuments:
    def test_they_name_the_device_and_how_to_finish(self, tmp_path: Path) -> None:
        written = documents(tmp_path, TARGETS["thor"])
        readme, script = (path.read_text() for path in written.values())
        assert "Jetson AGX Thor" in readme and "11.0" in readme and "10.13" in readme
        assert "sha256sum -c SHA256SUMS" in readme and "sh finish.sh" in readme
        assert "Jetson AGX Thor" in script and "10.13" in script

    @pytest.fixture
    def unpacked(self, tar: Path, tmp_path: Path) -> Path:
        subprocess.run(["tar", "xf", str(tar)], cwd=tmp_path, check=True)
        return tmp_path / "net-orin-fast"

    def sh(self, folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, **environment}
        return subprocess.run(
            ["sh", str(folder / "finish.sh"), *words],
            cwd=folder.parent,
            capture_output=True,
            text=True,
            env=environment,
        )

    def test_the_script_starts_the_build_with_what_it_is_given(self, unpacked: Path) -> None:
        done = self.sh(unpacked, "--out", "mine", "--calib", "x")
        assert done.returncode == 2 and "--calib is not for --bundle" in done.stderr

    def test_without_the_package_it_says_what_to_install(self, unpacked: Path) -> None:
        done = self.sh(unpacked, PYTHONPATH="", PYTHON="false")
        assert done.returncode == 2
        assert "the package 'edge' is not installed" in done.stderr and "JetPack" in done.stderr

    def test_it_checks_the_hashes_even_without_python(self, unpacked: Path) -> None:
        (unpacked / "graph.onnx").write_bytes(b"half of it")
        done = self.sh(unpacked, PYTHON="false")
        assert done.returncode == 4 and "is damaged" in done.stderr


def test_manifests_of_before_still_load(shop: Path) -> None:
    entry = Store(shop / "engines").find("net", "orin", "fast")
    content = json.loads((entry.path / MANIFEST).read_text())
    for name in ("recipe", "latency", "gpu", "verified_at"):
        del content[name]
    del content["accuracy"]["promised"], content["builder"]["timing_cache"]
    found = Manifest.model_validate(content)
    assert found.latency is None and found.gpu is None and found.recipe == ""


def test_a_reference_that_claims_more_than_it_holds_is_not_unpacked(tmp_path: Path) -> None:
    """An array's header is read first: it may claim any size."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 3, 24, 32)}
    )
    with zipfile.ZipFile(tmp_path / "r.npz", "w") as archive:
        archive.writestr("input.npy", header.getvalue() + b"12345")
    with pytest.raises(InputError, match=r"claims \d+ bytes and holds"):
        load(tmp_path / "r.npz", INPUT, [])


def test_a_reference_that_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "LOAD_LIMIT_BYTES", 1000)
    with pytest.raises(InputError, match="claims"):
        load(saved(take(cases(4), INPUT), tmp_path / "r.npz"), INPUT, ["a/b:0"])
