"""`edge doctor`: what this machine is, what it can compile and run, what is missing and how to get it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.machine import INT8_DOT, PACKAGES, Machine, Package, detect
from edge.sources.support import Support, support
from edge.targets import TARGETS, Target, for_gpu, format_capability, load_targets, local

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PRODUCTS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_COLOURS = {"verified": "green", "simulated": "cyan", "bundle": "yellow"}
_LEGEND = """verified   it ran on that hardware
simulated  compiled for it; its numbers were checked on the processor
bundle     a checked graph; edge build --bundle finishes it on the device"""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What this machine can do for one target.

    Attributes:
        compiled_by: what compiles here; "" if only a bundle can be made.
        runs: an engine for the target can be compiled and run here, now.
        here: it is a part of this machine.
        note: what it takes to compile for it, or a warning.
    """

    target: Target
    compiled_by: str
    runs: bool
    here: bool
    note: str = ""

    @property
    def state(self) -> str:
        """State of an engine built here: verified, simulated or bundle."""
        if self.runs:
            return "verified"
        return "simulated" if self.compiled_by else "bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--matrix", type=Path, metavar="TOML", help="rows to add to the hardware matrix")


def run(args: argparse.Namespace) -> int:
    targets = load_targets(args.matrix) if args.matrix else TARGETS
    machine = detect()
    outlooks = [outlook(target, machine, targets) for target in targets.values()]
    if args.json:
        print(json.dumps(_document(machine, outlooks, support()), indent=2))
    else:
        _print(machine, outlooks, targets, support())
    return 0


def outlook(target: Target, machine: Machine, targets: Mapping[str, Target] = TARGETS) -> Outlook:
    """What `machine` can do for `target`, by what is installed; nothing is imported or tried."""
    if not target.is_gpu:
        version = machine.packages.get("onnxruntime")
        if version is None:
            return Outlook(target, "", False, True, "needs onnxruntime: pip install onnxruntime")
        slow = "" if INT8_DOT in machine.cpu_features else "int8 will be slow here"
        return Outlook(target, f"ONNX Runtime {_short(version)}", True, True, slow)
    from edge.build.site import find_site, obstacle

    here = target in local(machine, targets)
    site = find_site(target, machine) if here else None
    if site is not None:
        return Outlook(target, f"{_PRODUCTS[site.runtime]} {_short(site.version)}", True, True)
    compiler = _compiler(target, machine)
    problem = obstacle(target, machine) if here else None
    note = problem.why if problem else "" if compiler else _how(target, machine)
    return Outlook(target, compiler, False, here, note)


def _compiler(target: Target, machine: Machine) -> str:
    """TensorRT-RTX compiles for any of its targets on any x86-64 machine."""
    if target.compiles_ahead(machine):
        return f"{_PRODUCTS['tensorrt_rtx']} {_short(machine.packages['tensorrt-rtx'])}"
    return ""


def _short(version: str) -> str:
    """Major, minor and patch: 1.7.1.116 → 1.7.1."""
    return ".".join(version.split(".")[:3])


def _how(target: Target, machine: Machine) -> str:
    """What it takes to compile for a target that cannot be compiled for now."""
    if target.rtx_aot:
        return "needs tensorrt-rtx" if machine.is_x86 else "an x86-64 machine"
    return "the device itself"


def _document(machine: Machine, outlooks: list[Outlook], feeds: Support) -> dict[str, Any]:
    """The same facts for machines."""
    gpus = [
        asdict(gpu) | {"compute_capability": format_capability(gpu.compute_capability)}
        for gpu in machine.gpus
    ]
    return {
        "machine": {
            "cpu": machine.cpu,
            "arch": machine.arch,
            "cpu_features": sorted(machine.cpu_features),
            "cores": machine.cores,
            "memory_bytes": machine.memory_bytes,
            "gpus": gpus,
            "jetson": machine.jetson,
            "l4t": machine.l4t,
            "python": machine.python,
            "problems": list(machine.problems),
        },
        "targets": [
            {
                "target": o.target.name,
                "compute_capability": format_capability(o.target.compute_capability),
                "carrier": o.target.carrier,
                "quantized": list(o.target.quantized),
                "compiled_by": o.compiled_by or None,
                "state": o.state,
                "runs": o.runs,
                "here": o.here,
                "note": o.note,
            }
            for o in outlooks
        ],
        "feeds": asdict(feeds),
        "packages": {p.name: machine.packages.get(p.name) for p in PACKAGES},
        "install": _commands(machine),
    }


def _print(machine: Machine, outlooks: list[Outlook], targets: Mapping[str, Target], feeds: Support) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(file=sys.stdout, highlight=False)
    _section(console, "This machine")
    console.print(_machine_table(machine, targets))
    _section(console, "Engines")
    console.print(_target_table(outlooks))
    console.print(f"\n{_LEGEND}", style="dim")
    _section(console, "Live feeds")
    console.print(_feed_table(feeds))
    _section(console, "Optional packages")
    console.print(_package_table(machine))
    for command in _commands(machine):
        console.print(f"\nget what is missing:  [bold]{escape(command)}[/]", soft_wrap=True)
    for problem in machine.problems:
        console.print(f"\n[yellow]![/] {problem}")


def _section(console: Console, title: str) -> None:
    console.print(f"\n[bold]{title}[/]")


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD, header_style="dim", pad_edge=False, show_header=any(columns), show_edge=False
    )
    for column in columns:
        table.add_column(column)
    return table


def _machine_table(machine: Machine, targets: Mapping[str, Target]) -> Table:
    table = _table("", "")
    table.columns[0].style = "dim"
    memory = f"{machine.memory_bytes / 2**30:.0f} GB" if machine.memory_bytes else "unknown memory"
    cores = f"{machine.cores} core{'s' if machine.cores != 1 else ''}"
    table.add_row("processor", f"{machine.cpu}, {machine.arch}, {cores}, {memory}")
    table.add_row("8-bit arithmetic", _int8(machine))
    if machine.jetson:
        table.add_row("board", f"{machine.jetson}, Linux for Tegra {machine.l4t or 'of unknown release'}")
    for gpu in machine.gpus:
        table.add_row("GPU", _gpu(gpu.name, gpu.compute_capability, gpu.driver, targets))
    if not machine.gpus:
        table.add_row("GPU", "no NVIDIA GPU found; the cpu target needs none")
    table.add_row("Python", machine.python)
    return table


def _int8(machine: Machine) -> str:
    if INT8_DOT not in machine.cpu_features:
        return "no dot-product instruction"
    known = {
        "avx512_vnni": "AVX512-VNNI",
        "avx_vnni": "AVX-VNNI",
        "amx_int8": "AMX",
        "asimddp": "NEON dot product",
    }
    return ", ".join(text for name, text in known.items() if name in machine.cpu_features)


def _gpu(name: str, capability: tuple[int, int], driver: str, targets: Mapping[str, Target]) -> str:
    from edge.errors import UsageError

    text = f"{name}, compute capability {format_capability(capability)}"
    text += f", driver {driver}" if driver else ""
    try:
        return f"{text} → target {for_gpu(capability, targets).name}"
    except UsageError as e:
        return f"{text} → [yellow]no target; {e.fix}[/]"


def _target_table(outlooks: list[Outlook]) -> Table:
    table = _table("target", "cc", "fast / exact", "compiled here by", "engine is", "runs here")
    for o in outlooks:
        table.add_row(
            o.target.name,
            o.target.capability_text or "–",
            f"{o.target.fast_precision} / {o.target.carrier}",
            o.compiled_by or f"[yellow]{o.note}[/]",
            f"[{_COLOURS[o.state]}]{o.state}[/]",
            "[green]yes[/]" if o.runs else "[yellow]not yet[/]" if o.here else "no",
        )
        if o.compiled_by and o.note:
            table.add_row("", "", "", f"[yellow]{o.note}[/]", "", "")
    return table


def _feed_table(feeds: Support) -> Table:
    table = _table("", "")
    table.columns[0].style = "dim"
    table.add_row("camera:", ", ".join(feeds.cameras) or "no /dev/video* here")
    built = "OpenCV was built with GStreamer"
    table.add_row(
        "gst: csi:", built if feeds.gstreamer else f"[dim]no: {built.replace('with', 'without')}[/]"
    )
    decoders = f"; hardware decoders to try: {', '.join(feeds.decoders)}" if feeds.decoders else ""
    ffmpeg = f"FFmpeg {feeds.ffmpeg}{decoders}" if feeds.ffmpeg else "[yellow]needs the package av[/]"
    table.add_row("rtsp: http: udp:", ffmpeg)
    return table


def _package_table(machine: Machine) -> Table:
    table = _table("package", "installed", "needed to")
    for package in PACKAGES:
        version = machine.packages.get(package.name)
        installed = f"[green]{version}[/]" if version else f"[dim]{_absence(package, machine)}[/]"
        table.add_row(package.name, installed, package.purpose)
    return table


def _absence(package: Package, machine: Machine) -> str:
    """Whether this machine could use a package that is not there."""
    if package.name in ("pycuda", "tensorrt") and not machine.gpus:
        return "no use: no GPU"
    if package.name == "tensorrt-rtx" and not machine.is_x86:
        return "no use: not x86-64"
    return "missing"


def _commands(machine: Machine) -> list[str]:
    """What to type for the packages that are missing and of use here."""
    missing = {p for p in PACKAGES if p.name not in machine.packages and _absence(p, machine) == "missing"}
    extras = sorted({p.extra for p in missing if p.name != "tensorrt"})
    commands = [f"pip install '.[{','.join(extras)}]'"] if extras else []
    if any(p.name == "tensorrt" for p in missing):
        commands.append("sudo apt install nvidia-jetpack" if machine.jetson else "pip install '.[trt]'")
    return commands
