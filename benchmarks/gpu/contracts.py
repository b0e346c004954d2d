"""tests/gpu on this device, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from gpu.report import Section
from gpu.setting import Setting

ROOT = Path(__file__).resolve().parent.parent.parent
_SETTINGS = """[pytest]
addopts = -ra --strict-markers -p no:cacheprovider
markers =
    gpu: needs an NVIDIA GPU with a driver
    jetson: needs a Jetson board
    slow: takes more than a few seconds
"""
"""Instead of the project's own, which ask for plugins that a bare machine need not have."""


def check(setting: Setting, found: Section) -> None:
    """Run them and count; every failure is named."""
    import edge.preprocess  # noqa: F401  # what it needs, the tests need

    try:
        import pytest  # noqa: F401
    except ImportError:
        found.skip("tests/gpu", "the package 'pytest' is not installed: pip install pytest")
        return
    folder = Path(setting.folder)
    settings, answers = folder / "pytest.ini", folder / "tests.xml"
    settings.write_text(_SETTINGS, encoding="utf-8")
    options = ["-c", settings, "--rootdir", ROOT, "-q", f"--junitxml={answers}"]
    command = [sys.executable, "-m", "pytest", *map(str, options), str(ROOT / "tests" / "gpu")]
    environment = {**os.environ, "EDGE_TEST_GPU_INDEX": str(setting.gpu), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=setting.seconds
        )
    except subprocess.TimeoutExpired:
        found.error = f"tests/gpu took longer than {setting.seconds:.0f} s"
        return
    if done.returncode not in (0, 1) or not answers.exists():
        found.error = f"pytest ended with status {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"
        return
    _count(answers, found)


def _count(answers: Path, found: Section) -> None:
    cases = list(ElementTree.parse(answers).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    found.details["failures"] = {_name(case): _text(case)[-3000:] for case in failed}
    found.note("passed", len(cases) - len(failed) - len(skipped))
    if len(cases) > len(skipped):
        found.expect("failed", len(failed), 0)
    for reason in dict.fromkeys(_reason(case) for case in skipped):
        names = [_name(case) for case in skipped if _reason(case) == reason]
        found.skip(f"{len(names)} tests ({names[0]}{' …' if len(names) > 1 else ''})", reason)


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"


def _text(case: ElementTree.Element) -> str:
    return "\n".join(part.text or part.get("message") or "" for part in case)


def _reason(case: ElementTree.Element) -> str:
    part = case.find("skipped")
    return (part.get("message") or "") if part is not None else ""
