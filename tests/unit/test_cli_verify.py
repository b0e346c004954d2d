"""`edge verify` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import graphs
import pytest
from published import config, publish

from edge.cli import main


@pytest.fixture(scope="module")
def folder(no_sync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("verify")
    publish(config(made), made, "orin/fast", "cpu/exact")
    return made


def verify(folder: Path, *words: str) -> int:
    return main(["verify", *words, "--engines", str(folder / "engines")])


def test_an_engine_that_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(folder, "tiny/orin/fast") == 0
    text = capsys.readouterr().out
    assert "passes its gate, emulated on the processor" in text
    assert "when it was built" in text and "cosine of out" in text and "samples" in text


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(folder, "tiny/orin/fast", "--json", "--calib", str(folder / "many")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is True and told["now"]["samples"] == 3
    assert {c["tensor"] for c in told["clipped"]} >= {"image/bf16", "stem_relu.out"}


def test_other_samples(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = str(graphs.pictures(tmp_path / "others", 2, masks=True, seed=3))
    assert verify(folder, "tiny/orin/fast", "--evaluation", others, "--labels", others) == 0
    assert "judged by other samples than when it was built" in capsys.readouterr().out


def test_scales_on_new_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(folder, "tiny/orin/fast", "--calib", str(folder / "many")) == 0
    assert "to look at on these pictures" in capsys.readouterr().out


def test_an_engine_without_scales_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(folder, "tiny/cpu/exact", "--calib", str(folder / "many")) == 0
    assert "it has no scales that could clip" in capsys.readouterr().out
    assert verify(folder, "tiny/cpu/exact") == 0
    assert "clip" not in capsys.readouterr().out


def test_an_engine_that_fails_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its gate asks for more than it ever had."""
    (entry,) = publish(config(tmp_path), tmp_path, "orin/fast").values()
    path = entry.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["gate"]["min_sqnr_db"] = 200
    path.write_text(json.dumps(manifest))
    assert verify(tmp_path, "tiny/orin/fast") == 3
    text = capsys.readouterr().out
    assert "fails its gate now" in text and "the gate asks for 200" in text


def test_labels_need_their_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(folder, "tiny/orin/fast", "--labels", str(folder)) == 2
    assert "--labels needs --evaluation" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [(["tiny/cpu/fast"], 2), (["tiny"], 2), (["absent"], 2)])
def test_what_is_not_there(
    words: list[str], code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(folder, *words) == code
    assert capsys.readouterr().err
