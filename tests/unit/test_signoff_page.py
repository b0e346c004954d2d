"""The page: everything said, everything escaped, nothing fetched."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edge.build import evidence
from edge.signoff.data import Refused
from edge.signoff.html import VOID, bullets, table, tag
from edge.signoff.page import page
from tests.dossiers import Shelf, accuracy, full, group

pytest.importorskip("matplotlib", reason="matplotlib draws the figures")

EVIL = '<script>alert("1")</script>'


class Reader(HTMLParser):
    """Text and tags of a page; complains of tags that do not match."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(content)
        assert self._open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.references += [v or "" for k, v in attributes if k in ("src", "href", "xlink:href", "action")]
        if name not in VOID:
            self._open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.references += [v or "" for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_tags_escape_what_is_not_markup() -> None:
    made = tag("p", "a < b", tag("b", "&"), title='"', hidden=None)
    assert made == '<p title="&quot;">a &lt; b<b>&amp;</b></p>'
    assert EVIL not in table([EVIL], [[EVIL]]) + bullets([EVIL])


def test_names_from_outside_never_become_markup(shelf: Shelf) -> None:
    made = shelf.add(
        reason=EVIL, lint=(EVIL,), accuracy=accuracy(how=EVIL), config={"calibration": {"images": EVIL}}
    )
    shelf.keep(made, EVIL, groups=30, policy={"name": EVIL, "rules": [{"reason": EVIL}]})
    path = shelf.root / "net" / evidence.FOLDER / "ada" / "fast.json"
    evil = EVIL.replace('"', '\\"')
    path.write_text(path.read_text().replace("conv0", evil).replace("heat_in", evil).replace("too sen", evil))
    content = page(shelf.dossier(Refused(EVIL, EVIL)))
    found = Reader(content)
    assert "script" not in found.tags
    assert content.count("<script") == 0 and found.text.count(EVIL) > 10


def test_nothing_is_fetched(tmp_path: Path) -> None:
    content = page(full(tmp_path).dossier())
    found = Reader(content)
    assert found.references
    assert all(re.match(r"#|data:image/jpeg;base64,", reference) for reference in found.references)
    assert not {"script", "link", "iframe", "object"} & {*found.tags}
    assert "@import" not in content and not re.search(r"url\((?!#)", content)
    outside = {
        m for m in re.findall(r"https?://[^\"' <]+", content) if not m.startswith("http://www.w3.org/")
    }
    assert outside == set()


def test_the_verdict_comes_first(tmp_path: Path) -> None:
    text = Reader(page(full(tmp_path).dossier())).text
    assert text.index("All 2 engines pass their gate.") < text.index("The engines")


def test_every_engine_with_its_figures_and_limits(tmp_path: Path) -> None:
    text = Reader(page(full(tmp_path).dossier())).text.replace("\u00a0", " ").replace("\u202f", " ")
    for said in (
        "ada/fast", "ada/exact", "80 % int8, 20 % bf16", "0.9300 → 0.9200", "0.0100 (0.05 allowed)", "1.7×",
        "L4, L40S", "F1 drop 0.0100 ≤ 0.05", "cosine 0.99910 ≥ 0.98", "SQNR 28.5 dB, no limit",
        "f1 falls by 0.2", "the engine’s plan", "roofline estimate", "p99.9 at ±6",
        "max at ±9 leaves 3× the error",
        "a.jpg", "divergence 1.5", "24", "/data/calibration", "/data/eval", "The evaluation was held out",
        "Simulated: ada/fast and ada/exact were not run on the device", "40 pictures", "ab" * 32, "cd" * 32,
        "Signature", "Approved by", "Signal-to-quantization-noise ratio", "may show patients",
    ):  # fmt: skip
        assert said in text, said


def test_failed_refused_and_damaged_engines_are_said(shelf: Shelf) -> None:
    shelf.add("ada", accuracy=accuracy(0.7))
    broken = shelf.add("orin")
    (shelf.root / "net/orin/fast" / broken.key / "manifest.json").write_text("{")
    content = page(shelf.dossier(Refused("t4/fast", "f1 falls by 0.3"), Refused("ada/fast", "it fell again")))
    text = Reader(content).text
    assert "ada/fast does not" in text and "✗ fails" in text and "F1 drop 0.2300 > 0.05" in text
    assert (
        "t4/fast: f1 falls by 0.3." in text
        and "it fell again. The engine of that name above is an earlier" in text
    )
    assert "must not be used" in text and 'class="verdict bad"' in content


def test_a_model_of_which_everything_was_refused(shelf: Shelf) -> None:
    text = Reader(page(shelf.dossier(Refused("t4/fast", "f1 falls by 0.3")))).text
    assert "No engine has been judged. Not published: t4/fast." in text


def test_without_evidence_the_manifest_says_what_it_knows(shelf: Shelf) -> None:
    plan = [{"node": "c", "op": "Conv", "precision": "int8", "reason": "pays", "group": "c"}]
    shelf.add("ada", plan=plan)
    shelf.add("cpu", accuracy=None, config={}, plan=[])
    content = page(shelf.dossier())
    text = Reader(content).text
    assert "pays" in text and "Of cpu/fast and ada/fast only the manifest is known" in text
    assert "was not judged" in text and "patients" not in text and "<img" not in content


def test_engines_without_labels(shelf: Shelf) -> None:
    shelf.keep(
        shelf.add(accuracy=accuracy(0.9991, 1.0, metric="cosine"), config={"gate": {"min_cosine": 0.99}})
    )
    text = Reader(page(shelf.dossier())).text
    assert "agree with the original's to a cosine of 0.99910" in text and "There are no labels" in text


def test_numbers_that_are_not_finite(shelf: Shelf) -> None:
    groups = [group(0, types={"int8": {"noise": float("inf")}}), group(1, types={"int8": {"noise": 0.0}})]
    made = shelf.add(accuracy=accuracy(float("nan")))
    shelf.keep(made, "a.jpg", groups=2)
    path = shelf.root / "net" / evidence.FOLDER / "ada" / "fast.json"
    kept = json.loads(path.read_text())
    kept["groups"] = groups
    path.write_text(json.dumps(kept))
    assert "FAILS its gate" in Reader(page(shelf.dossier())).text


def test_pictures_are_shown_once(shelf: Shelf) -> None:
    shelf.keep(shelf.add("ada"), "a.jpg", "b.jpg")
    shelf.keep(shelf.add("orin", accuracy=accuracy(0.91)), "a.jpg", "b.jpg")
    content = page(shelf.dossier())
    assert content.count("<img") == 4
    assert "2 more pictures are shown above, at orin/fast" in Reader(content).text


def test_a_picture_that_is_gone_is_said(shelf: Shelf) -> None:
    shelf.keep(shelf.add(), "a.jpg")
    (shelf.root / "net" / evidence.FOLDER / "ada" / "fast-0-fp32.jpg").unlink()
    assert "The picture is gone." in page(shelf.dossier())
