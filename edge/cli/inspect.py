"""`edge inspect`: what an engine's manifest says, what the store holds, what is in an ONNX graph."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli import tables

if TYPE_CHECKING:
    from rich.table import Table

    from edge.manifest import Accuracy, Entry, Latency, Manifest
    from edge.store import Store

NUMBER = re.compile(r"(?<![\w.])\d+(\.\d+)?(e[-+]\d+)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        default="",
        metavar="PATH|MODEL[/TARGET[/VARIANT]]",
        help="an engine by name or folder, an ONNX file; without it everything in the store",
    )
    parser.add_argument(
        "--engines", type=Path, default=Path("engines"), metavar="DIR", help="the engine store"
    )
    parser.add_argument(
        "--plan", action="store_true", help="print the precision of every node and its reason"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: the manifests, or the graph's facts")


def run(args: argparse.Namespace) -> int:
    path = Path(args.what)
    if path.suffix == ".onnx" or (args.what and path.is_file() and path.name != "manifest.json"):
        facts = graph_facts(path)
        if args.json:
            print(json.dumps(facts, indent=2))
        else:
            _print_graph(facts)
        return 0
    entries = _entries(args.what, args.engines)
    if args.json:
        print(json.dumps([json.loads(e.manifest.model_dump_json(by_alias=True)) for e in entries], indent=2))
    elif args.what and (args.plan or len(entries) == 1):
        for entry in entries:
            _print_engine(entry, args.plan)
    else:
        _print_list(entries, args.engines)
    return 0


def one_engine(what: str, root: Path) -> Entry:
    """The engine that `what` names, by MODEL/TARGET/VARIANT or by its folder; every byte checked.

    Raises:
        UsageError: it names none, or several.
        StoreError: it is damaged.
    """
    from edge.errors import UsageError

    found = _entries(what, root)
    if len(found) != 1:
        names = ", ".join(e.manifest.address for e in found[:6])
        raise UsageError(f"'{what}' names {len(found)} engines", f"some of them: {names}", "name one")
    return found[0]


def _entries(what: str, root: Path) -> list[Entry]:
    """The engines that `what` names, every byte checked where it names one.

    Raises:
        UsageError: it names none.
        StoreError: the one it names is damaged.
    """
    from edge.errors import StoreError, UsageError
    from edge.manifest import Entry, read_manifest
    from edge.store import Store

    folder = _live(Path(what).parent if what.endswith("manifest.json") else Path(what))
    if what and (folder / "manifest.json").is_file():
        entry = Entry(folder.resolve(), read_manifest(folder.resolve()))
        entry.verify()
        return [entry]
    store = Store(root)
    if what.strip("/").count("/") > 2:
        raise _no_such(what, store)
    model, target, variant = (*what.strip("/").split("/"), "", "", "")[:3]
    if variant:
        return [store.find(model, target, variant)]
    found = list(store.scan(model or None))
    for problem in (p for p in found if isinstance(p, StoreError)):
        print(f"warning: {problem}", file=sys.stderr)
    entries = [e for e in found if isinstance(e, Entry) and target in ("", e.manifest.target)]
    if what and not entries:
        raise _no_such(what, store)
    if not entries:
        raise UsageError(
            f"no engines in {root}", "nothing was built yet", "edge build --model burned_in_text"
        )
    return entries


def _live(folder: Path) -> Path:
    """Of a variant's folder in a store, the one of its live engine; of any other, itself."""
    from edge.manifest import CURRENT, is_plain

    current = folder / CURRENT
    key = current.read_text(encoding="utf-8").strip() if current.is_file() else ""
    return folder / key if is_plain(key) else folder


def _no_such(what: str, store: Store) -> Exception:
    from edge.errors import InputError, UsageError, nearest

    if what.strip("/").count("/") > 2 or Path(what).suffix or what.startswith(("/", ".")):
        return InputError(f"no engine at {what}", "there is no such file or engine folder", "check the path")
    known = {
        name
        for e in store.entries()
        for name in (e.manifest.model, f"{e.manifest.model}/{e.manifest.target}")
    }
    hint = nearest(what, known) if known else "edge build --model MODEL"
    return UsageError(f"no engine '{what}' in {store.root}", "nothing was built under that name", hint)


def graph_facts(path: Path) -> dict[str, Any]:
    """What is in an ONNX file: opset, inputs, outputs, operators, number of parameters.

    Raises:
        ModelError: it is missing or not ONNX.
    """
    import onnx

    from edge.errors import ModelError

    if not path.is_file():
        raise ModelError(f"cannot read {path}", "there is no such file", "check the path")
    try:
        model = onnx.load(path)
    except Exception as e:  # protobuf raises a class of its own that depends on its version
        raise ModelError(
            f"{path} is not a valid ONNX model", str(e).strip().split("\n")[0], "export it again"
        ) from e
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    counts = Counter(node.op_type for node in graph.node)
    return {
        "file": str(path),
        "size_bytes": path.stat().st_size,
        "opset": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "inputs": [_tensor(value) for value in graph.input if value.name not in weights],
        "outputs": [_tensor(value) for value in graph.output],
        "nodes": len(graph.node),
        "operators": dict(counts.most_common()),
        "parameters": sum(_size(tensor.dims) for tensor in graph.initializer),
    }


def _tensor(value: Any) -> dict[str, Any]:
    import onnx

    kind = value.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
    return {
        "name": value.name,
        "dtype": onnx.TensorProto.DataType.Name(kind.elem_type).lower(),
        "shape": shape,
    }


def _size(dims: Iterable[int]) -> int:
    size = 1
    for dim in dims:
        size *= dim
    return size


def _facts(rows: Iterable[tuple[str, str]]) -> Table:
    from rich.markup import escape

    table = tables.plain_table("", "")
    table.columns[0].style = "dim"
    for name, value in rows:
        if value:
            table.add_row(name, escape(value))
    return table


def _print_graph(facts: dict[str, Any]) -> None:
    console = tables.console()
    console.print(f"[bold]{facts['file']}[/]")
    operators = ", ".join(f"{name} ×{count}" for name, count in facts["operators"].items())
    console.print(
        _facts(
            [
                *(("input", _shape_text(t)) for t in facts["inputs"]),
                *(("output", _shape_text(t)) for t in facts["outputs"]),
                ("opset", ", ".join(f"{domain} {version}" for domain, version in facts["opset"].items())),
                ("parameters", f"{facts['parameters']:,}"),
                ("file size", _megabytes(facts["size_bytes"])),
                ("operators", f"{facts['nodes']} nodes: {operators}"),
            ]
        )
    )


def _shape_text(tensor: dict[str, Any]) -> str:
    return f"{tensor['name']}  {'×'.join(map(str, tensor['shape']))}  {tensor['dtype']}"


def _print_list(entries: list[Entry], root: Path) -> None:
    from edge.build.report import quantized_text

    console = tables.console()
    names = ("model", "target", "variant", "state", "quantized", "size", "p50", "accuracy")
    table = tables.plain_table(*names, whole=names[1:-1])
    for entry in entries:
        m = entry.manifest
        table.add_row(
            m.model, m.target, m.variant, m.state, quantized_text(m.variant, m.quantized_mac_share),
            _megabytes(m.size_bytes),
            f"{m.latency.p50_ms:.3g} ms" if m.latency else "–", accuracy_text(m.accuracy),
        )  # fmt: skip
    console.print(table)
    count = "1 engine" if len(entries) == 1 else f"{len(entries)} engines"
    console.print(f"\n{count} in {root}; edge inspect MODEL/TARGET/VARIANT shows one", style="dim")


def _print_engine(entry: Entry, plan: bool) -> None:
    m = entry.manifest
    console = tables.console()
    console.print(f"[bold]{m.address}[/]  {m.state}, every file as published")
    console.print(_facts(_engine_rows(entry)))
    console.print(_plan_table(m) if plan else _plan_summary(m))
    if not plan and m.plan:
        console.print("\n--plan shows every node", style="dim")
    for warning in m.warnings:
        console.print(f"warning: {warning}", markup=False)
    for finding in m.lint:
        console.print(f"lint: {finding}", markup=False)


def _engine_rows(entry: Entry) -> list[tuple[str, str]]:
    m = entry.manifest
    accuracy = m.accuracy
    device = f"compute capability {m.compute_capability}" if m.compute_capability else "processor"
    rows = [
        ("why it is so", m.reason),
        ("folder", str(entry.path)),
        ("files", ", ".join(m.files) + f" ({_megabytes(m.size_bytes)})"),
        ("runs on", device + (f" with {', '.join(m.requires)}" if m.requires else "")),
        ("built by", f"{_builder(m)} in {m.build_seconds:.1f} s, {_peak(m)}"),
        ("built on", m.machine),
        ("kernel timings", m.builder.timing_cache),
        *(("input", _shape_text(t.model_dump())) for t in m.inputs),
        *(("output", _shape_text(t.model_dump())) for t in m.outputs),
        ("accuracy", accuracy_text(accuracy)),
    ]
    if accuracy is not None:
        rows += [("measured", accuracy.how)]
        rows += [(f"  {o.name}", _closeness(o.cosine, o.sqnr_db)) for o in accuracy.outputs]
        rows += [(f"  {o.name}, emulated", _closeness(o.cosine, o.sqnr_db)) for o in accuracy.promised]
    rows += [("latency", latency_text(m.latency)), ("verified on", _verified_on(m))]
    rows += [
        ("precision", _precision(m)),
        ("graph", m.graph_sha256[:16]),
        ("calibration", (m.calibration_sha256 or "")[:16]),
        ("licence", m.licence),
    ]
    return rows


def _precision(m: Manifest) -> str:
    shares = ", ".join(f"{share:.1%} {precision}" for precision, share in m.mac_shares.items())
    if any(precision.endswith("a16") for precision in m.mac_shares):
        return f"{shares} of MACs; weights alone are quantized in w8a16 and w4a16; carrier {m.carrier}"
    told = f" ({shares})" if len(m.mac_shares) > 1 else ""
    return f"{m.quantized_mac_share:.0%} of MACs quantized{told}, carrier {m.carrier}"


def _builder(m: Manifest) -> str:
    """What compiled it; a bundle nothing has compiled yet."""
    return f"{m.builder.name} {m.builder.version}" if m.state != "bundle" else "the planner, uncompiled,"


def latency_text(latency: Latency | None) -> str:
    """One line; "" where the engine did not run on its device."""
    if latency is None:
        return ""
    batch = f", batch {latency.batch}" if latency.batch != 1 else ""
    times = f"{latency.p50_ms:.3g} ms, p99 {latency.p99_ms:.3g} ms"
    return f"{times} on the device alone{batch}; {latency.per_second:.4g} pictures a second"


def _verified_on(m: Manifest) -> str:
    if m.gpu is None:
        return ""
    driver = f", driver {m.gpu.driver}" if m.gpu.driver else ""
    return f"{m.gpu.name}{driver}, {m.verified_at}"


def _peak(m: Manifest) -> str:
    return f"at most {m.peak_rss_bytes / 2**20:,.0f} MB of memory"


def _closeness(cosine: float | None, sqnr_db: float | None) -> str:
    parts = [] if cosine is None else [f"cosine {cosine:.5f}"]
    parts += [] if sqnr_db is None else [f"SQNR {sqnr_db:.1f} dB"]
    return ", ".join(parts) + " against fp32" if parts else "equal to fp32"


def accuracy_text(accuracy: Accuracy | None) -> str:
    """One line: the metric of this engine and of fp32, or the lowest cosine where there are no labels."""
    if accuracy is None:
        return "not measured"
    if accuracy.metric and accuracy.this is not None:
        fp32 = "" if accuracy.fp32 is None else f" (fp32 {accuracy.fp32:.4g})"
        if accuracy.drop_error:
            fp32 += f" ± {accuracy.drop_error:.2g}"
        return f"{accuracy.metric} {accuracy.this:.4g}{fp32}, {accuracy.samples} samples"
    cosines = [o.cosine for o in accuracy.outputs if o.cosine is not None]
    return f"cosine {min(cosines):.4f}, {accuracy.samples} samples" if cosines else "equal to fp32"


def _plan_summary(m: Manifest) -> Table:
    """Nodes by precision and reason, most frequent first; reasons that differ in a number are one."""
    from rich.markup import escape

    table = tables.plain_table("nodes", "precision", "reason")
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in m.plan:
        groups.setdefault((entry.precision, NUMBER.sub("…", entry.reason)), []).append(entry.reason)
    for (precision, alike), reasons in sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]))):
        reason = alike if len({*reasons}) > 1 else reasons[0]
        table.add_row(str(len(reasons)), precision, escape(reason))
    return table


def _plan_table(m: Manifest) -> Table:
    from rich.markup import escape

    table = tables.plain_table("node", "operator", "precision", "reason")
    for entry in m.plan:
        table.add_row(escape(entry.node), entry.op, entry.precision, escape(entry.reason))
    return table


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size < 1e8 else f"{size / 1e6:.0f} MB"
