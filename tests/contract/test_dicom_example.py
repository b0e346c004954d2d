"""The README's example of a modality and a PACS does what it says, with storescu and Orthanc."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")
pytest.importorskip("highdicom", reason="the extra 'pacs' is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from live import until  # noqa: E402
from streaming import publish  # noqa: E402

from edge.config import MODELS, ROOT, load_model  # noqa: E402
from tests.answers import errors  # noqa: E402
from tests.orthanc import AET, free_port, orthanc  # noqa: E402
from tests.pacs import association, tool  # noqa: E402

SR, SEG = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.66.4"


def example() -> list[str]:
    """The commands of the README's section, without their comments."""
    section = (ROOT / "README.md").read_text().split("## A modality and a PACS")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line.split("  #")[0].strip() for line in block.splitlines()]


def prepared(folder: Path) -> dict[str, str]:
    """A folder with engines and a study, an ultrasound cine with text in it; the environment to work in."""
    graph = ROOT / "assets/burned_in_text/burned_in_text.onnx"
    config = load_model(MODELS / "burned_in_text.toml").model_dump(mode="json")
    publish(folder / "engines", graph, model="burned_in_text", config=config)
    (folder / "study").mkdir()
    cine = pydicom.examples.ybr_color
    cine.decompress()
    cine.save_as(folder / "study" / "1.dcm")
    (folder / "bin").mkdir()
    program = folder / "bin" / "edge"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m edge "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


@contextmanager
def running(command: str, folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        f"exec {command}", shell=True, cwd=folder, env=env, text=True, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def listens(port: int) -> bool:
    with association(port, wait=1) as assoc:
        return bool(assoc.is_established)


@pytest.mark.slow
def test_the_readmes_study_comes_back_as_report_and_segmentation_that_dciodvfy_accepts(
    tmp_path: Path,
) -> None:
    tool("storescu")
    env, port = prepared(tmp_path), free_port()
    with orthanc(tmp_path) as pacs:
        ports = {"11112": str(port), "4242": str(pacs.port)}  # those of the example may be in use
        run, store, worklist = (re.sub("11112|4242", lambda m: ports[m.group()], line) for line in example())
        assert AET in run
        with running(run, tmp_path, env) as process:
            until(lambda: listens(port))
            subprocess.run(store, shell=True, cwd=tmp_path, env=env, check=True)
            until(lambda: len(pacs.uids()) == 2, 60)
            shown = subprocess.run(
                worklist, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True
            )
            process.terminate()
            said = process.communicate(timeout=60)[1]
            assert process.returncode == 0, said
        answers = {str(data.SOPClassUID): data for data in pacs.datasets()}
    assert set(answers) == {SR, SEG}
    sent = pydicom.dcmread(tmp_path / "study" / "1.dcm")
    for data in answers.values():
        assert (data.StudyInstanceUID, data.PatientID) == (sent.StudyInstanceUID, sent.PatientID)
        assert errors(data, tmp_path) == []
    assert answers[SEG].NumberOfFrames == sent.NumberOfFrames
    assert "1 study" in shown.stdout and "text" in shown.stdout
    assert sent.StudyInstanceUID not in shown.stdout + said
