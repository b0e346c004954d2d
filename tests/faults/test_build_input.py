"""Bad graphs, configs and pictures: what the builder says, the exit code, and that nothing is published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import graphs
import onnx
import pytest

from edge.cli import main


class Bad:
    """A build that is bound to fail."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.graph = folder / "net.onnx"
        self.pictures = graphs.pictures(folder / "pictures")

    def build(self, *words: str) -> int:
        return main(["build", *words, "--targets", "cpu", "--out", str(self.folder / "engines")])

    def graph_is(self, model: onnx.ModelProto | bytes) -> None:
        self.graph.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())

    def from_graph(self, *words: str) -> int:
        return self.build("--onnx", str(self.graph), "--calib", str(self.pictures), *words)

    def from_config(self, **sections: str) -> int:
        """Build from a config whose sections are replaced as given."""
        parts = {
            "model": 'name = "net"\nonnx = "net.onnx"',
            "input": "[input]\nsize = [32, 32]",
            "task": '[task]\nkind = "segment"',
            "calibration": '[calibration]\nimages = "pictures"',
        } | sections
        path = self.folder / "net.toml"
        path.write_text("\n".join(parts.values()))
        return self.build("--model", str(path))

    def said(self, *texts: str) -> None:
        """The error has every text, is no traceback, and nothing was published."""
        error = self.capsys.readouterr().err
        assert error.count("error: ") == 1
        assert "Traceback" not in error
        for text in texts:
            assert text in error
        assert not list((self.folder / "engines").glob("*/*/*/current"))


@pytest.fixture
def bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bad:
    made = Bad(tmp_path, capsys)
    made.graph_is(graphs.residual())
    return made


class TestGraph:
    @pytest.mark.parametrize("by", ["graph", "config"])
    def test_there_is_none(self, bad: Bad, by: str) -> None:
        bad.graph.unlink()
        assert (bad.from_graph() if by == "graph" else bad.from_config()) == 4
        bad.said("net.onnx", "o such file")

    @pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x00" * 100, b"\x08\x09"])
    @pytest.mark.parametrize("by", ["graph", "config"])
    def test_it_is_something_else(self, bad: Bad, content: bytes, by: str) -> None:
        bad.graph_is(content)
        assert (bad.from_graph() if by == "graph" else bad.from_config()) == 4
        bad.said("net.onnx is not a valid ONNX model")

    @pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
    def test_it_was_cut_off(self, bad: Bad, share: float) -> None:
        whole = bad.graph.read_bytes()
        bad.graph_is(whole[: int(len(whole) * share)])
        assert bad.from_graph() == 4
        bad.said("net.onnx")

    def test_its_weights_are_in_a_file_that_is_missing(self, bad: Bad) -> None:
        onnx.save(
            graphs.residual(), bad.graph, save_as_external_data=True, location="w.bin", size_threshold=0
        )
        (bad.folder / "w.bin").unlink()
        assert bad.from_config() == 4
        bad.said("w.bin")

    def test_it_has_an_operator_that_onnx_has_not(self, bad: Bad) -> None:
        bad.graph_is(graphs.unknown_operator())
        assert bad.from_graph() == 4
        bad.said("unsupported operator Frobnicate in node 'strange'", "opset 17 has no such operator")

    def test_it_has_somebodys_own_operator(self, bad: Bad) -> None:
        bad.graph_is(graphs.custom_domain())
        assert bad.from_graph() == 4
        bad.said("unsupported operator com.example::Warp in node 'special'")

    def test_a_nameless_node_is_called_by_what_it_writes(self, bad: Bad) -> None:
        model = graphs.custom_domain()
        for node in model.graph.node:
            node.name = ""
        bad.graph_is(model)
        assert bad.from_graph() == 4
        bad.said("in node 'special.out'")

    def test_it_is_quantized_already(self, bad: Bad) -> None:
        bad.graph_is(graphs.quantized())
        assert bad.from_config() == 4
        bad.said("is quantized already: node 'quantize' is a QuantizeLinear", "before quantization")

    def test_it_reads_float16(self, bad: Bad) -> None:
        bad.graph_is(graphs.half_input())
        assert bad.from_config() == 4
        bad.said("input 'image' is not float32")

    def test_it_reads_several_tensors(self, bad: Bad) -> None:
        bad.graph_is(graphs.two_inputs())
        assert bad.from_config() == 2
        bad.said("the graph has 2 inputs: 'image', 'other'")

    def test_it_gives_nan(self, bad: Bad) -> None:
        bad.graph_is(graphs.logarithm())
        assert bad.from_config() == 4
        bad.said("tensor 'log.out' holds NaN or infinity for calibration picture 000")

    @pytest.mark.parametrize("words", [(), ("--variants", "exact")])
    def test_it_gives_nan_in_its_last_layer(self, bad: Bad, words: tuple[str, ...]) -> None:
        bad.graph_is(graphs.logarithm(late=True))
        assert bad.from_graph(*words) == 4
        bad.said("NaN or infinity", "check the model and the preprocessing")

    def test_its_weights_are_nan(self, bad: Bad) -> None:
        model = graphs.residual()
        for tensor in model.graph.initializer:
            if tensor.name == "left.weight":
                tensor.raw_data = b"\xff" * len(tensor.raw_data)
        bad.graph_is(model)
        assert bad.from_config() == 4
        bad.said("holds NaN or infinity")


class TestConfig:
    @pytest.mark.parametrize(
        ("sections", "said"),
        [
            (
                {"input": "[input]\nsize = [32, 32]\nsclae = 1.0"},
                "unknown key 'input.sclae', did you mean 'scale'?",
            ),
            (
                {"model": 'name = "net"\nonnx = "net.onnx"\nlicense = ""'},
                "unknown key 'license', did you mean 'licence'?",
            ),
            ({"task": '[task]\nkind = "segmnet"'}, "did you mean 'segment'?"),
            ({"task": '[task]\nkind = "segment"\ntreshold = 0.5'}, "did you mean 'threshold'?"),
            ({"input": "[input]\nsize = [64, 64]"}, "input 'image' has height 32, the config says 64"),
            ({"input": "[input]\nsize = [32, 48]"}, "input 'image' has width 32, the config says 48"),
            (
                {"input": "[input]\nsize = [32, 32]\nchannels = 1"},
                "input 'image' has channels 3, the config says 1",
            ),
            ({"input": '[input]\nsize = [32, 32]\nname = "picture"'}, "the graph has no input 'picture'"),
            ({"calibration": ""}, "calibration"),
            ({"input": "[input\nsize"}, "is not valid TOML"),
        ],
    )
    def test_it_is_wrong(self, bad: Bad, sections: dict[str, str], said: str) -> None:
        assert bad.from_config(**sections) == 2
        bad.said(said)

    def test_there_is_none(self, bad: Bad) -> None:
        assert bad.build("--model", "yolox_nanno") == 2
        bad.said("no model 'yolox_nanno'", "did you mean 'yolox_nano'?")


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def removed(folder: Path) -> None:
    emptied(folder)
    folder.rmdir()


def a_file(folder: Path) -> None:
    removed(folder)
    folder.write_text("a file")


def text_only(folder: Path) -> None:
    emptied(folder)
    (folder / "readme.txt").write_text("no picture")


class TestPictures:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (emptied, "no pictures in"),
            (removed, "cannot read the"),
            (a_file, "cannot read the"),
            (text_only, "no pictures in"),
        ],
    )
    @pytest.mark.parametrize("by", ["graph", "config"])
    def test_the_folder_has_none(self, bad: Bad, change: Callable[[Path], None], said: str, by: str) -> None:
        change(bad.pictures)
        assert (bad.from_graph() if by == "graph" else bad.from_config()) == 4
        bad.said(said, "pictures")

    @pytest.mark.parametrize("content", [b"", b"not a picture", None])
    def test_one_cannot_be_decoded(self, bad: Bad, content: bytes | None) -> None:
        victim = bad.pictures / "0001.jpg"
        victim.write_bytes(victim.read_bytes()[:60] if content is None else content)
        assert bad.from_config() == 4
        bad.said("0001.jpg", "damaged or not an image")

    def test_a_held_out_one_cannot_be_decoded(self, bad: Bad) -> None:
        (bad.pictures / "0003.jpg").write_bytes(b"no")
        assert bad.from_config() == 4
        bad.said("0003.jpg")

    def test_a_single_picture_is_enough(self, bad: Bad) -> None:
        for file in sorted(bad.pictures.iterdir())[1:]:
            file.unlink()
        assert bad.from_graph() == 0


def test_the_store_may_not_be_a_file(bad: Bad) -> None:
    (bad.folder / "engines").write_text("in the way")
    assert bad.from_config() == 5
    error = bad.capsys.readouterr().err
    assert "Traceback" not in error and "engines" in error
