"""`edge diff` as it is typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from published import config, publish

from edge.cli import main


@pytest.fixture(scope="module")
def engines(no_sync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    publish(config(folder), folder, "orin/fast", "orin/exact", "ada/fast", "t4/fast")
    return folder / "engines"


def diff(engines: Path, *words: str) -> int:
    return main(["diff", *words, "--engines", str(engines)])


def test_one_and_the_same(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(engines, "tiny/orin/fast", "tiny/orin/fast") == 0
    assert "no difference" in capsys.readouterr().out


def test_two_engines(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(engines, "tiny/orin/exact", "tiny/orin/fast") == 0
    text = capsys.readouterr().out
    assert "nodes in another precision" in text and "variant" in text and "work by precision" in text
    assert "scales: 0 changed, 0 only in A" in text


def test_nodes_that_are_in_the_carrier_of_both_are_only_counted(
    engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff(engines, "tiny/orin/fast", "tiny/t4/fast") == 0
    text = capsys.readouterr().out
    assert re.search(r"\d+ nodes in another precision, and \d+ in the other carrier", text)
    assert "bf16   fp16" not in text


def test_scales_of_another_type_say_so(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(engines, "tiny/orin/fast", "tiny/ada/fast") == 0
    assert "int8 → fp8: other steps" in capsys.readouterr().out


def test_json(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(engines, "tiny/orin/exact", "tiny/orin/fast", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same"] is False
    assert {"node": "left", "op": "Conv", "a": "bf16", "b": "int8"}.items() <= next(
        c for c in told["plan"] if c["node"] == "left"
    ).items()
    assert "left.weight/scale" in told["scales_only_in_b"]


def test_by_folder(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (p for p in (engines / "tiny/orin/fast").iterdir() if p.is_dir())
    assert diff(engines, str(folder), "tiny/orin/fast") == 0
    assert "no difference" in capsys.readouterr().out


@pytest.mark.parametrize(("a", "b"), [("tiny/orin/fast", "tiny/cpu/fast"), ("other", "tiny/orin/fast")])
def test_what_is_not_there(a: str, b: str, engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(engines, a, b) == 2
    assert capsys.readouterr().err


def test_a_name_of_several_engines(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(engines, "tiny/orin", "tiny/orin/exact") == 2
    assert "names 2 engines" in capsys.readouterr().err
