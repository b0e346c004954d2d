"""`edge report`, and the report that `edge build` writes at its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import pytest

from edge.build import evidence
from edge.cli import main
from edge.signoff import report
from tests import graphs
from tests.dossiers import Shelf, full

pytest.importorskip("matplotlib", reason="matplotlib draws the figures")

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return full(tmp_path)


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.backends.backend_agg", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)


class TestCommand:
    def test_it_writes_beside_the_engines(self, shelf: Shelf, capsys: Capture) -> None:
        assert main(["report", "net", "--engines", str(shelf.root)]) == 0
        html, png = shelf.root / "net/report.html", shelf.root / "net/report.png"
        out = capsys.readouterr().out
        assert out.startswith("All 2 engines pass their gate.") and str(html) in out and str(png) in out
        assert "they hold pictures of the evaluation set" in out
        assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
        assert cv2.imread(str(png)) is not None

    def test_it_writes_where_it_is_told(self, shelf: Shelf, tmp_path: Path) -> None:
        html, png = tmp_path / "new/a.html", tmp_path / "b.png"
        words = ["report", "net", "--engines", str(shelf.root), "--html", str(html), "--png", str(png)]
        assert main(words) == 0
        assert html.is_file() and png.is_file() and not (shelf.root / "net/report.html").exists()
        assert sorted(p.name for p in html.parent.iterdir()) == ["a.html"]

    def test_json(self, shelf: Shelf, capsys: Capture) -> None:
        assert main(["report", "net", "--engines", str(shelf.root), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["verdict"].startswith("All 2 engines") and told["holds_pictures"] is True
        first = told["engines"][0]
        assert (first["target"], first["variant"], first["passes"], first["speed_up"]) == (
            "ada",
            "fast",
            True,
            1.67,
        )
        assert first["drop"] == pytest.approx(0.01)

    def test_a_model_that_is_not_there(self, shelf: Shelf, capsys: Capture) -> None:
        assert main(["report", "nit", "--engines", str(shelf.root)]) == 2
        told = capsys.readouterr().err
        assert "no engine of 'nit'" in told and "did you mean 'net'?" in told

    def test_without_matplotlib(self, shelf: Shelf, no_matplotlib: None, capsys: Capture) -> None:
        assert main(["report", "net", "--engines", str(shelf.root)]) == 2
        assert "pip install matplotlib" in capsys.readouterr().err
        assert not (shelf.root / "net/report.html").exists()

    def test_a_file_that_cannot_be_written(self, shelf: Shelf, capsys: Capture) -> None:
        (shelf.root / "net/report.html").mkdir()
        assert main(["report", "net", "--engines", str(shelf.root)]) == 5
        assert "cannot write" in capsys.readouterr().err
        assert not [p for p in (shelf.root / "net").iterdir() if p.name.startswith(".") and p.is_file()]

    def test_the_store_is_read_as_before(self, shelf: Shelf, capsys: Capture) -> None:
        main(["report", "net", "--engines", str(shelf.root)])
        capsys.readouterr()
        assert main(["inspect", "--engines", str(shelf.root)]) == 0
        assert "2 engines in" in capsys.readouterr().out


class TestBuild:
    @pytest.fixture
    def words(self, tmp_path: Path) -> list[str]:
        """A build of a tiny graph for the processor, whose gate asks for more than bf16 has."""
        config = graphs.config(tmp_path / "data", graphs.residual())
        (tmp_path / "net.toml").write_text(
            f"""
            name = "tiny"
            onnx = "{config.onnx}"
            input = {{ size = [32, 32] }}
            task = {{ kind = "segment", scores = "probabilities", threshold = 0.5 }}
            calibration = {{ images = "{tmp_path}/data/calibration" }}
            evaluation = {{ images = "{tmp_path}/data/evaluation" }}
            gate = {{ min_sqnr_db = 120.0 }}
            """
        )
        store = ["--out", str(tmp_path / "engines")]
        return ["build", "--model", str(tmp_path / "net.toml"), "--variants", "exact", *store, "--targets"]

    def test_it_ends_with_a_report(self, words: list[str], tmp_path: Path, capsys: Capture) -> None:
        assert main([*words, "cpu"]) == 0
        html = tmp_path / "engines/tiny/report.html"
        assert f"report: {html}" in capsys.readouterr().err
        assert "The engine passes its gate." in html.read_text(encoding="utf-8")
        assert (tmp_path / "engines/tiny/report.png").is_file()

    def test_refused_engines_are_in_it(self, words: list[str], tmp_path: Path) -> None:
        assert main([*words, "cpu,a10"]) == 3
        text = (tmp_path / "engines/tiny/report.html").read_text(encoding="utf-8")
        assert "Not published: a10/exact." in text and "the gate asks for 120" in text

    def test_no_report(self, words: list[str], tmp_path: Path, capsys: Capture) -> None:
        assert main([*words, "cpu", "--no-report"]) == 0
        assert "report" not in capsys.readouterr().err
        left = {path.name for path in (tmp_path / "engines/tiny").iterdir()}
        assert "cpu" in left and not left & {"report.html", "report.png", evidence.FOLDER}

    def test_without_matplotlib_one_line(
        self, words: list[str], no_matplotlib: None, tmp_path: Path, capsys: Capture
    ) -> None:
        assert main([*words, "cpu"]) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "report" in line]
        assert len(said) == 1 and "needs the package 'matplotlib'" in said[0] and "pip install" in said[0]
        assert (tmp_path / "engines/tiny/cpu/exact/current").is_file()

    @pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), ZeroDivisionError("oops")])
    def test_a_report_that_fails_does_not_lose_the_build(
        self, fault: Exception, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        def fail(*_: object) -> None:
            raise fault

        monkeypatch.setattr(report, "draw_poster", fail)
        assert main([*words, "cpu"]) == 0
        assert "warning: no report: " in capsys.readouterr().err
