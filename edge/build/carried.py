"""Engines finished from what was carried here: a bundle, or an engine of the store that another machine made.

Neither the model nor its pictures are needed: graph, gate and fp32 results of a few samples travel along.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge.build import reference
from edge.build.bundle import GRAPH, Bundle, finishable, opened, write_tar
from edge.build.finish import ENGINE_FILES, Draft, Finished, finish, judge_by
from edge.build.inputs import engine_key
from edge.build.resources import peak_rss, reset_peak
from edge.build.rows import Identity, Reporter, Row, attempted, failed_row, row_of
from edge.build.site import Site, find_site, obstacle
from edge.config import ModelConfig, validate
from edge.errors import EdgeError, InputError, RuntimeFault, StoreError
from edge.machine import Machine
from edge.manifest import Accuracy, BuilderInfo, Entry, Manifest
from edge.precision.rewrite import planned_precisions
from edge.store import Store
from edge.targets import TARGETS, Target, for_gpu, format_capability, parse_capability
from edge.tasks.outputs import TAIL

SAID = ("compiler: ", "device: ")
"""Findings of one compiler and one device, which say nothing about the next."""


def finish_bundles(
    paths: Sequence[Path],
    store: Store | None,
    machine: Machine,
    reporter: Reporter,
    targets: Mapping[str, Target] = TARGETS,
) -> list[Row]:
    """Finish every bundle on this machine and publish it; a row each. One that fails costs no other.

    Args:
        paths: folders or .tar files.
        store: where to; None for the store that a folder lies in, else `engines` in the current folder.
    """
    rows = []
    for path in paths:
        reporter.step(f"read the bundle {path}", 0, 0)
        try:
            with opened(path) as bundle:
                rows.append(_finish_bundle(bundle, store or own_store(path), machine, reporter, targets))
        except EdgeError as e:
            rows.append(failed_row(Identity(str(path), "", "", ""), e))
        except OSError as e:
            fault = RuntimeFault(f"cannot finish {path}", e.strerror or str(e), "check the disk")
            rows.append(failed_row(Identity(str(path), "", "", ""), fault))
        reporter.row(rows[-1])
    return rows


def pack(rows: Sequence[Row], root: Path, folder: Path) -> list[Path]:
    """Write every engine of these rows that can be finished, and is not, as a .tar for its device.

    Args:
        root: of the store they were published to.

    Raises:
        RuntimeFault: a file cannot be written.
    """
    store = Store(root)
    entries = [store.find(row.model, row.target, row.variant) for row in rows if row.path is not None]
    waiting = [e for e in entries if e.manifest.state != "verified" and finishable(e.manifest)]
    return [write_tar(entry, folder) for entry in waiting]


def own_store(path: Path) -> Store:
    """The store that a bundle's folder is a part of; `engines` in the current folder for any other."""
    folder = path.resolve()
    inside = folder.is_dir() and (folder.parent / "current").is_file()
    return Store(folder.parents[3] if inside else Path("engines"))


def _finish_bundle(
    bundle: Bundle, store: Store, machine: Machine, reporter: Reporter, targets: Mapping[str, Target]
) -> Row:
    m = bundle.manifest
    target = _target(bundle, targets)
    site = find_site(target, machine)
    if site is None:
        raise _refused(bundle, target, machine)
    key = engine_key(m.recipe or m.key, site.builder, site.gpu.compute_capability)
    published = unchanged(store, Identity(m.model, m.target, m.variant, key))
    if published is not None:
        return row_of(published, cached=True)
    return finish_carried(bundle, site, key, store, machine, reporter)


def _target(bundle: Bundle, targets: Mapping[str, Target]) -> Target:
    """The row of the matrix that the bundle was made for: by its name, else by its compute capability."""
    text = bundle.manifest.compute_capability
    if text is None:
        raise InputError(
            f"{bundle.origin} holds an engine for processors",
            "there is nothing to finish",
            "give a GPU's bundle",
        )
    row = targets.get(bundle.manifest.target)
    if row is not None and row.capability_text == text:
        return row
    return for_gpu(parse_capability(text, f"{bundle.origin}, compute_capability"), targets)


def _refused(bundle: Bundle, target: Target, machine: Machine) -> EdgeError:
    error = obstacle(target, machine)
    assert error is not None  # there is no site
    return type(error)(f"{bundle.origin}: {error.what}", f"{error.why}; the bundle stays as it is", error.fix)


def unchanged(store: Store, wanted: Identity, recipe: str = "") -> Entry | None:
    """The live engine, if it is whole and has this key; or was verified on its device, from this recipe."""
    entry = _whole(store, wanted)
    if entry is None:
        return None
    proven = entry.manifest.state == "verified" and entry.manifest.gpu is not None
    if entry.manifest.key == wanted.key or (proven and recipe and entry.manifest.recipe == recipe):
        return entry
    return None


def carried(store: Store, wanted: Identity, recipe: str) -> Bundle | None:
    """The live engine as something to finish from, if it is whole and was made from this recipe."""
    entry = _whole(store, wanted)
    if entry is None or entry.manifest.recipe != recipe or not finishable(entry.manifest):
        return None
    return Bundle(entry.path, entry.manifest, entry.path)


def _whole(store: Store, wanted: Identity) -> Entry | None:
    try:
        entry = store.current(wanted.model, wanted.target, wanted.variant)
        if entry is not None:
            entry.verify()
    except StoreError:
        return None  # damaged: made anew
    return entry


def finish_carried(
    bundle: Bundle, site: Site, key: str, store: Store, machine: Machine, reporter: Reporter
) -> Row:
    """Compile, judge by the reference results, publish as `verified`."""
    m = bundle.manifest
    identity = Identity(m.model, m.target, m.variant, key)

    def make() -> Entry:
        start = time.perf_counter()
        reset_peak()
        with tempfile.TemporaryDirectory(prefix="edge-finish-") as folder:
            done = _finished(bundle, site, Path(folder), reporter)
            files = {**done.files, GRAPH: bundle.graph, reference.REFERENCE: bundle.reference}
            manifest = _manifest(bundle, site, key, done, machine, time.perf_counter() - start)
            return store.publish(manifest, files)

    return attempted(identity, make)


def _finished(bundle: Bundle, site: Site, folder: Path, reporter: Reporter) -> Finished:
    m = bundle.manifest
    config = validate(ModelConfig, m.config, f"the config in {bundle.origin}")
    own = (output.name for output in m.outputs if output.name not in TAIL)
    samples = reference.load(bundle.reference, config.input, own)
    feeds, _ = next(samples.samples(config.input))
    draft = Draft(
        label=f"{m.target}/{m.variant}",
        graph=bundle.graph.read_bytes(),
        plan=planned_precisions(m.plan, m.carrier),
        config=config,
        promised=_promised(m.accuracy or Accuracy()),
        feeds=feeds,
    )
    return finish(draft, site, judge_by(samples, draft, site), folder, reporter.step)


def _promised(accuracy: Accuracy) -> Accuracy:
    """What emulation found, also of an engine that has run on a device since."""
    return accuracy.model_copy(update={"outputs": accuracy.promised or accuracy.outputs, "promised": ()})


def _manifest(
    bundle: Bundle, site: Site, key: str, done: Finished, machine: Machine, seconds: float
) -> Manifest:
    before = bundle.manifest
    return before.model_copy(
        update={
            **verified(site, done),
            "accuracy": done.accuracy,
            "key": key,
            "recipe": before.recipe or before.key,
            "lint": (*(text for text in before.lint if not text.startswith(SAID)), *done.findings),
            "build_seconds": seconds,
            "peak_rss_bytes": max(peak_rss(), done.compiler_peak_rss),
            "machine": machine.label,
            "reason": f"compiled and verified here; its graph was made on {before.machine}",
        }
    )


def verified(site: Site, done: Finished) -> dict[str, Any]:
    """The manifest's fields that every finished engine has from its device."""
    return {
        "state": "verified",
        "builder": BuilderInfo(name=site.runtime, version=done.version, timing_cache=done.timing_cache),
        "backend": site.runtime,
        "engine_file": ENGINE_FILES[site.runtime],
        "compute_capability": format_capability(site.gpu.compute_capability),
        "latency": done.latency,
        "gpu": done.gpu,
        "verified_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
