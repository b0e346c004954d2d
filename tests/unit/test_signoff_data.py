"""What a report knows: manifests, evidence, and what the gate says of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.build import evidence
from edge.build.verify import failures
from edge.config import GateConfig
from edge.manifest import Accuracy
from edge.signoff import limits, words
from edge.signoff.data import Refused, checks, collect
from tests.dossiers import Shelf, accuracy, full


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_a_store_without_the_model_has_no_dossier(tmp_path: Path) -> None:
    assert collect(tmp_path, "net") is None


def test_engines_come_in_the_order_of_the_matrix(shelf: Shelf) -> None:
    for target, variant in (("ada", "exact"), ("mine", "fast"), ("ada", "fast"), ("cpu", "w8a16")):
        shelf.add(target, variant)
    labels = [engine.label for engine in shelf.dossier().engines]
    assert labels == ["cpu/w8a16", "ada/fast", "ada/exact", "mine/fast"]


@pytest.mark.parametrize("gate", [{}, {"max_drop": 0.005}, {"min_cosine": 0.9999}, {"min_sqnr_db": 40.0}])
@pytest.mark.parametrize("more", [{}, {"this": 0.5}, {"outputs": [{"name": "heat", "cosine": None}]}])
def test_the_verdict_is_the_gates_own(gate: dict[str, Any], more: dict[str, Any]) -> None:
    measured = Accuracy.model_validate({**accuracy(), **more})
    assert all(c.met for c in checks(measured, gate)) is (not failures(measured, GateConfig(**gate)))


def test_evidence_of_another_engine_is_left_out(shelf: Shelf) -> None:
    shelf.keep(shelf.add(key="old"))
    shelf.add(key="new")
    (engine,) = shelf.dossier().engines
    assert engine.evidence is None and engine.groups == ()


def test_evidence_stays_when_the_device_has_finished_the_engine(shelf: Shelf) -> None:
    shelf.keep(shelf.add(key="bundle", state="bundle", recipe="r1"), "a.jpg")
    shelf.add(key="verified", state="verified", recipe="r1")
    (engine,) = shelf.dossier().engines
    assert engine.evidence is not None and engine.carried and engine.pairs


def test_damaged_evidence_costs_itself_alone(shelf: Shelf) -> None:
    shelf.keep(shelf.add(), groups=3)
    path = shelf.root / "net" / evidence.FOLDER / "ada" / "fast.json"
    path.write_text(path.read_text().replace('"noise":2.0', '"noise":"much"'))
    (engine,) = shelf.dossier().engines
    assert engine.evidence is None and engine.passes is True


def test_a_damaged_engine_is_told(shelf: Shelf) -> None:
    made = shelf.add()
    (shelf.root / "net/ada/fast" / made.key / "manifest.json").write_text("{")
    dossier = shelf.dossier()
    assert dossier.engines == () and "manifest.json" in dossier.damaged[0]


def test_only_pictures_of_its_own_folder_are_read(shelf: Shelf) -> None:
    made = shelf.add()
    shelf.keep(made, "a.jpg")
    path = shelf.root / "net" / evidence.FOLDER / "ada" / "fast.json"
    path.write_text(path.read_text().replace("fast-0-fp32.jpg", "../../../../file"))
    (pair,) = shelf.dossier().engines[0].pairs
    assert pair.fp32 is None and pair.engine is not None


def test_engines_that_are_one_graph_are_told_of_once(shelf: Shelf) -> None:
    for target in ("ada", "hopper"):
        shelf.keep(shelf.add(target), "a.jpg")
    shelf.keep(shelf.add("orin", accuracy=accuracy(0.9)), "a.jpg")
    told = [[engine.label for engine in same] for same in shelf.dossier().distinct]
    assert told == [["orin/fast"], ["ada/fast", "hopper/fast"]]


def test_the_chosen_plan_is_the_one_whose_noise_the_engine_has(tmp_path: Path) -> None:
    trail = full(tmp_path).dossier().engines[0].trail
    assert trail is not None and trail.chosen is trail.judged[1]


class TestWords:
    def test_the_verdict_of_all_passing(self, tmp_path: Path) -> None:
        said = words.overall(full(tmp_path).dossier())
        assert (
            said
            == "All 2 engines pass their gate. The largest loss is 0.0100 F1, of ada/fast (0.05 may be lost)."
        )

    def test_the_verdict_with_failing_unjudged_and_refused_engines(self, shelf: Shelf) -> None:
        shelf.add("ada", accuracy=accuracy(0.5))
        shelf.add("orin")
        shelf.add("cpu", accuracy=None)
        said = words.overall(shelf.dossier(Refused("t4/fast", "f1 falls")))
        assert said.startswith("1 of 2 engines pass their gate; ada/fast does not.")
        assert "cpu/fast was not judged" in said and "Not published: t4/fast." in said

    @pytest.mark.parametrize(
        ("share", "text"), [(0, "0"), (0.94, "94"), (0.0123, "1.2"), (0.0001, "0.01"), (1e-9, "below 0.001")]
    )
    def test_percent(self, share: float, text: str) -> None:
        assert words.percent(share) == f"{text}{words.NARROW}%"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "–"),
            (float("nan"), "–"),
            (0.0, "0"),
            (-0.25, "−0.25"),
            (2.5e-5, "2.5·10⁻⁵"),
            (1e7, "1.0·10⁷"),
        ],
    )
    def test_a_number_to_three_digits(self, value: float | None, text: str) -> None:
        assert words.rounded(value) == text

    def test_no_minus_before_nothing(self) -> None:
        assert words.number(-0.0001, 2) == "0.00"

    def test_reasons_that_differ_in_numbers_are_one(self, tmp_path: Path) -> None:
        engine = full(tmp_path).dossier().engines[0]
        told = {reason: len(groups) for reason, groups in words.by_reason(engine.groups)}
        assert told == {"int8: 1–5% of the plan's noise": 4, "too sensitive": 1}

    @pytest.mark.parametrize(
        ("how", "says"),
        [
            ("run here", "was held out"),
            (f"run here ({limits.SPLIT})", "taken out of the calibration set first"),
            (f"run here ({limits.REUSED})", "was NOT held out"),
        ],
    )
    def test_whether_the_evaluation_was_held_out(self, how: str, says: str, shelf: Shelf) -> None:
        shelf.add(accuracy=accuracy(how=how))
        assert says in limits.held_out(shelf.dossier())

    def test_the_words_for_reused_pictures_are_the_builders(self) -> None:
        builder = (Path(evidence.__file__).parent / "inputs.py").read_text(encoding="utf-8")
        assert limits.REUSED in builder and limits.SPLIT in builder
