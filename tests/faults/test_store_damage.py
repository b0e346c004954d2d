"""Whatever happens to the files of a published engine, it is refused and the error says which and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stores import manifest

from edge.errors import StoreError
from edge.store import Entry, Store

pytestmark = pytest.mark.usefixtures("no_sync")

Damage = Callable[[Entry], Any]


@pytest.fixture
def entry(store: Store, tmp_path: Path) -> Entry:
    (tmp_path / "built").write_bytes(bytes(range(256)) * 64)
    return store.publish(manifest(), {"engine.onnx": tmp_path / "built", "notes.txt": tmp_path / "built"})


def edit(**changes: Any) -> Damage:
    """Rewrite keys of the manifest; None removes one."""

    def damage(entry: Entry) -> None:
        path = entry.path / "manifest.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return damage


def write(name: str, content: bytes) -> Damage:
    return lambda entry: (entry.path / name).write_bytes(content)


def flip_one_bit(entry: Entry) -> None:
    content = bytearray(entry.engine.read_bytes())
    content[len(content) // 2] ^= 1
    entry.engine.write_bytes(content)


def cut_in_half(entry: Entry) -> None:
    with entry.engine.open("r+b") as file:
        file.truncate(entry.engine.stat().st_size // 2)


DAMAGE: dict[str, tuple[Damage, str]] = {
    "one bit flipped": (flip_one_bit, "engine.onnx is not the file that was published"),
    "half written": (cut_in_half, "engine.onnx is not the file that was published"),
    "engine missing": (lambda e: e.engine.unlink(), "engine.onnx: No such file"),
    "other file missing": (lambda e: (e.path / "notes.txt").unlink(), "notes.txt: No such file"),
    "engine is a folder": (lambda e: (e.engine.unlink(), e.engine.mkdir()), "engine.onnx: Is a directory"),
    "manifest missing": (lambda e: (e.path / "manifest.json").unlink(), "manifest.json: No such file"),
    "manifest empty": (write("manifest.json", b""), "manifest.json is not JSON"),
    "manifest cut": (write("manifest.json", b'{"schema": 1, "model": "ne'), "manifest.json is not JSON"),
    "manifest not text": (write("manifest.json", b"\xff\xfe\x00garbage"), "manifest.json is not JSON"),
    "manifest a list": (write("manifest.json", b"[]"), "not a JSON object"),
    "a later schema": (edit(schema=2), "schema 2, this version reads 1"),
    "no schema": (edit(schema=None), "schema None"),
    "a key missing": (edit(backend=None), "backend: Field required"),
    "a wrong type": (edit(size_bytes="many"), "size_bytes"),
    "an unknown state": (edit(state="perfect"), "state"),
    "another engine's manifest": (edit(target="ada"), "belongs to net/ada/fast/k1"),
    "no hash for the engine": (edit(files={}), "lists no hash for its engine file"),
    "a file outside": (
        edit(files={"engine.onnx": "0", "../../x": "0"}),
        "'../../x', which is not a file name",
    ),
    "current empty": (lambda e: (e.path.parent / "current").write_text(""), "current does not hold a key"),
    "current leads out": (lambda e: (e.path.parent / "current").write_text("../.."), "does not hold a key"),
    "current leads nowhere": (lambda e: (e.path.parent / "current").write_text("k9"), "k9"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_engine_is_refused_and_named(store: Store, entry: Entry, damage: Damage, says: str) -> None:
    damage(entry)
    with pytest.raises(StoreError) as e:
        store.find("net", "cpu", "fast")
    assert says in str(e.value)
    assert str(entry.path.parent) in e.value.what
    assert "edge build" in e.value.fix
    assert e.value.exit_code == 5


@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE)
def test_building_again_repairs_it(
    store: Store, entry: Entry, damage: Damage, says: str, tmp_path: Path
) -> None:
    damage(entry)
    store.publish(entry.manifest, {"engine.onnx": tmp_path / "built", "notes.txt": tmp_path / "built"})
    assert store.find("net", "cpu", "fast").engine.read_bytes() == (tmp_path / "built").read_bytes()
