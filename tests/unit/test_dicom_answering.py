"""From received slices to answers in a real archive: once, whatever dies on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")
pytest.importorskip("highdicom", reason="the extra 'pacs' is not installed")

from live import going, until  # noqa: E402
from streaming import feed, heatmap_graph, network_of, pictures, publish  # noqa: E402
from test_source_spooled import Box, receiving  # noqa: E402

from edge.dicom.answering import connect  # noqa: E402
from edge.dicom.delivery.destination import destination  # noqa: E402
from edge.dicom.delivery.outbox import Outbox  # noqa: E402
from edge.errors import UsageError  # noqa: E402
from edge.spool import State  # noqa: E402
from edge.stream.run import Run  # noqa: E402
from edge.stream.volumes import segment_series  # noqa: E402
from tests.orthanc import AET, Orthanc, free_port, orthanc  # noqa: E402
from tests.pacs import ct_slice, tool  # noqa: E402
from tests.streaming import Collect, Script  # noqa: E402
from tests.volumes import ball, volume_config, volume_graph, volume_network, write_series  # noqa: E402

SR, SEG = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.66.4"
STUDY = {"StudyDate": "20010203", "StudyTime": "040506", "FrameOfReferenceUID": "1.2.7"}


def slices(count: int) -> list[pydicom.Dataset]:
    """A series with geometry, bright in one half."""
    made = []
    for number in range(1, count + 1):
        data = ct_slice(number, size=32, InstanceNumber=number, **STUDY)
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [1, 1], 1
        pixels = np.zeros((32, 32), np.uint16)
        pixels[:, 16:] = 4000
        data.PixelData = pixels.tobytes()
        made.append(data)
    return made


def archive(pacs: Orthanc, **settings: Any) -> str:
    settings = {"kinds": "sr,seg", **settings}
    query = "&".join(f"{name}={value}" for name, value in settings.items())
    return f"dicom+scu://{AET}@127.0.0.1:{pacs.port}?{query}"


def classes(pacs: Orthanc) -> Counter[str]:
    return Counter(str(data.SOPClassUID) for data in pacs.datasets())


def test_a_series_comes_back_into_the_archive_as_report_and_masks_and_is_confirmed(tmp_path: Path) -> None:
    one, network = receiving(tmp_path), network_of(heatmap_graph(tmp_path / "tiny.onnx"))
    port = free_port()  # at which the archive tells what it keeps
    with orthanc(tmp_path, {"edge": ("EDGE", port)}) as pacs:
        to = archive(pacs, commitment=1, reports=f"127.0.0.1:{port}")
        connect([one], [destination(to)], "fp32")
        with going(Run(network, [one], [])) as run:
            box = Box(run, one, Collect())
            box.send(*slices(3))
            until(lambda: box.spool.counts() == {State.CONFIRMED: 3})
            assert classes(pacs) == {SR: 1, SEG: 1}
            (line,) = box.lines(1)
        assert len(line["frames"]) == 3 and "mask" in line["frames"][0]
        for data in pacs.datasets():
            assert (data.StudyInstanceUID, data.PatientID) == ("1.2.8", "PID77")
            assert data.SeriesInstanceUID != "1.2.9"
        (mask,) = (data for data in pacs.datasets() if data.SOPClassUID == SEG)
        references = mask.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert sorted(item.ReferencedSOPInstanceUID for item in references) == [
            "1.2.3.1",
            "1.2.3.2",
            "1.2.3.3",
        ]
    network.close()


@pytest.mark.parametrize("where", ["at a port of its own", "at a feed's port", "at a feed's port, unasked"])
def test_an_archive_confirms_what_two_feeds_answered_whichever_port_it_reports_at(
    tmp_path: Path, where: str
) -> None:
    """Both feeds have an outbox; the archive knows one port of our AE title."""
    network = network_of(heatmap_graph(tmp_path / "tiny.onnx"))
    two = [receiving(tmp_path, spool=tmp_path / name, unit="object") for name in ("first", "second")]
    own: Any = two[1].source
    port = free_port() if where == "at a port of its own" else own.supply.port
    reports = {} if where.endswith("unasked") else {"reports": f"127.0.0.1:{port}"}
    with orthanc(tmp_path, {"edge": ("EDGE", port)}) as pacs:
        connect(two, [destination(archive(pacs, kinds="sr", commitment=1, **reports))], "fp32")
        two[1].name = "second"
        with going(Run(network, two, [])) as run:
            boxes = [Box(run, one, Collect()) for one in two]
            for number, box in enumerate(boxes):
                box.send(slices(2)[number])
            until(lambda: all(box.spool.counts() == {State.CONFIRMED: 1} for box in boxes))
    network.close()


@pytest.mark.parametrize("step", ["inferred", "answered"])
def test_a_unit_whose_answer_was_on_its_way_when_the_process_died_is_answered_once(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spool's transaction does not happen; everything before it has."""
    network = network_of(heatmap_graph(tmp_path / "tiny.onnx"))

    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    with orthanc(tmp_path) as pacs:
        to = destination(archive(pacs))
        one = receiving(tmp_path, unit="object")
        connect([one], [to], "fp32")
        monkeypatch.setattr("threading.excepthook", lambda _: None)
        with going(Run(network, [one], [])) as run:
            box = Box(run, one, Collect())
            monkeypatch.setattr(box.spool, step, die)
            box.send(*slices(1))
            until(lambda: not one.outcomes._thread.is_alive())  # type: ignore[union-attr]
            until(lambda: len(pacs.uids()) == 2)
        before = pacs.uids()
        one = receiving(tmp_path, unit="object")
        connect([one], [to], "fp32")
        with going(Run(network, [one], [])) as run:
            box = Box(run, one, Collect())
            box.lines(1)
        assert pacs.uids() == before
        with Outbox(tmp_path / "spool" / "outbox", [to], start=False) as outbox:
            assert len(outbox.deliveries()) == 2
    network.close()


def sent_series(tmp_path: Path) -> tuple[list[pydicom.Dataset], Any]:
    """Slices that make a volume, and a network that reads it."""
    write_series(tmp_path / "head", ball())
    files = sorted((tmp_path / "head").iterdir())
    model = volume_config(volume_graph(tmp_path / "tiny.onnx"), tmp_path / "head")
    return [pydicom.dcmread(file) for file in files], volume_network(model)


def test_a_received_series_becomes_one_volume_whose_masks_are_those_of_the_folder(tmp_path: Path) -> None:
    data, network = sent_series(tmp_path)
    expected = segment_series(sorted((tmp_path / "head").iterdir()), network)
    one, answers = receiving(tmp_path), []
    desk: Any = one.outcomes
    desk.answering = lambda key, found: answers.append((key, found))
    one.give_volumes()
    with going(Run(network, [one], [])) as run:
        box = Box(run, one, Collect())
        box.send(*data, contexts=[data[0].SOPClassUID])
        (line,) = box.lines(1)
    ((key, (inference,)),) = answers
    assert inference.key == key == line["unit"] and inference.found == []
    np.testing.assert_array_equal(inference.volume.labels, expected.labels)
    (found,) = line["frames"]
    assert found["slices"] == len(data) and found["volumes"]
    network.close()


@pytest.mark.parametrize("late", [8, 15], ids=["a gap that is closed", "at an end"])
def test_a_late_slice_makes_the_whole_volume_anew(tmp_path: Path, late: int) -> None:
    """While it is missing in the middle there is no volume, and the answer says why."""
    data, network = sent_series(tmp_path)
    data.sort(key=lambda one: one.ImagePositionPatient[2])
    one = receiving(tmp_path)
    one.give_volumes()
    with going(Run(network, [one], [])) as run:
        box = Box(run, one, Collect())
        box.send(*data[:late], *data[late + 1 :], contexts=[data[0].SOPClassUID])
        (first,) = box.lines(1)
        box.send(data[late], contexts=[data[0].SOPClassUID])
        _, second = box.lines(2)
        assert box.spool.counts() == {State.ANSWERED: len(data)}
    if late == 8:
        assert first["frames"] == [] and "missing" in first["failed"][0]["reason"]
    else:
        assert first["frames"][0]["slices"] == len(data) - 1
    assert second["frames"][0]["slices"] == len(data) and second["revision"] == 2
    network.close()


def test_units_of_single_objects_make_no_volumes(tmp_path: Path) -> None:
    one = receiving(tmp_path, unit="object")
    with pytest.raises(UsageError, match="unit=series"):
        one.give_volumes()
    one.close()


def test_an_engine_says_in_words_in_which_types_it_works(tmp_path: Path) -> None:
    graph = heatmap_graph(tmp_path / "tiny.onnx")
    assert publish(tmp_path / "engines", graph).manifest.precision == "fp32"
    mixed = publish(tmp_path / "engines", graph, "exact", mac_shares={"fp32": 0.09, "int8": 0.91})
    assert mixed.manifest.precision == "91 % int8, 9 % fp32"


def test_an_archive_without_a_feed_that_is_answered_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no feed has one"):
        connect([feed("a", Script(pictures(1)))], [destination("dicom+scu://PACS@127.0.0.1:104")], "")


def test_what_cannot_be_answered_is_quarantined_and_the_others_are_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = network_of(heatmap_graph(tmp_path / "tiny.onnx"))
    one = receiving(tmp_path, unit="object")
    connect([one], [destination("dicom+scu://PACS@127.0.0.1:9")], "fp32")
    desk: Any = one.outcomes
    answering, keys = desk.answering, []

    def broken(key: str, found: Any) -> None:
        keys.append(key)
        if len(keys) == 1:
            raise ValueError("with a value of the header: Secret^Jane")
        answering(key, found)

    desk.answering = broken
    with going(Run(network, [one], [])) as run:
        box = Box(run, one, Collect())
        box.send(*slices(2))
        until(lambda: box.spool.counts() == {State.QUARANTINED: 1, State.ANSWERED: 1})
        assert box.spool.objects(State.QUARANTINED)[0].reason == "it cannot be answered: ValueError"
    assert "still wait for PACS@127.0.0.1:9: they go out at the next start" in caplog.text
    network.close()


def test_an_outbox_without_room_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.dicom.desk.AGAIN_S", 0.05)
    network = network_of(heatmap_graph(tmp_path / "tiny.onnx"))
    one, calls = receiving(tmp_path), []
    desk: Any = one.outcomes

    def full(key: str, found: Any) -> None:
        calls.append(key)
        if len(calls) < 3:
            raise OSError(28, "No space left on device")

    desk.answering = full
    with going(Run(network, [one], [])) as run:
        box = Box(run, one, Collect())
        box.send(*slices(2))
        box.lines(1)
    assert len(calls) == 3 and len(set(calls)) == 1
    network.close()


@pytest.mark.slow
def test_edge_run_receives_from_storescu_and_answers(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    publish(tmp_path / "engines", heatmap_graph(tmp_path / "tiny.onnx"))
    paths = [tmp_path / f"{number}.dcm" for number in range(3)]
    for path, data in zip(paths, slices(3), strict=True):
        pydicom.dcmwrite(path, data, enforce_file_format=True)
    port = free_port()
    source = f"dicom+scp://127.0.0.1:{port}?spool={tmp_path / 'spool'}&quiet=0.5&free_gb=0"
    with orthanc(tmp_path) as pacs:
        words = [
            sys.executable,
            "-m",
            "edge",
            "run",
            "--engines",
            str(tmp_path / "engines"),
            "--model",
            "tiny",
        ]
        words += ["--source", source, "--sink", archive(pacs), "--sink", f"jsonl:{tmp_path / 'lines.jsonl'}"]
        words += ["--summary", str(tmp_path / "summary.json")]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        try:
            send = [tool("storescu"), "-aec", "EDGE", "127.0.0.1", str(port), *map(str, paths)]
            until(lambda: subprocess.run(send, capture_output=True).returncode == 0)
            until(lambda: classes(pacs) == {SR: 1, SEG: 1})
        finally:
            process.terminate()
            said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert f"EDGE listens on 127.0.0.1:{port}; Ctrl-C ends the run" in said
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and len({line["source_meta"]["unit"] for line in lines}) == 1
    text = said + (tmp_path / "lines.jsonl").read_text() + (tmp_path / "summary.json").read_text()
    assert "Secret" not in text and "PID77" not in text and "1.2.3.1" not in text
