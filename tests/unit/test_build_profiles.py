"""A graph for a range of batches and sizes: opened, and proven by running it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge.backends import EngineOptions, backend
from edge.build import emulate, processor
from edge.build.opening import dimensions, open_axes, open_dimensions
from edge.build.profiles import input_shapes, prove
from edge.build.tensorrt import Profile
from edge.cli import main
from edge.config import ModelConfig, load_model
from edge.errors import ConfigError, ModelError
from edge.graph import prepare, serialize
from edge.precision import plan
from edge.precision.rewrite import rewrite
from edge.store import Store
from edge.targets import TARGETS

IMAGE = (3, 32, 32)
BATCHES = Profile((1, *IMAGE), (2, *IMAGE), (4, *IMAGE))
SIZES = Profile((1, 3, 16, 16), (1, *IMAGE), (1, 3, 48, 64))
KEEP_SAMPLES_APART = [name for name in graphs.GOOD if name != "classifier"]


def run(model: onnx.ModelProto, samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"image": samples})
    return np.asarray(out)


def samples(count: int, height: int = 32, width: int = 32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).random((count, 3, height, width), np.float32)


def config(folder: Path, model: onnx.ModelProto, **profile: Any) -> ModelConfig:
    return graphs.config(folder, model, profile=profile)


class TestConfig:
    def test_without_a_profile_there_is_one_shape(self, tmp_path: Path) -> None:
        assert input_shapes(graphs.config(tmp_path, graphs.residual())) is None

    def test_a_profile_of_batch_1_and_one_size_changes_nothing(self, tmp_path: Path) -> None:
        assert input_shapes(config(tmp_path, graphs.residual(), gpu_memory_mb=512)) is None

    def test_batch_and_sizes_become_shapes(self, tmp_path: Path) -> None:
        made = config(tmp_path, graphs.residual(), batch=[1, 2, 8], max_size=[64, 96])
        assert input_shapes(made) == Profile((1, 3, 32, 32), (2, 3, 32, 32), (8, 3, 64, 96))

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("batch = [4, 2, 8]", "batch [4, 2, 8] is not in the order smallest, usual, largest"),
            ("batch = [0, 1, 2]", "greater than 0"),
            ("batch = [1, 2]", "batch"),
            ("min_size = [64, 16]", "height [64, 32] is not in the order min_size, size, max_size"),
            ("max_size = [64, 16]", "width [32, 16] is not in the order"),
            ("gpu_memory_mb = 0", "greater than 0"),
            ("batches = [1, 1, 1]", "unknown key 'profile.batches', did you mean 'batch'?"),
        ],
    )
    def test_a_wrong_value_is_named(self, line: str, said: str, tmp_path: Path) -> None:
        path = tmp_path / "net.toml"
        path.write_text(
            f'name = "net"\nonnx = "net.onnx"\n[input]\nsize = [32, 32]\n[task]\nkind = "classify"\n'
            f'[calibration]\nimages = "pictures"\n[profile]\n{line}\n'
        )
        with pytest.raises(ConfigError, match="is not valid") as caught:
            load_model(path)
        assert said in caught.value.why


class TestOpening:
    def test_axes_that_vary_have_names_and_the_others_their_size(self) -> None:
        opened = open_dimensions(graphs.good("residual").model, BATCHES)
        assert dimensions(opened) == {"image": ("batch", *IMAGE), "out": ("batch", 1, 16, 16)}

    def test_sizes_get_names_too(self) -> None:
        opened = open_dimensions(graphs.good("residual").model, SIZES)
        assert dimensions(opened)["image"] == (1, 3, "height", "width")
        assert dimensions(opened)["out"] == (1, 1, "out_2", "out_3")

    def test_a_fixed_batch_of_four_is_not_batch_1(self) -> None:
        four = (4, *IMAGE)
        assert open_axes(Profile(four, four, four)) == (0,)

    @pytest.mark.parametrize("name", KEEP_SAMPLES_APART)
    def test_each_sample_of_a_batch_gives_what_it_gives_alone(self, name: str) -> None:
        index = graphs.good(name)
        prove(index.model, _unused(), BATCHES)
        together = run(open_dimensions(index.model, BATCHES), samples(4))
        alone = [run(index.model, sample[None]) for sample in samples(4)]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("target", ["t4", "ada"])
    def test_a_graph_with_its_precisions_written_in_opens_alike(self, target: str) -> None:
        """What is compiled is the opened typed graph; its emulation keeps samples apart as well."""
        index = graphs.good("transformer")
        row, seen = TARGETS[target], graphs.ranges(index)
        typed = rewrite(index, plan.make(index, row, "fast", seen), seen, row)
        opened = open_dimensions(typed, BATCHES)
        assert {n.name for n in typed.graph.node} <= {n.name for n in opened.graph.node}
        together = run(emulate.emulated(opened), samples(3))
        alone = [run(emulate.emulated(typed), sample[None]) for sample in samples(3)]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=0.02, atol=0.02)

    @pytest.mark.parametrize("shapes", [BATCHES, SIZES], ids=["batches", "sizes"])
    def test_opening_twice_gives_the_same_bytes(self, shapes: Profile) -> None:
        model = graphs.good("residual").model
        assert serialize(open_dimensions(model, shapes)) == serialize(open_dimensions(model, shapes))


def _unused() -> Any:
    """A config is asked for other sizes only."""
    return None


def packed_attention() -> onnx.ModelProto:
    """Queries, keys and values in one product, as PyTorch exports it: the batch lies on the second axis for a
    while, then it is folded together with the heads."""
    net = graphs.Net()
    x = net.conv("image", "patches", (3, 32), kernel=9, strides=[8, 8])
    x = net.op("Reshape", x, net.constant("tokens_shape", [1, 32, 16], np.int64), name="tokens")
    x = net.op("Transpose", x, name="rows", perm=[0, 2, 1])
    x = net.op("MatMul", x, net.weights("qkv.weight", 32, 96), name="qkv")
    x = net.op("Reshape", x, net.constant("packed", [1, 16, 3, 4, 8], np.int64), name="split")
    x = net.op("Transpose", x, name="turned", perm=[2, 0, 3, 1, 4])  # 3 × batch × heads × tokens × 8
    which = [net.constant(f"{name}.index", index, np.int64) for index, name in enumerate("qkv")]
    parts = [net.op("Gather", x, index, name=index[0], axis=0) for index in which]
    heads = net.constant("heads_shape", [4, 16, 8], np.int64)
    q, k, v = (net.op("Reshape", part, heads, name=f"{part[0]}_heads") for part in parts)
    scores = net.op("MatMul", q, net.op("Transpose", k, name="k_turned", perm=[0, 2, 1]), name="scores")
    x = net.op("MatMul", net.op("Softmax", scores, name="softmax", axis=-1), v, name="mix")
    x = net.op("Reshape", x, net.constant("unfolded", [1, 4, 16, 8], np.int64), name="unfold")
    x = net.op("Transpose", x, name="back", perm=[0, 2, 1, 3])
    x = net.op("Reshape", x, net.constant("joined", [1, 16, 32], np.int64), name="join")
    return net.model(net.op("ReduceMean", x, name="mean", axes=[1], keepdims=0))


def class_token() -> onnx.ModelProto:
    """A learned token is joined to the patches of every picture."""
    net = graphs.Net()
    x = net.conv("image", "patches", (3, 32), kernel=9, strides=[8, 8])
    x = net.op("Reshape", x, net.constant("tokens_shape", [1, 32, -1], np.int64), name="tokens")
    x = net.op("Transpose", x, name="rows", perm=[0, 2, 1])
    x = net.op("Concat", net.weights("token", 1, 1, 32), x, name="join", axis=1)
    x = net.op("MatMul", x, net.weights("mixed.weight", 32, 16), name="mixed")
    return net.model(net.op("ReduceMean", x, name="mean", axes=[1], keepdims=0))


def enlarged_to_a_size() -> onnx.ModelProto:
    """An enlargement to a size that was written into the graph when it was exported."""
    net = graphs.Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 8), strides=[2, 2]), name="stem_relu")
    sizes = net.constant("sizes", [1, 8, 31, 45], np.int64)
    x = net.op("Resize", x, "", "", sizes, name="enlarge", mode="linear")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (8, 1)), name="sigmoid"))


class TestConstantsLetGoOfTheBatch:
    @pytest.mark.parametrize("make", [packed_attention, class_token, enlarged_to_a_size])
    def test_in(self, make: Callable[[], onnx.ModelProto]) -> None:
        index = graphs.graph(make())
        prove(index.model, _unused(), BATCHES)
        together = run(open_dimensions(index.model, BATCHES), samples(4))
        alone = [run(index.model, sample[None]) for sample in samples(4)]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-3, atol=1e-5)

    def test_an_enlargement_keeps_its_exact_size(self) -> None:
        index = graphs.graph(enlarged_to_a_size())
        assert run(open_dimensions(index.model, BATCHES), samples(2)).shape == (2, 1, 31, 45)

    def test_the_demo_model_opens(self) -> None:
        index = graphs.real("burned_in_text")
        shape = index.shape(index.inputs[0])
        assert shape is not None
        prove(index.model, _unused(), Profile(shape, shape, (2, *shape[1:])))


def averages_the_batch() -> onnx.ModelProto:
    """Each sample minus the mean of its batch: alone that is the mean of one."""
    net = graphs.Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 8)), name="stem_relu")
    x = net.op("Sub", x, net.op("ReduceMean", x, name="centre", axes=[0, 2, 3], keepdims=1), name="centred")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (8, 1)), name="sigmoid"))


class TestRefusal:
    def test_a_node_that_mixes_samples_is_named(self) -> None:
        index = graphs.graph(averages_the_batch())
        with pytest.raises(ModelError, match="node 'centre' mixes the batch axis") as caught:
            prove(index.model, _unused(), BATCHES)
        assert "depends on its neighbours" in caught.value.why
        assert "dynamic batch" in caught.value.fix

    def test_rows_that_are_no_samples_are_named(self) -> None:
        with pytest.raises(ModelError, match="node 'rows' mixes the batch axis") as caught:
            prove(graphs.good("classifier").model, _unused(), BATCHES)
        assert "output 'out' is [16, 10]" in caught.value.why

    def test_a_size_that_the_graph_has_inside_is_named(self, tmp_path: Path) -> None:
        dynamic = with_open_sizes(packed_attention())
        wide = Profile((1, *IMAGE), (1, *IMAGE), (1, 3, 48, 64))
        with pytest.raises(ModelError, match="cannot take pictures of 48×64") as caught:
            prove(graphs.graph(dynamic).model, graphs.config(tmp_path, dynamic), wide)
        assert "node 'tokens'" in caught.value.why

    def test_a_graph_that_was_exported_with_one_size(self, tmp_path: Path) -> None:
        made = graphs.config(tmp_path, graphs.residual())
        with pytest.raises(ModelError, match="cannot take pictures of 16×16") as caught:
            prove(graphs.good("residual").model, made, SIZES)
        assert "exported with a fixed size" in caught.value.why


def with_open_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    for axis, name in ((2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return model


class TestSizes:
    @pytest.mark.parametrize("make", [graphs.residual, graphs.depthwise_swish, graphs.resize])
    def test_another_size_gives_what_the_original_graph_gives(
        self, make: Callable[..., onnx.ModelProto], tmp_path: Path
    ) -> None:
        dynamic = with_open_sizes(make())
        made = graphs.config(tmp_path, dynamic)
        fixed = graphs.graph(dynamic)
        prove(fixed.model, made, SIZES)
        opened = open_dimensions(fixed.model, SIZES)
        right = prepare(dynamic, None, (3, 48, 64))
        np.testing.assert_allclose(
            run(opened, samples(1, 48, 64)), run(right, samples(1, 48, 64)), rtol=1e-4, atol=1e-5
        )

    def test_batches_and_sizes_together(self, tmp_path: Path) -> None:
        dynamic = with_open_sizes(graphs.residual())
        both = Profile((1, 3, 16, 16), (2, *IMAGE), (4, 3, 48, 64))
        fixed = graphs.graph(dynamic)
        prove(fixed.model, graphs.config(tmp_path, dynamic), both)
        opened = open_dimensions(fixed.model, both)
        assert dimensions(opened)["image"] == ("batch", 3, "height", "width")
        assert run(opened, samples(3, 48, 64)).shape == (3, 1, 24, 32)


class TestBuild:
    """The whole way: a config with [profile], engines that take the range, a manifest that says so."""

    @pytest.fixture
    def toml(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
        monkeypatch.setattr(processor, "ROUNDS", 1)
        monkeypatch.setattr(processor, "RUNS", 1)
        graphs.saved(with_open_sizes(graphs.residual()), tmp_path / "net.onnx")
        graphs.pictures(tmp_path / "pictures", 5)

        def write(profile: str) -> str:
            path = tmp_path / "net.toml"
            path.write_text(
                'name = "net"\nonnx = "net.onnx"\n[input]\nsize = [32, 32]\n[task]\nkind = "segment"\n'
                f'[calibration]\nimages = "pictures"\n[gate]\nmin_cosine = 0.9\n[profile]\n{profile}\n'
            )
            return str(path)

        return write

    def build(self, config: str, targets: str, folder: Path) -> int:
        words = ["--model", config, "--targets", targets, "--variants", "fast"]
        return main(["build", *words, "--out", str(folder / "engines")])

    def test_every_engine_takes_the_range(self, toml: Callable[[str], str], tmp_path: Path) -> None:
        assert self.build(toml("batch = [1, 1, 4]\nmax_size = [64, 64]"), "cpu,orin", tmp_path) == 0
        store = Store(tmp_path / "engines")
        for target, file in (("cpu", "engine.onnx"), ("orin", "graph.onnx")):
            entry = store.find("net", target, "fast")
            manifest = entry.manifest
            assert manifest.inputs[0].shape == ("batch", 3, "height", "width")
            assert manifest.outputs[0].shape == ("batch", 1, "out_2", "out_3")
            assert manifest.config["profile"]["batch"] == [1, 1, 4]
            opened = onnx.load(entry.path / file)
            assert dimensions(opened)["image"] == ("batch", 3, "height", "width")

    def test_the_processors_engine_runs_batches_and_sizes(
        self, toml: Callable[[str], str], tmp_path: Path
    ) -> None:
        assert self.build(toml("batch = [1, 1, 4]\nmax_size = [64, 64]"), "cpu", tmp_path) == 0
        entry = Store(tmp_path / "engines").find("net", "cpu", "fast")
        engine = backend("onnxruntime").load(entry.engine, EngineOptions(batch=3, size=(48, 64)))
        try:
            assert engine.inputs[0].shape == (3, 3, 48, 64)
            assert engine.run({"image": samples(3, 48, 64)})["out"].shape == (3, 1, 24, 32)
        finally:
            engine.close()

    def test_what_cannot_fit_fails_its_row_and_no_other(
        self, toml: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.build(toml("batch = [1, 1, 4000]\ngpu_memory_mb = 16"), "cpu,orin", tmp_path) == 4
        assert "gpu_memory_mb is 16" in capsys.readouterr().err
        store = Store(tmp_path / "engines")
        assert store.current("net", "cpu", "fast") is not None
        assert store.current("net", "orin", "fast") is None
