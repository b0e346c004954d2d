"""The hardware matrix: its rules, the names users type, rows of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigError, InputError, UsageError
from edge.machine import Gpu, Machine
from edge.targets import (
    TARGETS,
    Target,
    for_gpu,
    format_capability,
    load_targets,
    local,
    parse_capability,
    select,
)

NO_GPU = Machine("a processor", "x86_64")


def names(targets: list[Target]) -> list[str]:
    return [target.name for target in targets]


@pytest.mark.parametrize("target", TARGETS.values(), ids=str)
class TestEveryRow:
    def test_a_16_bit_scale_has_the_carriers_type(self, target: Target) -> None:
        assert target.scale_type in ("fp32", target.carrier)

    def test_fp8_is_offered_from_ada_on_only(self, target: Target) -> None:
        assert ("fp8" in target.quantized) == ((target.compute_capability or (0, 0)) >= (8, 9))

    def test_fp8_is_preferred_where_it_exists(self, target: Target) -> None:
        assert target.fast_precision == ("fp8" if "fp8" in target.quantized else "int8")

    def test_turing_has_no_bf16(self, target: Target) -> None:
        assert (target.carrier == "bf16") == ((target.compute_capability or (0, 0)) >= (8, 0))

    def test_gpus_quantize_symmetrically(self, target: Target) -> None:
        assert target.int8_activations == (("s8",) if target.is_gpu else ("u8", "s8"))

    def test_something_can_build_it(self, target: Target) -> None:
        assert target.builders

    def test_a_gpu_row_says_which_tensorrt_it_needs(self, target: Target) -> None:
        assert (target.min_tensorrt is not None) == target.is_gpu

    def test_it_is_found_by_its_capability(self, target: Target) -> None:
        if target.compute_capability is not None:
            assert for_gpu(target.compute_capability) is target

    def test_it_names_its_sources(self, target: Target) -> None:
        assert target.sources

    def test_it_cannot_be_changed(self, target: Target) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            target.carrier = "fp32"  # type: ignore[misc]


def test_names_and_aliases_are_unique() -> None:
    spoken = [name for target in TARGETS.values() for name in (target.name, *target.aliases)]
    assert len(spoken) == len(set(spoken))


def test_rtx_targets_are_those_its_compiler_offers() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (x86-64 only)")
    offered = {name.removeprefix("SM") for name in vars(rtx.ComputeCapability) if name.startswith("SM")}
    ours = {t.capability_text.replace(".", "") for t in TARGETS.values() if t.rtx_aot}
    assert ours == offered


class TestSelect:
    def test_all_is_the_matrix_in_order(self) -> None:
        assert names(select("all")) == list(TARGETS)

    def test_names_come_out_in_matrix_order_and_once(self) -> None:
        assert names(select("ada, cpu,ada", NO_GPU)) == ["cpu", "ada"]

    def test_aliases_and_capitals(self) -> None:
        assert names(select("RTX30,H100", NO_GPU)) == ["a10", "hopper"]

    def test_local_is_the_processor_and_every_known_gpu(self) -> None:
        machine = Machine("x", "x86_64", gpus=(Gpu("L4", (8, 9)), Gpu("B200", (10, 0)), Gpu("L4", (8, 9))))
        assert names(select("local", machine)) == ["cpu", "ada"]
        assert names(local(NO_GPU)) == ["cpu"]

    def test_an_old_driver_calls_thor_10_1(self) -> None:
        assert for_gpu((10, 1)).name == "thor"

    def test_a_misspelt_name_gets_the_nearest(self) -> None:
        with pytest.raises(UsageError) as e:
            select("hoper", NO_GPU)
        assert "did you mean 'hopper'?" in e.value.fix

    def test_a_wild_name_gets_the_list(self) -> None:
        with pytest.raises(UsageError, match="no target 'zzz'") as e:
            select("zzz", NO_GPU)
        assert "known: all, local, cpu, t4" in e.value.fix

    @pytest.mark.parametrize("text", ["", " ", ",", ", ,"])
    def test_nothing_is_an_error(self, text: str) -> None:
        with pytest.raises(UsageError, match="no target given"):
            select(text, NO_GPU)

    def test_an_unknown_gpu_is_told_how_to_add_a_row(self) -> None:
        with pytest.raises(UsageError, match=r"compute capability 10\.0") as e:
            for_gpu((10, 0))
        assert "docs/extending.md" in e.value.fix

    @given(st.lists(st.sampled_from(list(TARGETS)), min_size=1))
    def test_any_choice_is_that_choice(self, chosen: list[str]) -> None:
        assert set(names(select(",".join(chosen), NO_GPU))) == set(chosen)


@given(st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_capabilities_survive_writing(capability: tuple[int, int]) -> None:
    assert parse_capability(format_capability(capability) or "") == capability


@pytest.mark.parametrize("text", ["", "8", "8.", ".9", "eight.nine", "8.9.1", "8,9", "².1"])
def test_what_is_not_a_capability_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_capability(text)


class TestOwnRows:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "hardware.toml"

    def test_a_row_like_another(self, file: Path) -> None:
        file.write_text('[targets.orin_nano]\nlike = "orin"\ndevices = ["Jetson Orin Nano"]\n')
        row = load_targets(file)["orin_nano"]
        assert row == dataclasses.replace(
            TARGETS["orin"], name="orin_nano", devices=("Jetson Orin Nano",), sources=("like orin",)
        )

    def test_it_stands_after_the_built_in_ones_and_can_be_selected(self, file: Path) -> None:
        file.write_text('[targets.mine]\nlike = "ada"\n')
        assert names(select("mine,cpu", NO_GPU, load_targets(file))) == ["cpu", "mine"]

    def test_a_users_row_is_preferred_for_its_gpu(self, file: Path) -> None:
        file.write_text('[targets.mine]\nlike = "ada"\nquantized = ["int8"]\n')
        assert for_gpu((8, 9), load_targets(file)).name == "mine"

    def test_a_complete_row(self, file: Path) -> None:
        file.write_text(
            '[targets.b200]\ncompute_capability = "10.0"\ndevices = ["B200"]\ncarrier = "bf16"\n'
            'quantized = ["fp8", "int8"]\nmin_tensorrt = [10, 8]\n'
        )
        row = load_targets(file)["b200"]
        assert (row.compute_capability, row.min_tensorrt, row.rtx_aot) == ((10, 0), (10, 8), False)

    def test_the_built_in_matrix_does_not_change(self, file: Path) -> None:
        file.write_text('[targets.ada]\nlike = "ada"\nquantized = ["int8"]\n')
        assert load_targets(file)["ada"].fast_precision == "int8"
        assert TARGETS["ada"].fast_precision == "fp8"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('[targets.x]\nlike = "orin"\ncarier = "fp16"', "did you mean 'carrier'?"),
            ('[targets.x]\nlike = "orrin"', "did you mean 'orin'?"),
            ('[targets.x]\nlike = "orin"\ncarrier = "fp12"', "carrier"),
            ('[targets.x]\ncarrier = "bf16"', "devices"),
            ('[targets.x]\nlike = "orin"\ncompute_capability = "eight"', "compute capability"),
            ('[targets.x]\nlike = "orin"\nint8_activations = ["u8"]', "symmetric"),
            ('[targets.x]\nlike = "t4"\ncarrier = "bf16"', "scale_type"),
            ('[targets.x]\nlike = "orin"\nquantized = []', "quantized is empty"),
            ('[targets."../x"]\nlike = "orin"', "not a name"),
            ("[target.x]", "unknown table 'target'"),
            ("targets = 3", "tables"),
            ("[targets]\nx = 3", "tables"),
            ("[targets.x", "not valid TOML"),
        ],
    )
    def test_a_mistake_is_named(self, file: Path, text: str, says: str) -> None:
        file.write_text(text)
        with pytest.raises(ConfigError) as e:
            load_targets(file)
        assert says in str(e.value)
        assert str(file) in str(e.value)

    def test_a_missing_file(self, file: Path) -> None:
        with pytest.raises(InputError):
            load_targets(file)
