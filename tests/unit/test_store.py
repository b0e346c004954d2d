"""The engine store: publish, look up, refuse."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import manifest

from edge.errors import StoreError, UsageError
from edge.machine import INT8_DOT, Gpu, Machine
from edge.store import Entry, Store, check_machine

pytestmark = pytest.mark.usefixtures("no_sync")


@pytest.fixture
def publish(store: Store, tmp_path: Path) -> Callable[..., Entry]:
    def publish(content: bytes = b"engine", **fields: object) -> Entry:
        source = tmp_path / "built.onnx"
        source.write_bytes(content)
        return store.publish(manifest(**fields), {"engine.onnx": source})  # type: ignore[arg-type]

    return publish


class TestPublish:
    def test_what_was_published_is_found(self, store: Store, publish: Callable[..., Entry]) -> None:
        publish(b"some bytes", reason="because")
        entry = store.find("net", "cpu", "fast")
        assert entry.engine.read_bytes() == b"some bytes"
        assert entry.manifest.reason == "because"
        assert entry.manifest.size_bytes == 10
        assert entry.manifest.plan[0].precision == "int8"

    def test_the_layout_on_disk(self, store: Store, publish: Callable[..., Entry]) -> None:
        publish(key="abc")
        folder = store.root / "net" / "cpu" / "fast"
        assert (folder / "current").read_text() == "abc\n"
        assert json.loads((folder / "abc" / "manifest.json").read_text())["schema"] == 1
        assert {p.name for p in folder.iterdir()} == {".lock", "abc", "current"}

    def test_a_new_key_becomes_live_and_the_one_before_stays(
        self, store: Store, publish: Callable[..., Entry]
    ) -> None:
        for key in ("k1", "k2", "k3"):
            publish(key.encode(), key=key)
        folder = store.root / "net" / "cpu" / "fast"
        assert store.find("net", "cpu", "fast").manifest.key == "k3"
        assert {p.name for p in folder.iterdir() if p.is_dir()} == {"k2", "k3"}

    def test_going_back_to_the_key_before_copies_nothing(
        self, store: Store, publish: Callable[..., Entry]
    ) -> None:
        first = publish(b"1", key="k1")
        made = first.engine.stat().st_ino
        publish(b"2", key="k2")
        again = publish(b"1", key="k1")
        assert again.engine.stat().st_ino == made
        assert store.find("net", "cpu", "fast").manifest.key == "k1"

    def test_a_damaged_engine_with_the_same_key_is_replaced(
        self, store: Store, publish: Callable[..., Entry]
    ) -> None:
        publish(b"good").engine.write_bytes(b"evil")
        publish(b"good")
        assert store.find("net", "cpu", "fast").engine.read_bytes() == b"good"

    def test_variants_and_targets_do_not_touch_each_other(
        self, store: Store, publish: Callable[..., Entry]
    ) -> None:
        publish(b"a", variant="fast")
        publish(b"b", variant="exact")
        publish(b"c", target="ada")
        found = {e.manifest.address: e.engine.read_bytes() for e in store.entries("net")}
        assert found == {"net/ada/fast": b"c", "net/cpu/exact": b"b", "net/cpu/fast": b"a"}

    @pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "current"])
    def test_a_name_that_leaves_the_store_is_refused(self, publish: Callable[..., Entry], name: str) -> None:
        with pytest.raises(UsageError):
            publish(target=name)

    @pytest.mark.parametrize("name", ["../engine.onnx", "manifest.json", "/etc/passwd", ".x"])
    def test_a_file_name_that_leaves_the_folder_is_refused(
        self, store: Store, tmp_path: Path, name: str
    ) -> None:
        (tmp_path / "f").write_bytes(b"x")
        with pytest.raises(UsageError):
            store.publish(manifest(), {"engine.onnx": tmp_path / "f", name: tmp_path / "f"})

    def test_the_engine_file_has_to_be_among_the_files(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x")
        with pytest.raises(UsageError, match=r"engine\.onnx"):
            store.publish(manifest(), {"other.onnx": tmp_path / "f"})

    def test_a_source_file_that_vanished_leaves_nothing(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="No such file"):
            store.publish(manifest(), {"engine.onnx": tmp_path / "gone"})
        assert {p.name for p in (store.root / "net/cpu/fast").iterdir()} == {".lock"}


class TestLookUp:
    def test_an_empty_store_has_nothing(self, store: Store) -> None:
        assert store.entries() == []
        assert store.current("net", "cpu", "fast") is None
        assert store.cached("net", "cpu", "fast", "k1") is None

    def test_an_absent_model_gets_the_nearest(self, store: Store, publish: Callable[..., Entry]) -> None:
        publish(model="yolox_nano")
        with pytest.raises(UsageError, match="did you mean 'yolox_nano'") as e:
            store.find("yolox_mano", "cpu", "fast")
        assert "edge build --model yolox_mano" in e.value.fix

    def test_an_absent_target_gets_what_was_built(self, store: Store, publish: Callable[..., Entry]) -> None:
        publish()
        with pytest.raises(UsageError, match="built are cpu/fast"):
            store.find("net", "ada", "fast")

    def test_cached_looks_at_keys_that_are_not_live(
        self, store: Store, publish: Callable[..., Entry]
    ) -> None:
        publish(b"1", key="k1")
        publish(b"2", key="k2")
        entry = store.cached("net", "cpu", "fast", "k1")
        assert entry is not None and entry.engine.read_bytes() == b"1"

    def test_a_damaged_engine_is_not_cached(self, store: Store, publish: Callable[..., Entry]) -> None:
        publish().engine.unlink()
        assert store.cached("net", "cpu", "fast", "k1") is None

    def test_scan_reports_damage_and_goes_on(self, store: Store, publish: Callable[..., Entry]) -> None:
        publish(variant="exact")
        (publish().path / "manifest.json").unlink()
        kinds = [type(found) for found in store.scan()]
        assert kinds == [Entry, StoreError]
        assert [e.manifest.variant for e in store.entries()] == ["exact"]


names = st.sampled_from(["a", "b", "c"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(names, names, names, st.sampled_from(["k1", "k2", "k3"])), max_size=8))
def test_the_last_published_key_is_the_live_one(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, str, str, str]]
) -> None:
    """Against the simplest model of a store: a dictionary."""
    root = tmp_path_factory.mktemp("store")
    store, model = Store(root / "engines"), {}
    for *place, key in history:
        content = "/".join((*place, key)).encode()
        (root / "file").write_bytes(content)
        store.publish(manifest(*place, key), {"engine.onnx": root / "file"})
        model[tuple(place)] = content
    found = {
        (m.model, m.target, m.variant): e.engine.read_bytes() for e in store.entries() if (m := e.manifest)
    }
    assert found == model
    for place in model:
        assert store.find(*place).engine.read_bytes() == model[place]


def test_coreutils_alone_can_check_an_engine(publish: Callable[..., Entry]) -> None:
    path = publish().path
    check = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    assert subprocess.run(check, cwd=path, capture_output=True).returncode == 0
    assert "manifest.json" in (path / "SHA256SUMS").read_text()
    (path / "manifest.json").write_text("{}")
    assert subprocess.run(check, cwd=path, capture_output=True).returncode == 1


class TestMachineCheck:
    L4 = Machine("Xeon", "x86_64", frozenset({INT8_DOT, "avx512_vnni"}), gpus=(Gpu("L4", (8, 9)),))
    OLD = Machine("Core i5", "x86_64", frozenset({"avx2"}))

    def test_an_engine_for_this_gpu_is_accepted(self) -> None:
        check_machine(manifest(compute_capability="8.9"), self.L4)

    def test_an_engine_for_another_gpu_is_refused(self) -> None:
        with pytest.raises(StoreError, match=r"compute capability 8\.6; here is L4 \(8\.9\)"):
            check_machine(manifest(compute_capability="8.6"), self.L4)

    def test_a_gpu_engine_on_a_machine_without_one(self) -> None:
        with pytest.raises(StoreError, match="here is no GPU") as e:
            check_machine(manifest(compute_capability="8.9"), self.OLD)
        assert "--target cpu" in e.value.fix

    def test_a_processor_engine_whose_features_are_here(self) -> None:
        check_machine(manifest(requires=[INT8_DOT]), self.L4)
        check_machine(manifest(requires=[]), self.OLD)

    def test_a_processor_engine_that_would_saturate_here(self) -> None:
        with pytest.raises(StoreError, match="saturate") as e:
            check_machine(manifest(requires=[INT8_DOT]), self.OLD)
        assert "edge build --model net --targets cpu" in e.value.fix

    def test_a_bundle_has_to_be_compiled_first(self) -> None:
        with pytest.raises(StoreError, match="bundle") as e:
            check_machine(manifest(state="bundle", compute_capability="8.9"), self.L4)
        assert "sh finish.sh" in e.value.fix
        assert "build_engines.py --bundle engines/net/cpu/fast/k1" in e.value.fix
        assert "edge build" not in e.value.fix
