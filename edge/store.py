"""The engine store: published atomically, looked up by name, nothing half-written is ever loaded.

    engines/<model>/<target>/<variant>/<key>/    manifest.json, the files it lists, SHA256SUMS
    engines/<model>/<target>/<variant>/current   text file: the live key

Everything is written and synced under a hidden name, renamed to its key, and only then `current` is replaced:
whoever reads, and whatever dies in between, finds the old engine or the new one, whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.errors import StoreError, UsageError, nearest
from edge.manifest import (
    CHUNK,
    CURRENT,
    MANIFEST,
    SUMS,
    Accuracy,
    BuilderInfo,
    Entry,
    Manifest,
    OutputAccuracy,
    PlanEntry,
    Tensor,
    broken,
    check_machine,
    is_plain,
    read_manifest,
)

__all__ = [
    "Accuracy",
    "BuilderInfo",
    "Entry",
    "Manifest",
    "OutputAccuracy",
    "PlanEntry",
    "Store",
    "Tensor",
    "check_machine",
    "read_manifest",
]

log = logging.getLogger(__name__)

_LOCK = ".lock"
_STAGING = ".staging-"
_TRASH = ".trash-"


class Store:
    """The engines below one folder. Reading takes no lock; publishers of the same engine queue.

    Args:
        root: the `engines` folder; made when the first engine is published.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, model: str, target: str, variant: str) -> Entry:
        """The live engine, every byte checked.

        Raises:
            UsageError: there is none; says what there is.
            StoreError: it is damaged; says which file and how.
        """
        entry = self._live(model, target, variant, verify=True)
        if entry is None:
            raise self._absent(model, target, variant)
        return entry

    def current(self, model: str, target: str, variant: str) -> Entry | None:
        """The live engine, its files not yet checked; None if nothing was published.

        Raises:
            StoreError: `current` or the manifest cannot be used.
        """
        return self._live(model, target, variant, verify=False)

    def cached(self, model: str, target: str, variant: str, key: str) -> Entry | None:
        """The engine with this key if it is there and whole, live or not; a damaged one counts as absent."""
        path = self._folder(model, target, variant) / key
        if not path.is_dir():
            return None
        try:
            entry = Entry(path, read_manifest(path))
            entry.verify()
        except StoreError as e:
            log.warning("%s", e)
            return None
        return entry

    def entries(self, model: str | None = None) -> list[Entry]:
        """All live engines in name order, files unchecked, without those that `scan` reports as damaged."""
        return [entry for entry in self.scan(model) if isinstance(entry, Entry)]

    def scan(self, model: str | None = None) -> Iterator[Entry | StoreError]:
        """Every live engine, or the reason why it cannot be used."""
        for current in sorted(self.root.glob(f"{model or '*'}/*/*/{CURRENT}")):
            try:
                entry = self.current(*current.parent.relative_to(self.root).parts)
            except StoreError as e:
                yield e
            else:
                if entry is not None:
                    yield entry

    def publish(self, manifest: Manifest, files: Mapping[str, Path]) -> Entry:
        """Copy `files` (name in the store → where it is now) in and make them the live engine.

        A whole engine with the same key is kept as it is. The engine that was live before stays in the
        store; older ones are removed.

        Raises:
            UsageError: the manifest and the files do not fit together.
            StoreError: writing failed (disk full, no permission). The engine that was live still is.
        """
        _check_names(manifest, files)
        folder = self._folder(manifest.model, manifest.target, manifest.variant)
        try:
            self._make(folder)
            with _locked(folder):
                _sweep(folder)
                entry = self._publish(folder, manifest, files)
        except OSError as e:
            raise _unwritable(manifest, folder, e) from e
        return entry

    def _publish(self, folder: Path, manifest: Manifest, files: Mapping[str, Path]) -> Entry:
        """`publish`, with the lock held. Whatever is raised before `current` was replaced leaves no trace."""
        entry = self.cached(manifest.model, manifest.target, manifest.variant, manifest.key)
        staging, path = folder / f"{_STAGING}{uuid.uuid4().hex}", folder / manifest.key
        fresh = entry is None
        try:
            if entry is None:
                entry = Entry(path, _stage(staging, manifest, files))
                _move_in(staging, path)
            previous = _replace_current(folder, manifest.key)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            if fresh and _live_key_or_none(folder) != manifest.key:
                shutil.rmtree(path, ignore_errors=True)
            raise
        if previous != manifest.key:
            _prune(folder, keep={manifest.key, previous or ""})
        return entry

    def _live(self, model: str, target: str, variant: str, verify: bool) -> Entry | None:
        folder = self._folder(model, target, variant)
        key = _live_key(folder)
        while key is not None:
            try:
                entry = Entry(folder / key, read_manifest(folder / key))
                if verify:
                    entry.verify()
                return entry
            except StoreError:
                now = _live_key(folder)
                if now == key:
                    raise
                key = now  # published while we read, and what we read was removed
        return None

    def _make(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for parent in (folder.parent, folder.parent.parent, self.root):
                _sync_folder(parent)

    def _folder(self, model: str, target: str, variant: str) -> Path:
        for name in (model, target, variant):
            if not is_plain(name):
                raise UsageError(f"'{name}' cannot be the name of an engine", "it is used as a folder name")
        return self.root / model / target / variant

    def _absent(self, model: str, target: str, variant: str) -> UsageError:
        """The error for an engine that was never built, naming what was."""
        what = f"no engine {model}/{target}/{variant} in {self.root}"
        known = [e.manifest for e in self.entries()]
        models = {m.model for m in known}
        if model not in models:
            why = f"nothing was built for it{'; ' + nearest(model, models) if models else ''}"
            return UsageError(what, why, f"edge build --model {model} --targets {target}")
        built = sorted({f"{m.target}/{m.variant}" for m in known if m.model == model})
        hint = nearest(f"{target}/{variant}", built)
        if not hint.startswith("did you mean"):
            hint = f"edge build --model {model} --targets {target}"
        return UsageError(what, f"built are {', '.join(built)}", hint)


def _check_names(manifest: Manifest, files: Mapping[str, Path]) -> None:
    if manifest.engine_file not in files:
        raise UsageError(f"{manifest.address}: '{manifest.engine_file}' is not among the files to publish")
    for name in (manifest.key, *files):
        if not is_plain(name) or name in (MANIFEST, SUMS):
            raise UsageError(f"{manifest.address}: '{name}' cannot be a file name in the store")


def _live_key(folder: Path) -> str | None:
    try:
        key = (folder / CURRENT).read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise broken(folder, f"{CURRENT}: {e.strerror}") from e
    if not is_plain(key):
        raise broken(folder, f"{CURRENT} does not hold a key")
    return key


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Exclusive among processes; the kernel lets go when the holder dies."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what publishers that were killed left behind; with the lock held nobody else is writing."""
    for path in folder.iterdir():
        if path.name.startswith((_STAGING, _TRASH)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _live_key_or_none(folder: Path) -> str | None:
    with suppress(StoreError):
        return _live_key(folder)
    return None


def _stage(staging: Path, manifest: Manifest, files: Mapping[str, Path]) -> Manifest:
    """Make the hidden folder `staging`, on disk, and return the manifest as it was completed."""
    staging.mkdir()
    hashes = {name: _copy(source, staging / name) for name, source in sorted(files.items())}
    size = sum((staging / name).stat().st_size for name in hashes)
    complete = manifest.model_copy(update={"files": hashes, "size_bytes": size})
    content = complete.model_dump_json(by_alias=True, indent=1).encode()
    _write(staging / MANIFEST, content)
    sums = {**hashes, MANIFEST: hashlib.sha256(content).hexdigest()}
    _write(staging / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())
    _sync_folder(staging)
    return complete


def _move_in(staging: Path, path: Path) -> None:
    """Rename to the final name; what has that name already is damaged, or `cached` had found it."""
    if path.exists():
        _discard(path)
    os.rename(staging, path)
    _sync_folder(path.parent)


def _replace_current(folder: Path, key: str) -> str | None:
    """Make `key` live and return the key that was."""
    previous = _live_key_or_none(folder)
    if previous == key:
        return previous
    temporary = folder / f"{_STAGING}{CURRENT}"
    try:
        _write(temporary, f"{key}\n".encode())
        os.replace(temporary, folder / CURRENT)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    try:
        _sync_folder(folder)
    except OSError as e:  # too late to go back: readers see the new engine already
        log.warning("%s: the disk did not confirm the new engine: %s", folder, e.strerror)
    return previous


def _prune(folder: Path, keep: set[str]) -> None:
    """Remove engines that are neither live nor the one before."""
    try:
        for path in folder.iterdir():
            if path.is_dir() and not path.name.startswith(".") and path.name not in keep:
                _discard(path)
    except OSError as e:  # the new engine is live; an old one that stays does no harm
        log.warning("%s: cannot remove old engines: %s", folder, e.strerror)


def _discard(path: Path) -> None:
    """Remove a folder so that nobody sees a part of it: hidden first, then emptied."""
    trash = path.with_name(f"{_TRASH}{uuid.uuid4().hex}")
    os.rename(path, trash)
    shutil.rmtree(trash)


def _copy(source: Path, destination: Path) -> str:
    """Copy to disk and return the sha256 of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, destination.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Put renames on disk: without it a power cut may undo them in any order."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(manifest: Manifest, folder: Path, error: OSError) -> StoreError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return StoreError(
        f"cannot publish {manifest.address}",
        f"{error.strerror or error} ({error.filename or folder})",
        "free some space and build again" if full else f"check that {folder} can be written",
    )
