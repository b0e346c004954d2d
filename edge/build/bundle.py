"""A bundle: all that an engine is finished from on its device, as one folder or one .tar that checks itself.

    manifest.json   what the engine is to be, and how accurate emulation found it
    graph.onnx      the network with its precisions written in
    reference.npz   a few held-out samples with their fp32 results
    SHA256SUMS      hashes of all the others: `sha256sum -c SHA256SUMS`
    README.txt      what this is, for whoever finds it
    finish.sh       finishes it

Hashes tell damage, not malice: nothing here is signed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from edge.build.reference import REFERENCE
from edge.errors import InputError, RuntimeFault, StoreError
from edge.manifest import MANIFEST, SUMS, Entry, Manifest, is_plain, parse_manifest, sha256
from edge.targets import Target

GRAPH = "graph.onnx"
README = "README.txt"
SCRIPT = "finish.sh"
NEEDED = (MANIFEST, GRAPH, REFERENCE)
"""What a bundle cannot do without."""
MOST_FILES = 64
_AGAIN = "copy it again from the machine that built it"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose every byte was checked.

    Attributes:
        folder: where its files are.
        origin: what the user called it: the folder or the .tar.
    """

    folder: Path
    manifest: Manifest
    origin: Path

    @property
    def graph(self) -> Path:
        return self.folder / GRAPH

    @property
    def reference(self) -> Path:
        return self.folder / REFERENCE


def documents(folder: Path, target: Target) -> dict[str, Path]:
    """Write README.txt and finish.sh for engines of this target; name → path."""
    facts = {
        "device": target.devices[0],
        "target": target.name,
        "capability": target.capability_text,
        "tensorrt": ".".join(map(str, target.min_tensorrt or (10, 3))),
    }
    written = {}
    for name in (README, SCRIPT):
        template = resources.files("edge.build").joinpath(f"bundle_{name}").read_text(encoding="utf-8")
        written[name] = folder / name
        written[name].write_text(Template(template).substitute(facts), encoding="utf-8")
    return written


def finishable(manifest: Manifest) -> bool:
    """Whether the engine's folder has all that a bundle needs."""
    return {GRAPH, REFERENCE} <= set(manifest.files)


# ---------------------------------------------------------------------- writing


def tar_name(manifest: Manifest) -> str:
    return f"{manifest.model}-{manifest.target}-{manifest.variant}.tar"


def write_tar(entry: Entry, folder: Path) -> Path:
    """Pack an engine of the store as `<model>-<target>-<variant>.tar`; the same engine gives the same bytes.

    Raises:
        StoreError: the engine is damaged.
        RuntimeFault: the file cannot be written; a file of that name is still what it was.
    """
    entry.verify()
    path = folder / tar_name(entry.manifest)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted((MANIFEST, SUMS, *entry.manifest.files)):
                _add(tar, entry.path / name, f"{path.stem}/{name}")
        temporary.replace(path)
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space" if full else f"check that {folder} can be written"
        raise RuntimeFault(f"cannot write {path}", e.strerror or str(e), fix) from e
    finally:
        with suppress(OSError):  # it is not there
            temporary.unlink()
    return path


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """A member without times and owners, which differ from machine to machine."""
    member = tarfile.TarInfo(name)
    member.size = path.stat().st_size
    member.mode = 0o755 if path.suffix == ".sh" else 0o644
    with path.open("rb") as file:
        tar.addfile(member, file)


# ---------------------------------------------------------------------- reading


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle at `path`, a folder or a .tar, with every byte checked.

    Raises:
        InputError: it is not there, no bundle, damaged, or packed in a way that no builder packs.
    """
    if path.is_dir():
        yield _checked(path, path)
        return
    with tempfile.TemporaryDirectory(prefix="edge-bundle-") as folder:
        _unpack(path, Path(folder))
        yield _checked(Path(folder), path)


def _checked(folder: Path, origin: Path) -> Bundle:
    sums = _sums(folder, origin)
    for name, recorded in sorted(sums.items()):
        try:
            found = sha256(folder / name)
        except OSError as e:
            raise _damaged(origin, f"{name}: {e.strerror}") from e
        if found != recorded:
            raise _damaged(origin, f"{name} is not the file that was bundled (sha256 differs)")
    try:
        manifest = parse_manifest(folder)
    except StoreError as e:
        raise _damaged(origin, e.why) from e
    contradicted = [name for name, digest in manifest.files.items() if sums.get(name, digest) != digest]
    if contradicted:
        raise _damaged(origin, f"{MANIFEST} and {SUMS} differ about {contradicted[0]}")
    return Bundle(folder, manifest, origin)


def _sums(folder: Path, origin: Path) -> dict[str, str]:
    """SHA256SUMS, name → hash: what `sha256sum` writes."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as e:
        raise InputError(
            f"{origin} is not a bundle",
            f"it holds no {SUMS}",
            "give the .tar, or its unpacked folder",
        ) from e
    except (OSError, UnicodeDecodeError) as e:
        raise _damaged(origin, f"{SUMS}: {e}") from e
    found = {}
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None or not is_plain(match[2]):
            raise _damaged(origin, f"{SUMS} has a line that is no hash and file name: {line[:80]!r}")
        found[match[2]] = match[1]
    absent = [name for name in NEEDED if name not in found]
    if absent:
        raise _damaged(origin, f"{SUMS} does not list {', '.join(absent)}")
    return found


def _unpack(path: Path, folder: Path) -> None:
    """Plain files of one folder, and nothing else, out of an uncompressed tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in _plain_members(tar, path):
                source = tar.extractfile(member)
                assert source is not None  # it is a regular file
                with source, (folder / Path(member.name).name).open("xb") as copy:
                    shutil.copyfileobj(source, copy)
    except InputError:  # an OSError too
        raise
    except FileNotFoundError as e:
        raise InputError(f"cannot read {path}", "there is no such file or folder", "check --bundle") from e
    except FileExistsError as e:
        raise _damaged(path, f"it holds {Path(str(e.filename)).name} twice") from e
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as e:
        raise _damaged(path, f"it is not a whole .tar: {e}") from e
    except OSError as e:
        fix = "check that it can be read, and that there is room for temporary files"
        raise InputError(f"cannot unpack {path}", f"{e.strerror or e} ({e.filename or folder})", fix) from e


def _plain_members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The files to extract; an uncompressed tar cannot hold more than its own size, unless it lies."""
    parents, room = set(), path.stat().st_size
    for count, member in enumerate(tar):
        parts = member.name.split("/")
        room -= max(member.size, 0)
        if count == MOST_FILES or room < 0 or member.size < 0:
            raise _suspicious(path, "it holds more than a bundle does")
        if member.isdir() and len(parts) == 1 and parts[0] not in ("", ".."):
            continue
        parents.add("/".join(parts[:-1]))
        depth_ok = len(parts) == 1 or (len(parts) == 2 and parts[0] not in ("", ".."))
        if not member.isreg() or member.issparse() or not depth_ok or not is_plain(parts[-1]):
            raise _suspicious(path, f"{member.name[:80]!r} is not a plain file in the bundle's folder")
        if len(parents) > 1:
            raise _suspicious(path, "its files are in several folders")
        yield member


def _damaged(origin: Path, why: str) -> InputError:
    return InputError(f"the bundle {origin} is damaged", f"{why}; nothing was compiled", _AGAIN)


def _suspicious(origin: Path, why: str) -> InputError:
    return InputError(
        f"the bundle {origin} was not packed by a builder", f"{why}; nothing of it was used", _AGAIN
    )
