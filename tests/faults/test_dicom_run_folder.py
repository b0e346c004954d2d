"""`edge run` on a folder as people leave it: an archive gets answers to images, nobody else gets names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")
pytest.importorskip("highdicom", reason="the extra 'pacs' is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from live import until  # noqa: E402
from streaming import heatmap_graph, publish  # noqa: E402

from edge.config import ROOT  # noqa: E402
from tests.orthanc import AET, Orthanc, orthanc  # noqa: E402
from tests.pacs import ct_slice  # noqa: E402
from tests.unit.test_dicom_answer_names import NAMES, PATIENT_NAME, named  # noqa: E402


class Watching:
    """`edge run` in a process of its own; of each object in a folder the archive gets a report."""

    def __init__(self, home: Path, pacs: Orthanc) -> None:
        self.folder, self.home, self.pacs = home / "in", home, pacs
        self.folder.mkdir(exist_ok=True)
        publish(home / "engines", heatmap_graph(home / "tiny.onnx"))
        source = f"dicom:{self.folder}?watch=1&settle=0.3&unit=object&free_gb=0&spool={home / 'spool'}"
        sinks = [f"dicom+scu://{AET}@127.0.0.1:{pacs.port}?kinds=sr", f"jsonl:{home / 'out' / 'lines.jsonl'}"]
        sinks.append(f"triage:{home / 'out' / 'list.html'}")
        words = [sys.executable, "-m", "edge", "run", "--engines", str(home / "engines"), "--model", "tiny"]
        words += ["--source", source, *(word for sink in sinks for word in ("--sink", sink))]
        words += ["--summary", str(home / "out" / "summary.json")]
        (home / "out").mkdir()
        self.log = (home / "out" / "log").open("wb")
        self.process = subprocess.Popen(words, cwd=ROOT, stdout=self.log, stderr=self.log)

    def put(self, file: Path, name: str) -> None:
        file.rename(self.folder / name)

    def reports(self, count: int) -> list[Any]:
        """What the archive has, once there are so many."""
        until(lambda: len(self.pacs.get("instances")) >= count, 60)
        return self.pacs.datasets()

    def end(self) -> int:
        self.process.terminate()
        code = self.process.wait(60)
        self.log.close()
        return code

    def told(self) -> str:
        """Everything that the run has said and written but to the archive, and the names of its files."""
        files = [path for name in ("out", "spool") for path in (self.home / name).rglob("*")]
        texts = [path.read_bytes() for path in (self.home / "out").iterdir()]
        names = "\n".join(str(path.relative_to(self.home)) for path in files)
        return names + b"\n".join(texts).decode("utf-8")


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Watching]:
    with orthanc(tmp_path) as pacs:
        run = Watching(tmp_path, pacs)
        try:
            yield run
        finally:
            run.process.kill()
            run.process.wait()


def source_of(report: Any) -> str:
    """SOP Instance UID of the object that a report is about."""
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (item,) = series.ReferencedSOPSequence
    return str(item.ReferencedSOPInstanceUID)


@pytest.mark.slow
def test_names_in_any_character_set_reach_the_archive_and_nobody_else(
    watching: Watching, tmp_path: Path
) -> None:
    sent = {}
    for language, (charsets, name, part) in NAMES.items():
        file = named(tmp_path / f"{language}.dcm", charsets, name)
        sent[str(pydicom.dcmread(file).SOPInstanceUID)] = name
        watching.put(file, f"{part.replace('^', ' ')} {language}.dcm")
    broken = named(tmp_path / "broken.dcm", *NAMES["japanese"][:2])
    data = pydicom.dcmread(broken)
    data.Rows = 60000
    data.save_as(broken)
    watching.put(broken, f"{NAMES['japanese'][2]}.dcm")
    reports = watching.reports(len(sent))
    until(lambda: "quarantined" in (tmp_path / "out" / "log").read_text(), 30)
    assert watching.end() == 5  # a frame is lost
    assert {source_of(r): r.get_item(PATIENT_NAME).value.rstrip() for r in reports} == sent
    told = watching.told()
    for _, name, part in NAMES.values():
        romanized = name.split(b"=")[0].decode("utf-8", "ignore").replace("^", " ").split()
        for secret in (*part.split("^"), *romanized):
            assert secret not in told and json.dumps(secret)[1:-1] not in told


@pytest.mark.slow
def test_what_is_no_image_is_left_alone_and_a_file_that_is_still_written_is_waited_for(
    watching: Watching, tmp_path: Path
) -> None:
    folder = watching.folder
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "empty.dcm").touch()
    shutil.copy(pydicom.data.get_testdata_file("DICOMDIR"), folder / "DICOMDIR")
    for number in (1, 2):
        pydicom.dcmwrite(tmp_path / "slice", ct_slice(number, size=64), enforce_file_format=True)
        if number == 1:
            watching.put(tmp_path / "slice", "1.dcm")
    whole = (tmp_path / "slice").read_bytes()
    with (folder / "2.dcm").open("wb") as file:
        for place in range(0, len(whole), 1024):
            file.write(whole[place : place + 1024])
            file.flush()
            time.sleep(0.15)
    assert {source_of(report) for report in watching.reports(2)} == {"1.2.3.1", "1.2.3.2"}
    assert watching.end() == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["feeds"][0]["delivered"] == 2 and not summary["feeds"][0]["failed"]
    assert len(list((tmp_path / "spool" / "objects").rglob("*.dcm"))) == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        ".DS_Store",
        "1.dcm",
        "2.dcm",
        "DICOMDIR",
        "empty.dcm",
    ]
