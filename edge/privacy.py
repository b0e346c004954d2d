"""What is told of patients: which identifiers of DICOM objects reach sinks, summaries and logs.

Names, dates and identifiers of the header are never read into results at all. What is left are UIDs, which a
PACS can look up, and names of files and folders, in which people write what they like.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge.errors import EdgeError, InputError

if TYPE_CHECKING:
    from edge.types import Result

Mode = Literal["pseudonym", "full", "none"]
"""pseudonym: UIDs are replaced under a key that is kept, file names are left out. full: the same under a key
that nobody keeps, so that nothing can be linked to anything outside of the run. none: all as it is."""

UIDS = frozenset({"study_instance_uid", "series_instance_uid", "sop_instance_uid"})
CODES = frozenset({"sop_class_uid", "transfer_syntax_uid"})
PLAIN = frozenset({"modality", "frame_number", "frames", "slices", "transforms", "unit", "revision"})
"""What else a DICOM frame may tell; everything that is in none of the three is left out."""

STANDARD = "1.2.840.10008."
"""The root of the standard's own UIDs, which name kinds of things and no patient (PS3.6 A)."""

KEY_BYTES = 32
CACHED = 65536


class Pseudonyms:
    """The same identifier always gets the same pseudonym, which without the key leads nowhere.

    Args:
        key: secret.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.uid = lru_cache(CACHED)(self._uid)

    def _uid(self, uid: str) -> str:
        """A valid UID in the place of another one: 2.25 and a UUID (PS3.5 B.2)."""
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', uid)[:16], version=5).int}"

    def name(self, text: str) -> str:
        """Eight digits in the place of a name."""
        return self._digest("name", text).hex()[:8]

    def _digest(self, kind: str, text: str) -> bytes:
        value = f"{kind}\0{text}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, value, hashlib.sha256).digest()


class Privacy:
    """One run's rule, applied where results leave the loop for the sinks.

    Args:
        key: the file of the key for pseudonyms; default: `default_key()`. Made where it is absent.
    """

    def __init__(self, mode: Mode = "pseudonym", key: Path | None = None) -> None:
        self.mode, self._key = mode, key

    @cached_property
    def pseudonyms(self) -> Pseudonyms:
        """
        Raises:
            InputError: the key cannot be read, or is no secret.
        """
        if self.mode == "full":
            return Pseudonyms(secrets.token_bytes(KEY_BYTES))
        return Pseudonyms(read_key(self._key or default_key()))

    def result(self, result: Result) -> Result:
        """The result as sinks may see it."""
        meta = result.frame.meta
        shown = self.meta(meta)
        return result if shown is meta else replace(result, frame=replace(result.frame, meta=shown))

    def meta(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        """What may be told of a frame; what is not of a DICOM object is returned as it is."""
        if self.mode == "none" or "transfer_syntax_uid" not in meta:
            return meta
        shown: dict[str, Any] = {}
        for key, value in meta.items():
            if key in UIDS or (key in CODES and not str(value).startswith(STANDARD)):
                shown[key] = self.pseudonyms.uid(str(value))
            elif key in CODES or key in PLAIN:
                shown[key] = value
        return shown

    def uid(self, uid: str) -> str:
        """A Study, Series or SOP Instance UID as it may be shown."""
        return uid if self.mode == "none" or not uid else self.pseudonyms.uid(uid)

    def place(self, address: str) -> str:
        """The address of DICOM files as it may be shown."""
        return address if self.mode == "none" else f"dicom:{self._name(address)}"

    def conceal(self, text: str, error: BaseException) -> str:
        """What is said of an error, with the files that it names by pseudonyms."""
        if self.mode != "none" and isinstance(error, EdgeError):
            for name in error.names:
                text = text.replace(name, self._name(name))
        return text

    def _name(self, name: str) -> str:
        return f"file-{self.pseudonyms.name(name)}"


def default_key() -> Path:
    """Where the key is, unless somebody says otherwise."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "edge" / "pseudonym.key"


def read_key(path: Path) -> bytes:
    """The key in a file, which is made where it is absent, readable by its owner alone.

    Raises:
        InputError: it cannot be read or made, is too short, or others may read it.
    """
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
        mode = path.stat().st_mode
    except OSError as e:
        fix = 'give another path as `privacy_key`, or choose privacy = "full"'
        raise InputError(f"no key for pseudonyms at {path}", e.strerror or str(e), fix) from e
    if mode & 0o077:
        raise InputError(
            f"the key for pseudonyms at {path} is no secret", "others may read it", f"chmod 600 {path}"
        )
    if len(key) < KEY_BYTES:
        why = f"it has {len(key)} bytes, and {KEY_BYTES} are the least"
        raise InputError(
            f"the key for pseudonyms at {path} is too short", why, "remove it: a new one is made"
        )
    return key


def _make_key(path: Path) -> None:
    """Written whole before it has its name, so that two runs at once agree on one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # the other run was quicker
            os.link(beside, path)
    finally:
        beside.unlink()
