"""`edge worklist`: from a file of results or from the spool of a receiver that is running."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from spools import Clock, content, open_spool, send
from test_triage import line

from edge.cli import main
from edge.errors import InputError, StoreError
from edge.privacy import Privacy
from edge.spool import Spool, State
from edge.spool.view import View
from edge.triage import Worklist
from edge.triage.sources import ResultsFile, SpoolStudies


@pytest.fixture
def spool(tmp_path: Path, no_sync: None) -> Spool:
    with open_spool(tmp_path / "spool", Clock()) as opened:
        yield opened


def receive(spool: Spool, study: str, *uids: str) -> None:
    for uid in uids:
        send(spool, uid, content(uid, f"{study}.1").replace(b"9.9", study.encode()))


def answer(spool: Spool, score: float) -> None:
    claim = spool.claim_series(0)
    assert claim is not None
    frames = [
        {"sop_instance_uid": o.uid, "classes": [{"class": 0, "name": "fracture", "score": score}]}
        for o in claim.objects
    ]
    spool.answered(claim, json.dumps({"frames": [*frames, {"flags": ["nan"]}]}).encode())


def listed(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, object]]:
    assert main(["worklist", *map(str, words), "--json"]) == 0
    return list(json.loads(capsys.readouterr().out)["studies"])


def test_a_spool_in_use_is_read_and_not_disturbed(spool: Spool) -> None:
    receive(spool, "1.1", "1.1.1.1", "1.1.1.2")
    receive(spool, "1.2", "1.2.1.1")
    answer(spool, 0.5)
    with View(spool.root) as view:
        states = {s.study: (s.state, s.objects, s.since) for s in view.studies()}
        assert states == {"1.1": (State.ANSWERED, 2, Clock().now), "1.2": (State.QUEUED, 1, Clock().now)}
        (first,) = view.answers()
        receive(spool, "1.3", "1.3.1.1")  # its owner goes on beside it
        answer(spool, 0.7)
        assert [a.study for a in view.answers(first.number)] == ["1.2"]
    assert spool.answers()[0] == first


def test_a_spool_that_nobody_uses_is_read_too_even_where_nothing_may_be_written(
    spool: Spool, tmp_path: Path
) -> None:
    receive(spool, "1.1", "1.1.1.1")
    answer(spool, 0.5)
    spool.close()
    folder = tmp_path / "copy"
    folder.mkdir()
    shutil.copy(spool.root / "spool.db", folder)
    with View(folder) as view:
        assert [a.study for a in view.answers()] == ["1.1"]


def test_the_state_of_a_study_is_that_of_its_least_advanced_object(spool: Spool) -> None:
    receive(spool, "1.1", "1.1.1.1")
    answer(spool, 0.5)
    receive(spool, "1.1", "1.1.1.2")
    spool.index()
    with View(spool.root) as view:
        assert [s.state for s in view.studies()] == [State.QUEUED]
    claim = spool.claim_series(0)
    assert claim is not None
    spool.quarantine(claim, "no pixels")
    with View(spool.root) as view:
        assert [(s.state, s.objects) for s in view.studies()] == [(State.ANSWERED, 1)]


def test_what_is_no_spool_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no spool"):
        View(tmp_path)
    (tmp_path / "spool.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="cannot read"):
        View(tmp_path)


def test_answers_are_added_once_and_studies_without_one_are_listed(spool: Spool) -> None:
    receive(spool, "1.1", "1.1.1.1", "1.1.1.2")
    answer(spool, 0.5)
    receive(spool, "1.2", "1.2.1.1")
    spool.index()
    worklist, source = Worklist(), SpoolStudies(spool.root, Privacy("none"))
    for _ in range(3):
        source.read(worklist)
    rows = {row.study: row for row in worklist.rows()}
    assert list(rows) == ["1.1", "1.2"]
    assert (rows["1.1"].score, rows["1.1"].objects, rows["1.1"].results) == (0.5, 2, 3)
    assert (rows["1.1"].state, rows["1.1"].flags) == ("answered", ("nan",))
    assert (rows["1.2"].score, rows["1.2"].state, rows["1.2"].verdict) == (None, "queued", "not looked at")
    answer(spool, 0.9)
    source.read(worklist)
    assert [row.study for row in worklist.rows()] == ["1.2", "1.1"]
    source.close()


def test_studies_of_a_spool_have_pseudonyms_unless_asked(
    spool: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    receive(spool, "1.1", "1.1.1.1")
    answer(spool, 0.5)
    (row,) = listed(capsys, spool.root)
    assert row["study"] == Privacy().uid("1.1") != "1.1"
    (row,) = listed(capsys, spool.root, "--privacy", "none")
    assert row["study"] == "1.1"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    lines = [line("1.1", fracture=0.4), line("1.2", cyst=0.9), line("1.3", 5, fracture=0.6)]
    path.write_text("".join(json.dumps(fields) + "\n" for fields in lines))
    return path


def test_the_list_is_printed_as_json_and_as_a_table(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [row["study"] for row in listed(capsys, results)] == ["1.2", "1.3", "1.1"]
    rows = listed(capsys, results, "--urgent", "fracture:0.5", "--top", 2)
    assert [(row["study"], row["urgent"], row["finding"]) for row in rows] == [
        ("1.3", True, "fracture"),
        ("1.1", False, "fracture"),
    ]
    assert main(["worklist", str(results), "--urgent", "fracture:0.5"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert "3 studies, 1 urgent" in table[0]
    assert table[2].split()[:3] == ["urgent", "fracture", "0.6000"]


def test_the_rules_come_from_a_streams_config(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "stream.toml"
    config.write_text("[triage]\nurgent = { fracture = 0.5 }\n")
    assert [row["study"] for row in listed(capsys, results, "--config", config)] == ["1.3", "1.1", "1.2"]


def test_a_page_is_written(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "list.html"
    assert main(["worklist", str(results), "--html", str(page)]) == 0
    text = page.read_text()
    assert text.index(">1.2<") < text.index(">1.3<") < text.index(">1.1<")
    assert "refresh" not in text


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    path, worklist = tmp_path / "r.jsonl", Worklist()
    written = json.dumps(line("1.1", x=0.5))
    path.write_text(written + "\n" + written[:30])
    source = ResultsFile(path)
    source.read(worklist)
    assert [row.results for row in worklist.rows()] == [1]
    with path.open("a") as file:
        file.write(written[30:] + "\n")
    source.read(worklist)
    assert [row.results for row in worklist.rows()] == [2]
    source.close()


@pytest.mark.parametrize("text", ["PID-7700881\n", "[]\n", '{"x": "PID-7700881"}\n'])
def test_a_line_that_is_no_result_is_named_and_not_quoted(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    assert main(["worklist", str(tmp_path / "r.jsonl")]) == 4
    said = capsys.readouterr().err
    assert "line 1 cannot be read" in said and "PID-7700881" not in said


@pytest.mark.parametrize(
    "words", [["--json", "--watch"], ["--top", "0"], ["--watch"], ["--urgent", "fracture"]]
)
def test_arguments_that_make_no_sense_are_usage_errors(words: list[str], results: Path) -> None:
    assert main(["worklist", str(results), *words]) == 2


def test_nothing_to_read_says_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worklist", str(tmp_path / "none.jsonl")]) == 4
    assert main(["worklist", str(tmp_path)]) == 4
    assert "give the folder of a receiver" in capsys.readouterr().err
