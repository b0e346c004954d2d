"""Graphs, pictures and policies that quantization is not made for: what the builder does, or says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import graphs
import numpy as np
import onnx
import pytest
from clocks import int8_is_faster
from onnx import helper, numpy_helper

from edge import machine
from edge.build.emulate import emulated
from edge.cli import main
from edge.manifest import Manifest, read_manifest
from edge.precision.sessions import open_session
from edge.types import Array


@pytest.fixture(autouse=True, scope="module")
def _quick(no_sync: None) -> Iterator[None]:
    """int8 wherever it passes, and GPU targets as bundles."""
    here = machine.detect()
    packages = {name: version for name, version in here.packages.items() if name != "tensorrt-rtx"}
    bare = machine.Machine(here.cpu, here.arch, here.cpu_features, here.cores, packages=packages)
    with pytest.MonkeyPatch.context() as patch, int8_is_faster():
        patch.setattr(machine, "detect", lambda: bare)
        yield


class Builder:
    """A folder with a graph, 16 pictures and a store."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.pictures = graphs.pictures(folder / "pictures", 16)
        self.error = ""

    def build(
        self,
        model: onnx.ModelProto,
        *words: str,
        targets: str = "orin",
        variants: str = "fast",
        task: str = "segment",
        more: str = "",
    ) -> int:
        """The exit code; `more` is added to the config."""
        graphs.saved(model, self.folder / "net.onnx")
        (self.folder / "net.toml").write_text(
            f'name = "net"\nonnx = "net.onnx"\n[input]\nsize = [32, 32]\n[task]\nkind = "{task}"\n'
            f'[calibration]\nimages = "pictures"\n{more}\n'
        )
        options = ["--targets", targets, "--variants", variants, "--json", str(self.folder / "rows.json")]
        store = ["--out", str(self.folder / "engines"), "--no-report"]
        code = main(["build", "--model", str(self.folder / "net.toml"), *options, *store, *words])
        self.error = self.capsys.readouterr().err
        assert "Traceback" not in self.error and "RuntimeWarning" not in self.error
        return code

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.folder / "rows.json").read_text())
        return rows

    def manifest(self, target: str = "orin", variant: str = "fast") -> Manifest:
        (row,) = (r for r in self.rows if (r["target"], r["variant"]) == (target, variant))
        return read_manifest(Path(row["path"]))

    def plan(self, target: str = "orin", variant: str = "fast") -> dict[str, tuple[str, str]]:
        """Precision and reason by node."""
        return {e.node: (e.precision, e.reason) for e in self.manifest(target, variant).plan}

    def policy(self, *rules: dict[str, Any]) -> str:
        """The path of a policy with these rules."""
        path = self.folder / "policy.json"
        path.write_text(json.dumps({"name": "mine", "rules": rules}))
        return str(path)

    def said(self, *texts: str) -> None:
        for text in texts:
            assert text in self.error


def chain(**more: Any) -> onnx.ModelProto:
    """Four convolutions: a first one, 'left' and 'right', and a head."""
    net = graphs.Net(**more)
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    x = net.op("Relu", net.conv(x, "left", (32, 32)), name="left_relu")
    x = net.op("Relu", net.conv(x, "right", (32, 32)), name="right_relu")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1), kernel=1), name="sigmoid"))


@pytest.fixture
def builder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Builder:
    return Builder(tmp_path, capsys)


class TestPictures:
    """The build goes on, and says what is missing: to the user, in the row and in the manifest."""

    def warned(self, builder: Builder, text: str) -> None:
        assert builder.build(chain(), variants="fast,exact") == 0
        fast, exact = builder.rows
        assert f"warning: {text}" in builder.error
        assert [text in warning for warning in fast["warnings"]].count(True) == 1
        assert tuple(fast["warnings"]) == builder.manifest().warnings
        assert exact["warnings"] == []  # what is not quantized needs no ranges

    def test_there_are_too_few(self, builder: Builder) -> None:
        for file in sorted(builder.pictures.iterdir())[4:]:
            file.unlink()
        self.warned(
            builder, "calibration has 3 pictures (every 4th is held out to verify with); ranges of 16"
        )

    def test_enough_of_them_are_nothing_to_warn_of(self, builder: Builder) -> None:
        assert builder.build(chain()) == 0
        assert builder.rows[0]["warnings"] == [] and "warning" not in builder.error

    def test_they_are_all_the_same(self, builder: Builder) -> None:
        first, *others = sorted(builder.pictures.iterdir())
        for file in others:
            file.write_bytes(first.read_bytes())
        self.warned(builder, "calibration has 12 pictures, but only 1 different one")

    def test_one_is_of_one_colour(self, builder: Builder) -> None:
        cv2.imwrite(str(builder.pictures / "0005.jpg"), np.full((32, 32, 3), 77, np.uint8))
        self.warned(builder, "1 of 12 calibration pictures is of one colour throughout (0005.jpg)")

    def test_all_are_black(self, builder: Builder) -> None:
        for file in builder.pictures.iterdir():
            cv2.imwrite(str(file), np.zeros((32, 32, 3), np.uint8))
        self.warned(builder, "12 of 12 calibration pictures are of one colour throughout")
        assert builder.plan()["stem"] == (
            "bf16",
            "its input was zero, or next to it, in every calibration sample: no scale fits",
        )

    def test_a_warning_is_there_when_nothing_had_to_be_built(self, builder: Builder) -> None:
        for file in sorted(builder.pictures.iterdir())[4:]:
            file.unlink()
        for cached in (False, True):
            assert builder.build(chain()) == 0
            assert builder.rows[0]["cached"] is cached
            builder.said("warning: calibration has 3 pictures")

    def test_a_failed_engine_has_them_too(self, builder: Builder) -> None:
        for file in sorted(builder.pictures.iterdir())[4:]:
            file.unlink()
        assert builder.build(chain(), more="[gate]\nmin_sqnr_db = 300") == 3
        assert len(builder.rows[0]["warnings"]) == 1
        builder.said("warning: calibration has 3 pictures")


Change = Callable[[Any], None]


def changed(name: str, change: Change, model: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """A graph, `chain` unless given, with one constant changed in place."""
    model = model or chain()
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor).copy()
    change(value)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return model


def set_to(value: float, *place: Any) -> Change:
    def change(array: Any) -> None:
        array[place] = value

    return change


def times(factor: float, *place: Any) -> Change:
    def change(array: Any) -> None:
        array[place] *= factor

    return change


def masked(value: float) -> onnx.ModelProto:
    """A mask of `value` in front of a Softmax, as attentions have it: what is masked becomes 0."""
    net = graphs.Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    mask = net.constant("mask", np.where(np.arange(32).reshape(1, 32, 1, 1) == 3, value, 0))
    x = net.op("Softmax", net.op("Add", x, mask, name="masked"), name="softmax", axis=1)
    return net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1)), name="sigmoid"))


def scales(manifest: Manifest, builder: Builder) -> list[Any]:
    """Of all Q/DQ pairs of an engine's graph."""
    (row,) = (r for r in builder.rows if r["key"] == manifest.key)
    path = Path(row["path"])
    model = onnx.load(next(path / name for name in ("graph.onnx", "engine.onnx") if (path / name).exists()))
    constants = {t.name: t for t in model.graph.initializer}
    return [
        numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]


class TestValues:
    """Dead, lonely and infinite values: scales stay positive and finite, and so do results."""

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(set_to(0, 3), id="an output channel of zeros"),
            pytest.param(set_to(0, slice(None), 5), id="an input channel of zeros"),
            pytest.param(set_to(0, ...), id="nothing but zeros"),
            pytest.param(times(1000, 3), id="an output channel a thousand times the others"),
            pytest.param(times(1000, slice(None), 5), id="an input channel a thousand times the others"),
            pytest.param(set_to(1e-42, 3), id="a channel next to nothing"),
            pytest.param(times(1e30, 3), id="a channel that is huge"),
        ],
    )
    def test_weights(self, builder: Builder, change: Change) -> None:
        """A gate that anything passes: an engine is made whatever the loss, to look at its scales."""
        model = changed("left.weight", change)
        assert builder.build(model, targets="orin,cpu", more="[gate]\nmin_cosine = -1") == 0
        for target in ("orin", "cpu"):
            found = scales(builder.manifest(target), builder)
            assert found and all(np.isfinite(s).all() and (s > 0).all() for s in found)
            (output,) = (builder.manifest(target).accuracy or pytest.fail("not judged")).outputs
            assert output.cosine is not None  # nothing became NaN

    def test_a_tensor_that_is_always_zero_stays_in_the_carrier(self, builder: Builder) -> None:
        model = changed("left.weight", set_to(0, ...), changed("left.bias", set_to(-1, ...)))
        assert builder.build(model) == 0  # Relu makes zeros of −1
        assert builder.plan()["right"] == (
            "bf16",
            "its input was zero, or next to it, in every calibration sample: no scale fits",
        )
        assert builder.plan()["head"][0] == "int8"

    def test_a_tensor_next_to_zero_stays_in_the_carrier(self, builder: Builder) -> None:
        model = changed("left.weight", times(1e-40, ...), changed("left.bias", set_to(0, ...)))
        assert builder.build(model, targets="orin,cpu,t4", variants="fast") == 0
        assert builder.plan()["right"][0] == "bf16"
        assert builder.plan("t4")["right"][0] == "fp16"

    def test_an_infinite_bias_behind_a_relu_keeps_its_layer_in_the_carrier(self, builder: Builder) -> None:
        model = changed("left.bias", set_to(-np.inf, 3))  # the channel is switched off
        assert builder.build(model, targets="orin,cpu") == 0
        assert builder.plan()["left"] == ("bf16", "its weights or bias hold NaN or infinity")
        assert builder.plan()["right"][0] == "int8"

    @pytest.mark.parametrize("value", [-np.inf, np.finfo(np.float32).min])
    def test_a_mask_is_no_obstacle(self, builder: Builder, value: float) -> None:
        assert builder.build(masked(value), targets="orin,t4") == 0
        assert builder.plan()["stem"][0] == "int8"
        (told,) = (text for text in builder.manifest("t4").lint if "'mask'" in text)
        said = "is infinite" if np.isinf(value) else "is cut off at fp16's largest value, 6.55e+04"
        assert told == f"warning [finite-constants] node 'masked': its constant 'mask' {said}"

    def test_an_infinite_weight_is_named_with_the_picture(self, builder: Builder) -> None:
        assert builder.build(changed("right.weight", set_to(np.inf, 3, 5))) == 4
        builder.said("tensor 'right_relu.out' holds NaN or infinity for calibration picture 00", ".jpg")


def run_of(builder: Builder, target: str) -> Array:
    """What the graph of an engine computes of one picture; a GPU's on the processor, emulated."""
    path = Path(next(row for row in builder.rows if row["target"] == target)["path"])
    graph = path / ("engine.onnx" if target == "cpu" else "graph.onnx")
    model = emulated(onnx.load(graph)) if target != "cpu" else onnx.load(graph)
    (value,) = session(model).run(["out"], graphs.feeds(1)[0])
    return np.asarray(value)


def session(model: onnx.ModelProto) -> Any:
    return open_session(model, plain=True)


def close(found: Array, expected: Array) -> bool:
    """8 bits leave some percent of an error, other weights or scales leave far more."""
    error, signal = found.astype(np.float64) - expected, expected - expected.mean(dtype=np.float64)
    return bool(np.square(error).mean() < 0.01 * np.square(signal).mean())


def twins() -> onnx.ModelProto:
    """Convolutions 'a' and 'b' with the same weights and bias."""
    net = graphs.Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    x = net.op("Relu", net.conv(x, "a", (32, 32)), name="a_relu")
    x = net.op("Conv", x, "a.weight", "a.bias", name="b", pads=[1, 1, 1, 1])
    return net.model(net.op("Relu", x, name="b_relu"))


class TestSharedWeights:
    @pytest.mark.parametrize(
        ("a", "b"),
        [("int8", "carrier"), ("carrier", "int8"), ("int8", "int8"), ("int8", "w8a16"), ("fp8", "int8")],
    )
    def test_both_layers_are_right_in_whatever_they_are(self, builder: Builder, a: str, b: str) -> None:
        rules = [
            {"match": {"name": name}, "precision": precision, "reason": "a test"}
            for name, precision in (("a", a), ("b", b))
        ]
        policy = builder.policy(*rules)
        targets = "ada,cpu" if "fp8" not in (a, b) else "ada"
        assert builder.build(twins(), "--policy", policy, targets=targets) == 0
        (expected,) = session(twins()).run(["out"], graphs.feeds(1)[0])
        for target in targets.split(","):
            carrier = builder.manifest(target).carrier
            plan = builder.plan(target)
            assert plan["a"][0] == (carrier if a == "carrier" else a)
            assert plan["b"][0] == (carrier if b == "carrier" else b)
            assert close(run_of(builder, target), expected)


class TestShapes:
    @pytest.mark.parametrize("shape", [("n", 3, 32, 32), ("n", 3, "h", "w"), (1, 3, "h", "w")])
    def test_what_is_left_open_is_fixed_by_the_config(
        self, builder: Builder, shape: tuple[int | str, ...]
    ) -> None:
        assert builder.build(chain(shape=shape), targets="orin,cpu") == 0
        assert builder.plan()["left"][0] == builder.plan("cpu")["left"][0] == "int8"
        assert builder.manifest().inputs[0].shape == (1, 3, 32, 32)

    def test_a_profile_keeps_it_open(self, builder: Builder) -> None:
        more = "[profile]\nbatch = [1, 2, 4]\nmin_size = [16, 16]\nmax_size = [64, 64]"
        assert builder.build(chain(shape=("n", 3, "h", "w")), targets="orin,cpu", more=more) == 0
        assert builder.plan()["left"][0] == builder.plan("cpu")["left"][0] == "int8"
        assert builder.manifest().inputs[0].shape == ("batch", 3, "height", "width")

    def test_a_profile_of_a_graph_with_a_fixed_size_is_refused(self, builder: Builder) -> None:
        assert builder.build(chain(), more="[profile]\nmax_size = [64, 64]") == 4
        builder.said("the graph cannot take pictures of 64×64", "exported with a fixed size")


class TestControlFlow:
    @pytest.mark.parametrize(
        ("model", "node", "op"),
        [
            pytest.param(graphs.branch, "if", "If", id="If"),
            pytest.param(lambda: graphs.branch(captures=True), "if", "If", id="If that reads around itself"),
            pytest.param(graphs.loop, "loop", "Loop", id="Loop"),
        ],
    )
    def test_it_stays_and_the_rest_is_quantized(
        self, builder: Builder, model: Callable[[], onnx.ModelProto], node: str, op: str
    ) -> None:
        assert builder.build(model(), targets="orin,cpu") == 0
        for target in ("orin", "cpu"):
            carrier = builder.manifest(target).carrier
            assert builder.plan(target)[node] == (carrier, f"{op} is control flow: it stays as it is")
            assert builder.plan(target)["body"][0] == "int8"


def with_pairs(kind: Any = np.int8, zero_point: int = 0, weights: bool = True) -> onnx.ModelProto:
    """`chain` whose convolution 'left' came with Q/DQ: of its input, and of its weights if asked for."""
    model = chain()
    (left,) = (node for node in model.graph.node if node.name == "left")
    nodes = list(model.graph.node)
    place = nodes.index(left)
    (kernel,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "left.weight")
    found = [(0, np.float32(0.037), np.asarray(zero_point, kind), {})]
    if weights:
        scale = (np.abs(kernel).max(axis=(1, 2, 3)) / 127).astype(np.float32)
        found.append((1, scale, np.zeros(32, np.int8), {"axis": 0}))
    for index, scale, zero, axis in found:
        name = left.input[index]
        constants = {f"{name}/given_scale": scale, f"{name}/given_zero": zero}
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()
        )
        q, dq = f"{name}/given_q", f"{name}/given_dq"
        nodes[place:place] = [
            helper.make_node("QuantizeLinear", [name, *constants], [q], name=f"{name}/Q", **axis),
            helper.make_node("DequantizeLinear", [q, *constants], [dq], name=f"{name}/DQ", **axis),
        ]
        left.input[index], place = dq, place + 2
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


class TestGivenPairs:
    """A graph that somebody quantized already, in part."""

    KEEP = '[quantize]\ngiven = "keep"'

    def test_they_are_refused_unless_asked_for(self, builder: Builder) -> None:
        assert builder.build(with_pairs()) == 4
        builder.said("is quantized already: node 'stem_relu.out/Q' is a QuantizeLinear", 'given = "keep"')

    @pytest.mark.parametrize("variant", ["fast", "exact", "w8a16"])
    def test_they_are_kept_and_the_rest_is_planned(self, builder: Builder, variant: str) -> None:
        assert builder.build(with_pairs(), targets="orin,t4,cpu", variants=variant, more=self.KEEP) == 0
        (expected,) = session(with_pairs()).run(["out"], graphs.feeds(1)[0])
        for target in ("orin", "t4", "cpu"):
            plan, manifest = builder.plan(target, variant), builder.manifest(target, variant)
            assert plan["left"] == ("int8", "given in the graph")
            assert plan["stem_relu.out/DQ"] == ("fp32", "given in the graph, kept as it is")
            assert plan["right"][0] == {"fast": "int8", "w8a16": "w8a16"}.get(variant, manifest.carrier)
            assert manifest.quantized_mac_share > 0.3  # it counts what came quantized
            assert close(run_of(builder, target), expected)
            assert any(scale == np.float32(0.037) for scale in scales(manifest, builder) if scale.ndim == 0)

    def test_they_stay_where_they_are(self) -> None:
        """ONNX Runtime would put further pairs behind MaxPool and Reshape."""
        net = graphs.Net()
        pair = net.constant("scale", 0.03), net.constant("zero", 0, np.int8)
        x = net.op("QuantizeLinear", net.conv("image", "stem", (3, 32)), *pair, name="q")
        x = net.op("DequantizeLinear", x, *pair, name="dq")
        x = net.op("MaxPool", x, name="pool", kernel_shape=[2, 2], strides=[2, 2])
        model = net.model(net.op("Relu", net.conv(x, "left", (32, 32)), name="relu"))
        kept = [node.op_type for node in graphs.graph(model).nodes]
        assert kept == ["Conv", "QuantizeLinear", "DequantizeLinear", "MaxPool", "Conv", "Relu"]

    def test_a_product_with_one_pair_alone_stays_in_the_carrier(self, builder: Builder) -> None:
        assert builder.build(with_pairs(weights=False), targets="orin,cpu", more=self.KEEP) == 0
        assert builder.plan()["left"] == ("bf16", "given in the graph")
        assert builder.plan("cpu")["left"] == ("fp32", "given in the graph")

    @pytest.mark.parametrize(
        ("kind", "zero_point", "why"),
        [(np.uint8, 128, "it is in uint8"), (np.int8, 3, "its zero point is not 0")],
    )
    def test_what_is_not_symmetric_is_for_processors_alone(
        self, builder: Builder, kind: Any, zero_point: int, why: str
    ) -> None:
        assert builder.build(with_pairs(kind, zero_point), targets="ada,cpu", more=self.KEEP) == 4
        builder.said(
            "that ada cannot take: node 'stem_relu.out/Q'", f"why: {why}; TensorRT quantizes symmetrically"
        )
        assert builder.plan("cpu")["left"] == ("int8", "given in the graph")


def foreign(operator: str = "Gelu", domain: str = "com.microsoft") -> onnx.ModelProto:
    """`chain` with an operator that is not ONNX's own in place of 'left_relu'."""
    model = chain()
    (node,) = (node for node in model.graph.node if node.name == "left_relu")
    node.op_type, node.domain = operator, domain
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


class TestForeignOperators:
    def test_what_onnx_runtime_knows_stays_and_the_rest_is_quantized(self, builder: Builder) -> None:
        assert builder.build(foreign(), targets="cpu", variants="fast,exact") == 0
        plan = builder.plan("cpu")
        assert plan["left_relu"] == (
            "fp32",
            "com.microsoft::Gelu is not one of ONNX's own operators: it stays",
        )
        assert (plan["left"][0], plan["right"][0]) == ("int8", "int8")

    def test_a_gpu_does_not_take_it(self, builder: Builder) -> None:
        assert builder.build(foreign(), targets="ada,cpu") == 4
        builder.said("node 'left_relu' is com.microsoft::Gelu, which TensorRT has not", "ada does not")
        assert {row["target"]: row["state"] for row in builder.rows} == {"ada": "failed", "cpu": "verified"}

    def test_a_product_of_another_domain_stays_too(self, builder: Builder) -> None:
        model = graphs.transformer()
        (node,) = (node for node in model.graph.node if node.name == "project")
        node.op_type, node.domain = "FusedMatMul", "com.microsoft"
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        assert builder.build(model, targets="cpu", task="classify") == 0
        plan = builder.plan("cpu")
        assert "com.microsoft::FusedMatMul is not one of ONNX's own" in plan["project"][1]
        assert plan["query"][0] == "int8"

    @pytest.mark.parametrize("domain", ["com.example", "com.microsoft"])
    def test_what_onnx_runtime_does_not_know_is_refused(self, builder: Builder, domain: str) -> None:
        assert builder.build(foreign("Warp", domain), targets="cpu,orin") == 4
        builder.said(f"unsupported operator {domain}::Warp in node 'left_relu'", "does not know it either")

    def test_in_a_branch_it_is_refused_as_well(self, builder: Builder) -> None:
        model = graphs.branch()
        (node,) = (node for node in model.graph.node if node.op_type == "If")
        inner = node.attribute[0].g.node[0]
        constant = inner.output[0]
        inner.output[0] = f"{constant}/plain"
        warp = helper.make_node("Warp", [inner.output[0]], [constant], name="w", domain="com.example")
        node.attribute[0].g.node.append(warp)
        model.opset_import.append(helper.make_opsetid("com.example", 1))
        assert builder.build(model, targets="cpu") == 4
        builder.said("unsupported operator com.example::Warp in node 'if'")

    def test_a_function_of_the_graph_itself_is_written_out(self, builder: Builder) -> None:
        model = foreign("Swish", "mine")
        body = [
            helper.make_node("Sigmoid", ["x"], ["gate"]),
            helper.make_node("Mul", ["x", "gate"], ["y"]),
        ]
        own = helper.make_function("mine", "Swish", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
        model.functions.append(own)
        assert builder.build(model, targets="orin,cpu") == 0
        assert builder.plan()["left"][0] == builder.plan("cpu")["left"][0] == "int8"


class TestGate:
    """A gate that no plan can meet."""

    GATE = "[gate]\nmin_sqnr_db = 300"

    def test_the_best_plan_and_its_score_are_told(self, builder: Builder) -> None:
        assert builder.build(chain(), targets="ada", more=self.GATE) == 3
        (row,) = builder.rows
        assert (row["state"], row["path"]) == ("failed", None)
        assert re.search(r"the best of \d+ plans that were run has \d+% [\w %,]+ of the work", row["reason"])
        assert f"reaches cosine {row['accuracy']['this']:.6g} (fp32 1)" in row["reason"]
        builder.said("SQNR of 'out' is", "the gate asks for 300", "it was not published")

    def test_what_was_published_before_stays(self, builder: Builder) -> None:
        assert builder.build(chain()) == 0
        before = published(builder.folder)
        assert builder.build(chain(), more=self.GATE) == 3
        assert published(builder.folder) == before

    def test_other_engines_are_built(self, builder: Builder) -> None:
        assert builder.build(chain(), targets="orin,cpu", more=self.GATE) == 3
        assert {row["target"]: row["state"] for row in builder.rows} == {"orin": "failed", "cpu": "verified"}
        assert "fails the gate" in builder.manifest("cpu").reason  # int8 does, fp32 is there


def published(folder: Path) -> dict[str, bytes]:
    """Every file of the engines that a store holds."""
    engines = folder / "engines" / "net" / "orin"
    return {str(path): path.read_bytes() for path in engines.rglob("*") if path.is_file()}


def rule(**more: Any) -> dict[str, Any]:
    return {"match": {"name": "left"}, "precision": "carrier", "reason": "a test"} | more


class TestPolicies:
    """A policy that contradicts the hardware, the graph or itself: exit code 2, and what to mend."""

    @pytest.mark.parametrize(
        ("model", "target", "asked", "said"),
        [
            (chain, "t4", rule(precision="fp8"), "t4 has no fp8 in the hardware matrix"),
            (chain, "cpu", rule(precision="fp8"), "cpu has no fp8 in the hardware matrix"),
            (chain, "t4", rule(precision="bf16"), "t4 carries fp16"),
            (chain, "orin", rule(precision="w4a16"), "(hardware rule 'int4-matrices')"),
            (
                graphs.depthwise_swish,
                "ada",
                rule(match={"tag": "depthwise"}, precision="fp8"),
                "no optimized fp8 kernel for grouped convolution (group=32) (hardware rule 'fp8-groups')",
            ),
            (
                graphs.transformer,
                "cpu",
                rule(match={"tag": "attention"}, precision="int8"),
                "this device has no quantized kernel for it (hardware rule 'no-quantized-attention')",
            ),
        ],
    )
    def test_it_asks_for_what_the_device_has_not(
        self,
        builder: Builder,
        model: Callable[[], onnx.ModelProto],
        target: str,
        asked: dict[str, Any],
        said: str,
    ) -> None:
        policy = builder.policy(asked | {"name": "my wish"})
        task = "classify" if model is graphs.transformer else "segment"
        assert builder.build(model(), "--policy", policy, targets=target, task=task) == 2
        asks = f"'mine: my wish' asks for {asked['precision']} at node '"
        builder.said(asks, f"on {target} that is not possible", said)

    def test_the_other_targets_are_built(self, builder: Builder) -> None:
        policy = builder.policy(rule(precision="fp8"))
        assert builder.build(chain(), "--policy", policy, targets="t4,ada") == 2
        assert [row["state"] for row in builder.rows] == ["failed", "bundle"]
        assert builder.plan("ada")["left"] == ("fp8", "mine: rule 1: a test")

    @pytest.mark.parametrize(
        ("match", "said"),
        [
            ({"name": "lefft*"}, ["name 'lefft*' fits none", "do: near: left"]),
            ({"op": "Gemm"}, ["op 'Gemm' fits none", "do: operators there are: Conv"]),
            ({"tag": "attention"}, ["tag attention fits none", "do: tags there are: first, last, picture,"]),
            ({"layers": [9, 12]}, ["layers 9 to 12 fits none", "do: layers go from 0 to 3"]),
            (
                {"name": "left", "tag": "last"},
                ["name 'left' fits 1, tag last fits 1", "do: its criteria fit"],
            ),
            ({"between": {"from": "stem_relu.outt"}}, ["did you mean 'stem_relu.out'?"]),
        ],
    )
    def test_a_rule_matches_nothing(self, builder: Builder, match: dict[str, Any], said: list[str]) -> None:
        policy = builder.policy(rule(match=match))
        assert builder.build(chain(), "--policy", policy) == 2
        builder.said(*said)

    def test_a_rule_hits_more_than_it_expects(self, builder: Builder) -> None:
        policy = builder.policy(rule(match={"op": "Conv"}, expect=2))
        assert builder.build(chain(), "--policy", policy) == 2
        builder.said("matches 4 nodes", "it expects at most 2; some of them: stem, left, right, head")

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (rule(precison="int8"), "unknown key 'rules.0.precison', did you mean 'precision'?"),
            (rule(match={"nam": "left"}), "unknown key 'rules.0.match.nam', did you mean 'name'?"),
            (rule(match={"between": {"form": "x"}}), "'rules.0.match.between.form', did you mean 'from'?"),
            (rule(match={"tag": "depthwis"}), "there is no tag 'depthwis', did you mean 'depthwise'?"),
            (rule(match={"where": {"kernell": {}}}), "there is no number 'kernell', did you mean 'kernel'?"),
            (rule(precision="int16"), "'int8', 'w8a16', 'carrier', 'bf16', 'fp16' or 'fp32' (got 'int16')"),
            (rule(at_least="bf16"), "exactly one of `precision`, `at_least` and `forbid`"),
            (rule(targets=["oren"]), "for the target 'oren'"),
            ({"match": {}, "precision": "int8"}, "rules.0.reason: Field required"),
        ],
    )
    def test_a_word_is_wrong(self, builder: Builder, asked: dict[str, Any], said: str) -> None:
        assert builder.build(chain(), "--policy", builder.policy(asked)) == 2
        builder.said(said)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b'{"name": "mine", "rules": [}', "is not valid JSON"),
            (b"\xff\xfe\x00", "is not valid JSON"),
            (b"[]", "is not a JSON object"),
            (b"{}", "name: Field required"),
        ],
    )
    def test_it_is_no_policy_at_all(self, builder: Builder, content: bytes, said: str) -> None:
        policy = Path(builder.policy())
        policy.write_bytes(content)
        assert builder.build(chain(), "--policy", str(policy)) == 2
        builder.said("policy.json", said)
