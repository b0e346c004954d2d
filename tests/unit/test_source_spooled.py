"""Feeds that go through a spool: what is received is inferred and answered once, whatever it is."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("pynetdicom", reason="the extra 'pacs' is not installed")

from live import Going, Steady, delivered, going, until  # noqa: E402
from streaming import Collect, feed  # noqa: E402

from edge.dicom import desk  # noqa: E402
from edge.errors import InputError, StoreError, UsageError  # noqa: E402
from edge.sources import open_source  # noqa: E402
from edge.spool import Answer, Spool, State  # noqa: E402
from edge.stream.config import FeedConfig  # noqa: E402
from edge.stream.feed import Feed, open_feed  # noqa: E402
from edge.stream.network import null_network  # noqa: E402
from edge.stream.run import Run  # noqa: E402
from tests.pacs import association, authority, ct_slice, store, tool  # noqa: E402

SUCCESS = 0


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch, no_sync: None) -> None:
    monkeypatch.setattr(desk, "LOOK_S", 0.01)


class Box:
    """A run with one feed that receives."""

    def __init__(self, run: Going, feed: Feed, sink: Collect) -> None:
        self.run, self.feed, self.sink = run, feed, sink
        self.source: Any = feed.source

    @property
    def port(self) -> int:
        return int(self.source.supply.port)

    @property
    def spool(self) -> Spool:
        spool: Spool = self.source.outcomes.spool
        return spool

    def send(self, *data: pydicom.Dataset, **how: Any) -> None:
        with association(self.port, **how) as assoc:
            assert [store(assoc, one) for one in data] == [SUCCESS] * len(data)

    def lines(self, count: int) -> list[dict[str, Any]]:
        """The answers, once there are so many."""
        until(lambda: len(self.spool.answers()) >= count)
        return [json.loads(answer.body) for answer in self.spool.answers()]


def address(tmp_path: Path, **settings: Any) -> str:
    settings = {"spool": tmp_path / "spool", "quiet": 1.0, "free_gb": 0, **settings}
    return "dicom+scp://127.0.0.1:0?" + "&".join(f"{name}={value}" for name, value in settings.items())


def receiving(tmp_path: Path, **settings: Any) -> Feed:
    return open_feed(FeedConfig(source=address(tmp_path, **settings)))


def answers_of(tmp_path: Path) -> list[Answer]:
    with Spool(tmp_path / "spool") as spool:
        return spool.answers()


@pytest.fixture
def box(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Box]:
    """Settings of the address are given by `parametrize(..., indirect=True)`."""
    one, sink = receiving(tmp_path, **getattr(request, "param", {})), Collect()
    with going(Run(null_network(), [one], [("c", sink)])) as run:
        yield Box(run, one, sink)


objects = pytest.mark.parametrize("box", [{"unit": "object"}], indirect=True)


def broken(number: int) -> pydicom.Dataset:
    """A slice that claims more pixels than it has."""
    data = ct_slice(number)
    data.Rows = 4096
    return data


def test_slices_of_a_series_become_one_unit_in_the_order_of_the_anatomy(box: Box) -> None:
    axes = [1, 0, 0, 0, 1, 0]
    heights = {1: 30.0, 2: 10.0, 3: 20.0}
    places = [{"ImagePositionPatient": [0, 0, z], "ImageOrientationPatient": axes} for z in heights.values()]
    box.send(*(ct_slice(n, **place) for n, place in zip(heights, places, strict=True)))
    (line,) = box.lines(1)
    assert [frame["sop_instance_uid"] for frame in line["frames"]] == ["1.2.3.2", "1.2.3.3", "1.2.3.1"]
    assert (line["study_instance_uid"], line["series_instance_uid"]) == ("1.2.8", "1.2.9")
    assert (line["revision"], line["failed"]) == (1, [])
    assert {result.frame.meta["unit"] for result in box.sink.results} == {line["unit"]}
    assert box.spool.counts() == {State.ANSWERED: 3}


def test_a_late_slice_is_an_update_with_itself_alone(box: Box) -> None:
    box.send(ct_slice(1), ct_slice(2))
    box.lines(1)
    box.send(ct_slice(3))
    first, second = box.lines(2)
    assert (first["revision"], second["revision"]) == (1, 2)
    assert [frame["sop_instance_uid"] for frame in second["frames"]] == ["1.2.3.3"]


@objects
def test_objects_are_answered_one_by_one_and_the_same_one_again_is_not(box: Box) -> None:
    box.send(ct_slice(1), ct_slice(2), ct_slice(1))
    assert sorted(line["frames"][0]["sop_instance_uid"] for line in box.lines(2)) == ["1.2.3.1", "1.2.3.2"]
    box.send(ct_slice(2))
    box.run.end()
    assert len(box.sink.results) == 2


@objects
def test_another_object_under_the_same_uid_is_set_aside_and_the_first_one_answered(box: Box) -> None:
    box.send(ct_slice(1), ct_slice(1, PatientID="PID78"), ct_slice(2))
    lines = box.lines(2)
    assert sorted(line["frames"][0]["sop_instance_uid"] for line in lines) == ["1.2.3.1", "1.2.3.2"]
    (apart,) = box.spool.objects(State.QUARANTINED)
    assert "other content" in apart.reason and b"PID78" in apart.path.read_bytes()


def test_frames_of_one_object_come_one_by_one(box: Box) -> None:
    cine = ct_slice(1)
    cine.NumberOfFrames, cine.PixelData = 4, cine.PixelData * 4
    box.send(cine)
    (line,) = box.lines(1)
    assert [frame["frame_number"] for frame in line["frames"]] == [1, 2, 3, 4]


def test_what_cannot_be_decoded_is_set_aside_with_its_reason_and_the_others_are_answered(box: Box) -> None:
    box.send(ct_slice(1), broken(2), ct_slice(3))
    (line,) = box.lines(1)
    assert [frame["sop_instance_uid"] for frame in line["frames"]] == ["1.2.3.1", "1.2.3.3"]
    assert [(f["sop_instance_uid"], f["cause"]) for f in line["failed"]] == [("1.2.3.2", "capture")]
    (aside,) = box.spool.objects(State.QUARANTINED)
    assert aside.uid == "1.2.3.2" and "bytes" in aside.reason
    box.run.end()
    assert box.run.row("dicom")["failures"] == {"capture": 1}


@objects
def test_many_bad_objects_in_a_row_do_not_end_the_feed(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.stream.reader.LOST_AFTER", 5)
    box.send(*(broken(number) for number in range(12)), ct_slice(200))
    (line,) = box.lines(1)
    assert line["frames"][0]["sop_instance_uid"] == "1.2.3.200"
    assert box.spool.counts() == {State.QUARANTINED: 12, State.ANSWERED: 1}


def test_an_object_without_pixels_is_quarantined(box: Box) -> None:
    report = ct_slice(1)
    del report.PixelData, report.Rows, report.Columns
    box.send(report)
    until(lambda: box.spool.counts()[State.QUARANTINED] == 1)
    assert "Pixel Data" in box.spool.objects(State.QUARANTINED)[0].reason


@pytest.mark.parametrize("box", [{"window": "LUNG"}], indirect=True)
def test_the_window_is_the_one_that_was_asked_for(box: Box) -> None:
    names = {"WindowCenterWidthExplanation": ["SOFT", "LUNG"]}
    box.send(ct_slice(1, WindowCenter=["40", "-600"], WindowWidth=["400", "1500"], **names))
    box.lines(1)
    assert any("center -600" in step for step in box.sink.results[0].frame.meta["transforms"])


def test_slices_without_a_window_share_one_range(box: Box) -> None:
    box.send(ct_slice(1), ct_slice(2))
    box.lines(1)
    steps = [result.frame.meta["transforms"] for result in box.sink.results]
    assert steps[0] == steps[1] and "series range" in steps[0][0]


def test_nothing_of_the_patient_is_in_lines_results_and_names(box: Box, tmp_path: Path) -> None:
    box.send(ct_slice(1), broken(2))
    text = json.dumps(box.lines(1)) + json.dumps([dict(r.frame.meta) for r in box.sink.results])
    text += "".join(map(str, tmp_path.rglob("*"))) + json.dumps(box.run.end().data)
    assert "Secret" not in text and "PID77" not in text


def test_idle_is_not_stalled_and_the_run_ends_with_its_receiver(box: Box) -> None:
    until(lambda: box.feed.lane.idle)
    assert box.feed.life.state == "live"
    port = box.port
    summary = box.run.end()
    assert (summary.exit_code, box.run.row("dicom")["ended"]) == (0, "shutdown")
    with association(port) as assoc:
        assert not assoc.is_established


@pytest.mark.parametrize("how, diagnostic", [({"called": "OTHER"}, 7), ({"calling": "CT9"}, 3)])
@pytest.mark.parametrize("box", [{"calling": "CT1,CT2"}], indirect=True)
def test_wrong_ae_titles_are_rejected(box: Box, how: dict[str, str], diagnostic: int) -> None:
    with association(box.port, **{"calling": "CT1", **how}) as assoc:
        assert assoc.is_rejected and assoc.acceptor.primitive.diagnostic == diagnostic
    box.send(ct_slice(1), calling="CT2")
    box.lines(1)


def test_with_tls_clients_without_a_certificate_are_turned_away(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    made = authority(tmp_path / "ca")
    files = {"tls_cert": "server.pem", "tls_key": "server.key", "tls_clients": "ca.pem"}
    one = receiving(tmp_path, **{name: made[file] for name, file in files.items()})
    client = ssl.create_default_context(cafile=str(made["ca.pem"]))
    with going(Run(null_network(), [one], [])) as run:
        box = Box(run, one, Collect())
        with association(box.port, tls_args=(client, "127.0.0.1")) as assoc:
            assert not assoc.is_established
        client.load_cert_chain(made["client.pem"], made["client.key"])
        box.send(ct_slice(1), tls_args=(client, "127.0.0.1"))
        box.lines(1)


def test_what_was_kept_long_enough_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "PURGE_S", 0.05)
    one = receiving(tmp_path, unit="object", answered_h=0)
    with going(Run(null_network(), [one], [])) as run:
        box = Box(run, one, Collect())
        box.send(ct_slice(1))
        box.lines(1)
        until(lambda: not [path for path in (tmp_path / "spool/objects").rglob("*") if path.is_file()])
        box.send(ct_slice(1))  # it is remembered
        box.send(ct_slice(2))
        assert len(box.lines(2)) == 2


def test_a_run_that_stops_gives_back_what_it_has_not_answered(tmp_path: Path) -> None:
    network, asked = null_network(), []
    one = receiving(tmp_path)
    run = Run(network, [one], [])

    def prepare(*_: Any) -> None:
        asked.append(1)
        until(run.stop.is_set)

    network.prepare = prepare  # type: ignore[method-assign]
    with going(run) as started:
        Box(started, one, Collect()).send(*map(ct_slice, range(20)))
        until(lambda: asked)
        started.end()
    assert answers_of(tmp_path) == []
    one = receiving(tmp_path)
    with going(Run(null_network(), [one], [])) as started:
        (line,) = Box(started, one, Collect()).lines(1)
    assert len(line["frames"]) == delivered(one) == 20


def test_frames_that_fail_in_the_engine_are_tried_once_more(tmp_path: Path) -> None:
    network, failures, one = null_network(), iter([True, True]), receiving(tmp_path)
    interpret = network.interpret

    def flaky(*args: Any) -> Any:
        if next(failures, False):
            raise RuntimeError("the engine hiccups")
        return interpret(*args)

    network.interpret = flaky  # type: ignore[method-assign]
    with going(Run(network, [one], [])) as run:
        box = Box(run, one, Collect())
        box.send(ct_slice(1), ct_slice(2))
        (line,) = box.lines(1)
    assert len(line["frames"]) == 2 and line["failed"] == []


def test_what_fails_in_the_engine_for_ever_is_quarantined_and_blocks_nothing(tmp_path: Path) -> None:
    network, seen, one = null_network(), [], receiving(tmp_path, unit="object")

    def prepare(frame: Any, *_: Any) -> None:
        seen.append(frame.meta["sop_instance_uid"])
        if seen[-1] == "1.2.3.1":
            raise RuntimeError("the engine does not like it")

    network.prepare = prepare  # type: ignore[method-assign]
    with going(Run(network, [one], [])) as run:
        box = Box(run, one, Collect())
        box.send(ct_slice(1), ct_slice(2))
        until(lambda: box.spool.counts() == {State.QUARANTINED: 1, State.ANSWERED: 1})
    assert seen.count("1.2.3.1") == 2


def test_one_engine_serves_a_camera_and_a_receiver_at_once(tmp_path: Path) -> None:
    one, sink = receiving(tmp_path), Collect()
    with going(Run(null_network(), [one, feed("room", Steady())], [("c", sink)])) as run:
        box = Box(run, one, sink)
        until(lambda: len(sink.sequence("room")) > 20)
        box.send(*map(ct_slice, range(8)))
        (line,) = box.lines(1)
        seen = len(sink.sequence("room"))
        until(lambda: len(sink.sequence("room")) > seen + 20)
        run.end()
    assert len(line["frames"]) == len(sink.sequence("dicom")) == 8
    assert run.row("dicom")["dropped"] == {}


def test_storescu_sends_and_is_answered(box: Box, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.dcm" for n in range(3)]
    for number, path in enumerate(paths):
        pydicom.dcmwrite(path, ct_slice(number), enforce_file_format=True)
    words = [tool("storescu"), "-aec", "EDGE", "127.0.0.1", str(box.port), *map(str, paths)]
    subprocess.run(words, check=True, timeout=60)
    (line,) = box.lines(1)
    assert len(line["frames"]) == 3


@pytest.mark.parametrize(
    "settings, what",
    [
        ({"spool": ""}, "no spool"),
        ({"unit": "study"}, "unit=study"),
        ({"quiet": -1}, "quiet"),
        ({"free_gb": "nan"}, "free_gb"),
        ({"answered_h": -1}, "answered_h"),
        ({"colour": "red"}, "no setting 'colour'"),
        ({"networks": "10.0.0.0/99"}, "network"),
        ({"tls_cert": "a.pem"}, "tls_key"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        open_source(address(tmp_path, **settings))


@pytest.mark.parametrize("place", ["", "//", "//:11112", "//127.0.0.1:port", "//127.0.0.1/folder"])
def test_a_place_that_cannot_be_listened_on_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match="no place to listen on"):
        open_source(f"dicom+scp:{place}?spool={tmp_path / 'spool'}")


def test_a_port_or_a_spool_that_is_taken_is_a_plain_error_and_leaves_nothing_open(
    box: Box, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="another process uses it"):
        open_source(address(tmp_path))
    for _ in range(2):  # the first leaves the spool free
        with pytest.raises(InputError, match="cannot listen"):
            open_source(f"dicom+scp://127.0.0.1:{box.port}?spool={tmp_path / 'other'}")
