"""The worklist: what counts, in which order, and a file of it that is kept up to date."""

from __future__ import annotations

import json
import random
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import SIZE, Script, feed, heatmap_graph, network_of, pictures

from edge.backends import EngineOptions
from edge.errors import InputError, RuntimeFault, UsageError
from edge.sinks import Sink, open_sink
from edge.sinks.triage import TriageFile, urgent_rule
from edge.stream.run import Run
from edge.tasks.classify import Classes
from edge.triage import Rules, Worklist, found_in
from edge.triage.page import age, page, restore
from edge.types import EngineId, Frame, Result

STAGES = dict.fromkeys(("capture", "queue", "preprocess", "infer", "postprocess", "total"), 0.001)
NOW = 1_700_000_000.0


def line(study: str, second: float = 0.0, instance: str = "1", **found: float) -> dict[str, Any]:
    """A result line of one frame."""
    return {
        "feed": "dicom",
        "captured_at": datetime.fromtimestamp(NOW + second, timezone.utc).isoformat(),
        "classes": [
            {"class": i, "score": score, "name": name} for i, (name, score) in enumerate(found.items())
        ],
        "source_meta": {"study_instance_uid": study, "sop_instance_uid": instance, "modality": "DX"},
        "flags": [],
    }


def result(study: str, score: float, seq: int = 0, name: str = "fracture") -> Result:
    meta = {"study_instance_uid": study, "sop_instance_uid": f"{study}.{seq}", "modality": "DX"}
    frame = Frame("dicom", seq, np.zeros((8, 8, 3), np.uint8), None, 1.0, NOW + seq, meta=meta)
    payload = Classes(np.array([0]), np.array([score], np.float32), (name,))
    return Result(frame, EngineId("m", "cpu", "fast", "k"), payload, STAGES)


def order(worklist: Worklist) -> list[str]:
    return [row.study for row in worklist.rows()]


def listed(*lines: dict[str, Any], **urgent: float) -> Worklist:
    worklist = Worklist(Rules(urgent))
    for fields in lines:
        worklist.add(fields)
    return worklist


def test_the_best_score_of_each_class_is_read_from_a_result_line() -> None:
    fields = {
        "classes": [{"class": 3, "score": 0.5}, {"class": 1, "score": None, "name": "x"}],
        "detections": [{"class": 0, "name": "nodule", "score": s, "box": []} for s in (0.2, 0.7, 0.3)],
        "volumes": [{"class": 2, "name": "lesion", "ml": 0.0, "score": None}],
        "mask": {"label": "text", "share": 0.1, "boxes": [{"box": [], "score": 0.66667}]},
    }
    assert found_in(fields) == {"3": 0.5, "nodule": 0.7, "text": 0.6667}
    assert found_in({}) == {}


def test_studies_are_sorted_by_the_confidence_of_what_was_found() -> None:
    worklist = listed(line("a", fracture=0.2), line("b", fracture=0.9), line("c"), line("d", fracture=0.5))
    assert order(worklist) == ["b", "d", "a", "c"]


def test_urgent_studies_come_first_whatever_the_score_of_others() -> None:
    worklist = listed(
        line("a", fracture=0.9), line("b", bleeding=0.4), line("c", cyst=1.0), fracture=0.95, bleeding=0.3
    )
    assert order(worklist) == ["b", "a", "c"]
    assert [row.urgent for row in worklist.rows()] == [True, False, False]


def test_only_classes_with_a_rule_count_where_there_are_rules() -> None:
    (row,) = listed(line("a", cyst=1.0, fracture=0.1), fracture=0.5).rows()
    assert (row.finding, row.score) == ("fracture", 0.1)


def test_an_urgent_finding_is_shown_before_one_with_a_higher_score() -> None:
    (row,) = listed(line("a", bleeding=0.4, fracture=0.9), bleeding=0.3, fracture=0.95).rows()
    assert (row.finding, row.urgent) == ("bleeding", True)


def test_a_study_has_its_best_frame_and_each_object_once() -> None:
    frames = [
        line("a", 5, "1", fracture=0.2),
        line("a", 3, "2", fracture=0.8),
        line("a", 9, "2", fracture=0.1),
    ]
    (row,) = listed(*frames).rows()
    assert (row.score, row.objects, row.results, row.since) == (0.8, 2, 3, NOW + 3)


def test_of_equal_scores_the_oldest_comes_first() -> None:
    worklist = listed(line("a", 3, x=0.5), line("b", 1, x=0.5), line("c", 2, x=0.5))
    assert order(worklist) == ["b", "c", "a"]


def test_the_order_of_the_results_does_not_matter() -> None:
    lines = [line(f"s{i}", i, x=round(i % 5 / 5, 1), y=0.3) for i in range(40)]
    expected = order(listed(*lines, x=0.7))
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        assert order(listed(*lines, x=0.7)) == expected


def test_scores_that_differ_only_by_rounding_are_equal() -> None:
    worklist = listed(line("a", 2, x=0.50000001), line("b", 1, x=0.5))
    assert order(worklist) == ["b", "a"]


def test_the_oldest_studies_are_forgotten_when_there_are_too_many() -> None:
    worklist = Worklist(keep=2)
    for second, study in enumerate("abc"):
        worklist.add(line(study, second, x=0.5))
    assert order(worklist) == ["b", "c"]


def test_a_list_taken_up_again_goes_on_as_if_it_had_never_ended() -> None:
    lines = [line(f"s{i % 4}", i, str(i % 7), x=i / 20) for i in range(20)]
    whole = listed(*lines, x=0.8)
    first = listed(*lines[:11], x=0.8)
    for text, take in ((json.dumps(first.to_json(NOW)), Worklist.restore), (page(first, NOW), restore)):
        again = Worklist(Rules({"x": 0.8}))
        take(again, text)
        for fields in lines[11:]:
            again.add(fields)
        assert again.to_json(NOW) == whole.to_json(NOW)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"schema":1,"studies":[{}]}', '{"schema":9,"studies":[]}']
)
def test_what_is_no_list_is_not_taken_up(text: str) -> None:
    with pytest.raises(ValueError):
        Worklist().restore(text)


def test_the_page_fetches_nothing_and_shows_markup_as_text() -> None:
    evil = "</script><script>alert(1)</script><img src=//x onerror=alert(1)>"
    fields = line(evil, **{evil: 0.9})
    fields["source_meta"]["modality"] = evil
    fields["flags"] = [evil]
    worklist = listed(fields, **{evil: 0.5})
    html = page(worklist, NOW, 5)
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda name, pairs: tags.append((name, dict(pairs)))  # type: ignore[method-assign]
    parser.feed(html)
    assert [pairs for name, pairs in tags if name == "script"] == [
        {"type": "application/json", "id": "worklist"}
    ]
    assert not any({"src", "href", "onerror"} & set(pairs) for _, pairs in tags)
    assert {name for name, _ in tags} & {"img", "link", "iframe", "object", "base"} == set()
    again = Worklist()
    restore(again, html)
    assert order(again) == [evil]


def test_ages_are_told_in_the_two_largest_units() -> None:
    told = [age(seconds) for seconds in (-5, 59, 60, 61, 3599, 3660, 86400, 90000, 864000)]
    assert told == ["0 s", "59 s", "1 min", "1 min 1 s", "59 min", "1 h 1 min", "1 d", "1 d 1 h", "10 d"]


# --------------------------------------------------------------------------- the sink


def sink_at(path: Path, settings: str = "every_s=0") -> TriageFile:
    sink = open_sink(f"triage:{path}?{settings}", [])
    assert isinstance(sink, TriageFile)
    return sink


def shown(path: Path) -> list[tuple[str, float, int]]:
    worklist = Worklist()
    (worklist.restore if path.suffix == ".json" else lambda text: restore(worklist, text))(path.read_text())
    return [(row.study, row.score or 0.0, row.results) for row in worklist.rows()]


@pytest.mark.parametrize("name", ["list.json", "list.html"])
def test_the_file_has_every_result_after_the_flush(name: str, tmp_path: Path) -> None:
    sink = sink_at(tmp_path / name)
    for study, score in (("a", 0.25), ("b", 0.75), ("a", 0.5)):
        sink.write(result(study, score))
    sink.flush()
    assert shown(tmp_path / name) == [("b", 0.75, 1), ("a", 0.5, 2)]
    sink.close()


@pytest.mark.parametrize("name", ["list.json", "list.html"])
def test_the_file_survives_a_restart(name: str, tmp_path: Path) -> None:
    for score in (0.25, 0.75):
        sink = sink_at(tmp_path / name)
        sink.write(result("a", score))
        sink.close()
    assert shown(tmp_path / name) == [("a", 0.75, 2)]
    sink_at(tmp_path / name, "append=0").close()
    assert shown(tmp_path / name) == []


def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis.html"
    path.write_text("<p>years of work</p>")
    with pytest.raises(InputError, match="cannot go on with"):
        open_sink(f"triage:{path}", [])
    assert path.read_text() == "<p>years of work</p>"


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    sink = sink_at(path)
    sink.write(result("a", 0.5))
    sink.flush()
    with path.open() as reader:  # somebody who began to read before
        sink.write(result("b", 0.5))
        sink.close()
        assert len(json.load(reader)["studies"]) == 1
    assert len(json.loads(path.read_text())["studies"]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["list.json"]


def test_it_is_not_written_more_often_than_asked_but_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    sink = sink_at(path, "every_s=1000")
    sink.write(result("a", 0.5))
    sink.flush()
    sink.write(result("b", 0.5))
    sink.flush()
    assert len(shown(path)) == 1
    sink.close()
    assert len(shown(path)) == 2


def test_what_could_not_be_written_is_written_when_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    sink = sink_at(folder / "list.json")
    sink.write(result("a", 0.5))
    folder.rmdir()
    folder.touch()
    with pytest.raises(RuntimeFault, match="cannot write"):
        sink.flush()
    folder.unlink()
    sink.reopen()
    sink.write(result("b", 0.5))
    sink.flush()
    assert len(shown(folder / "list.json")) == 2


def test_rules_come_from_the_address_and_from_the_config(tmp_path: Path) -> None:
    sink = sink_at(tmp_path / "list.json", "urgent=a:0.5,b:c:0.25")
    sink.use(Rules({"a": 0.9, "z": 0.1}))
    sink.close()
    assert json.loads((tmp_path / "list.json").read_text())["urgent"] == {"a": 0.5, "b:c": 0.25, "z": 0.1}


@pytest.mark.parametrize("text", ["a", "a:", ":0.5", "a:x", "a:1.5", "a:nan"])
def test_a_rule_without_class_or_score_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="urgent"):
        urgent_rule(text)


@pytest.mark.parametrize(
    "address", ["triage:", "triage:list.txt", "triage:x.json?every_s=-1", "triage:x.json?keep=0"]
)
def test_a_wrong_address_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError):
        open_sink(address, [])


def test_nan_is_no_score(tmp_path: Path) -> None:
    sink: Sink = sink_at(tmp_path / "list.json")
    sink.write(result("a", float("nan")))
    sink.close()
    assert shown(tmp_path / "list.json") == [("a", 0.0, 1)]


@pytest.mark.parametrize("batch", [3, 8])
def test_the_list_is_the_same_whatever_the_batch_size(batch: int, tmp_path: Path) -> None:
    """Of a run with several feeds at once, against one frame after the other."""
    graph = heatmap_graph(tmp_path / "tiny.onnx", batch="batch")
    lists = []
    for size, serial in ((1, True), (batch, False)):
        options = EngineOptions(threads=1, size=(SIZE, SIZE), batch=size)
        network, path = network_of(graph, options), tmp_path / f"{size}.json"
        feeds = [feed(f"feed{i}", Script(pictures(6, seed=i))) for i in range(4)]
        sink = open_sink(f"triage:{path}?urgent=thing:0.6", [])
        Run(network, feeds, [("triage:", sink)], serial=serial).go()
        network.close()
        entries = json.loads(path.read_text())["studies"]
        lists.append([(e["study"], e["urgent"], e["finding"], e["score"], e["results"]) for e in entries])
    assert lists[0] == lists[1] and len({score for *_, score, _ in lists[0]}) == 4
