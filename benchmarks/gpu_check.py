"""Everything that only a machine with an NVIDIA GPU can tell, in under eight minutes and without network.

    python benchmarks/gpu_check.py [--quick] [--budget SECONDS] [--sections device,runner] [--gpu N]

Any Python from 3.10 will do that has NumPy, onnx, onnxruntime, OpenCV, pydantic and PyCUDA; TensorRT, ONNX
Runtime with CUDA and pytest are used where they are installed, and what is missing is said. Each section runs
in a process of its own: one that fails, hangs or crashes costs no other. The report goes to
`benchmarks/results/<gpu>-<date>.json`.

Exit status: 0 all that was checked is as it should be; 1 something is not; 77 nothing was checked.
How to read the report: docs/gpu-check.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

HERE = Path(__file__).resolve().parent
for folder in (HERE.parent, HERE):  # the repository, installed or not, and this folder's own packages
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from gpu.report import Section, document, file_name, outcome, table  # noqa: E402
from gpu.setting import OutOfTime, Setting, absent  # noqa: E402

PASSED, MISSED, NOT_CHECKED, INTERRUPTED = 0, 1, 77, 130
"""77 is "skipped" to test harnesses, and an error to `make`: nobody takes it for a pass."""

SECTIONS = {
    "device": ("gpu.device", "check", 25),
    "build": ("gpu.engines", "check", 110),
    "tests": ("gpu.contracts", "check", 90),
    "compare": ("gpu.compare", "check", 50),
    "runner": ("gpu.measure", "runner", 50),
    "engine": ("gpu.measure", "engine", 50),
    "onnxruntime": ("gpu.measure", "onnxruntime", 30),
    "leaks": ("gpu.leaks", "check", 70),
}
"""Name → module, function, seconds of a full check. Later ones use the engines that `build` leaves."""
BUDGET = 450.0
"""Seconds of a whole check: eight minutes less what starting and ending takes."""
QUICK = 0.15
GRACE = 20.0
"""Seconds beyond its own time after which a section is taken to hang."""

Runner = Callable[[str, Setting], Section]


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    if args.section:
        return _child(args.section, Setting.from_json(args.setting), Path(args.into))
    why = no_gpu(args.gpu)
    if why:
        print(f"NOT CHECKED: no NVIDIA GPU here, nothing was checked ({why}; exit status {NOT_CHECKED})")
        return NOT_CHECKED
    with tempfile.TemporaryDirectory(prefix="edge-gpu-check-") as folder:
        sections = run_all(args, args.keep or folder)
    return conclude(sections, args)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a first look: shorter runs, about two minutes")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="for everything")
    parser.add_argument(
        "--sections", default="all", help=f"of {', '.join(SECTIONS)}; default: all; device always runs"
    )
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="number of the GPU")
    parser.add_argument("--model", default="burned_in_text", metavar="TOML", help="what is built and run")
    parser.add_argument("--frame", default="1080x1920", metavar="HxW", help="size of the streamed frames")
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="FOLDER", help="for the JSON")
    parser.add_argument("--keep", metavar="FOLDER", help="keep engines and temporary files here")
    parser.add_argument("--pace", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--in-process", action="store_true", help="all sections in this process (to debug)")
    for hidden in ("--section", "--setting", "--into"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    wanted = set(SECTIONS) if args.sections == "all" else {"device", *args.sections.split(",")}
    if unknown := sorted(wanted - set(SECTIONS)):
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    args.sections = [name for name in SECTIONS if name in wanted]
    args.kind = "partial" if wanted != set(SECTIONS) else "quick" if args.quick else ""
    try:
        height, width = (int(side) for side in args.frame.split("x"))
        args.frame = (height, width)
    except ValueError:
        parser.error(f"--frame {args.frame} is not a size: height x width, as in 1080x1920")
    return args


def no_gpu(index: int) -> str:
    """Why there is no GPU to check; "" if there is one, whether or not it can be used."""
    from edge.machine import detect

    machine = detect()
    if machine.gpus:
        return ""
    try:
        from edge.cuda.device import open_device
        from edge.errors import EdgeError, MissingPackage
    except ImportError as e:
        return f"nvidia-smi finds none, and CUDA cannot be asked: the package '{e.name}' is not installed"
    try:
        open_device(index).close()
    except MissingPackage:
        return ""  # there is a driver
    except EdgeError as e:
        return "; ".join([*machine.problems, f"{e.what}: {e.why}" if e.why else e.what])
    return ""


# ---------------------------------------------------------------------- sections


def run_all(args: argparse.Namespace, folder: str) -> list[Section]:
    """The chosen sections, one after the other; each is printed when it is done."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    run: Runner = run_here if args.in_process else run_in_child
    pace = args.pace or (QUICK if args.quick else 1.0)
    setting = Setting(folder, args.model, args.frame, args.gpu, pace=pace)
    end, sections = time.monotonic() + args.budget, []
    for index, name in enumerate(args.sections):
        weights = [SECTIONS[other][2] for other in args.sections[index:]]
        left = end - time.monotonic()
        seconds = min(left * weights[0] / sum(weights), 2.0 * weights[0])
        print(f"{name}: up to {seconds:.0f} s", file=sys.stderr, flush=True)
        section = _timed(run, name, dataclasses.replace(setting, seconds=max(seconds, 1.0)))
        print(table(section), end="\n\n", flush=True)
        sections.append(section)
    return sections


def _timed(run: Runner, name: str, setting: Setting) -> Section:
    start = time.perf_counter()
    section = run(name, setting)
    section.seconds = time.perf_counter() - start
    return section


def run_here(name: str, setting: Setting) -> Section:
    """A section in this process; whatever goes wrong becomes a part of its report."""
    module, function, _ = SECTIONS[name]
    section = Section(name)
    try:
        getattr(importlib.import_module(module), function)(setting, section)
    except OutOfTime:
        section.skip("the rest", f"the section's {setting.seconds:.0f} s were over")
    except ImportError as e:
        try:
            section.skip("the rest" if section.figures else "the section", absent(e))
        except ImportError:
            _fail(section, e)
    except Exception as e:
        _fail(section, e)
    return section


def _fail(section: Section, error: Exception) -> None:
    section.error = f"{type(error).__name__}: {error}"
    section.details["traceback"] = "".join(traceback.format_exception(error))[-4000:]


def run_in_child(name: str, setting: Setting) -> Section:
    """A section in a process of its own: a crash, a hang or a lost device costs no other section."""
    into = Path(setting.folder, f"{name}.json")
    into.unlink(missing_ok=True)
    given = ["--section", name, "--setting", setting.to_json(), "--into", str(into)]
    command = [sys.executable, str(Path(__file__).resolve()), *given]
    log = into.with_suffix(".log")
    with log.open("wb") as words:
        ending = _ended(command, words, setting.seconds + GRACE)
    if into.exists():
        return Section.from_json(json.loads(into.read_text(encoding="utf-8")))
    said = log.read_text(encoding="utf-8", errors="replace")
    return Section(name, error=ending, details={"last words": said[-3000:]})


def _ended(command: Sequence[str], log: BinaryIO, seconds: float) -> str:
    """How a command ended, with everything that it started."""
    child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return f"its process ended with status {child.wait(seconds)}"
    except subprocess.TimeoutExpired:
        return f"it did not end within {seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _child(name: str, setting: Setting, into: Path) -> int:
    section = run_here(name, setting)
    temporary = into.with_suffix(".part")
    temporary.write_text(json.dumps(section.to_json()), encoding="utf-8")
    temporary.replace(into)
    return 0


# ---------------------------------------------------------------------- conclusion


def conclude(sections: Sequence[Section], args: argparse.Namespace) -> int:
    """Write the JSON, print where it is and what it says in one line."""
    facts = next((s.details for s in sections if s.name == "device"), {})
    cuda: dict[str, Any] = facts.get("cuda", {})
    name = cuda.get("name") or facts.get("device") or "gpu"
    record = document(sections, {**facts, "device": name}, args.quick)
    if "device" in record["sections"]:
        record["sections"]["device"]["details"] = {}  # they are the head of the report
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / file_name(name, record["date"], args.kind)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    found = outcome(sections)
    missed = [f"{s.name}: {f.name}" for s in sections for f in s.figures if f.verdict == "miss"]
    missed += [f"{s.name}: {s.error}" for s in sections if s.error]
    for line in missed:
        print(f"MISSED  {line}")
    if record["not_done"]:
        print(f"{len(record['not_done'])} things could not be checked here; see not_done in the report")
    print(f"{found.upper()}: {name}, {record['seconds']:.0f} s, report: {path}")
    return {"passed": PASSED, "missed": MISSED, "not checked": NOT_CHECKED}[found]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
