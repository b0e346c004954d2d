"""What a GPU engine computes behind the network is what the host would have computed from its outputs."""

import importlib
from pathlib import Path

import cv2
import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge import machine, tasks
from edge.build.tails import PLUGINS, append_tail, tail_outputs
from edge.build.tensorrt import CompileRequest, compile_engine
from edge.config import InputConfig
from edge.errors import ModelError
from edge.graph import serialize
from edge.precision import plan
from edge.precision.rewrite import rewrite
from edge.preprocess import Placement, Preprocess
from edge.stream.network import has_nan
from edge.targets import TARGETS
from edge.tasks import TASKS
from edge.tasks.decode import grid
from edge.tasks.detect_tail import KEPT
from edge.tasks.outputs import BOXES, CANDIDATES, CLASSES, COUNT, HEAT, SCORES, SUM, TAIL, streamed

SIDE = 128
CELLS = len(grid((SIDE, SIDE), (8, 16, 32))[0])
PLACE = Placement(512, 512, 0.25, 0.25, 0, 0, SIDE, SIDE)
INPUT = InputConfig(size=(SIDE, SIDE))
DECODERS = ("yolox", "yolov8")


def create(kind, **options):
    return importlib.import_module(TASKS[kind]).create(options, "here")


def network(*shape, output="raw"):
    """A network that puts out what it is given."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("given", output)]
    node = helper.make_node("Identity", ["given"], [output], name="network")
    body = helper.make_graph([node], "network", sides[:1], sides[1:])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def run(model, raw, names=None):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = names or [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"given": raw}), strict=True))


def detector_output(decode, batch, seed, likely=40, classes=5):
    """What a YOLO head could put out: N × candidates × (5 + classes), or N × (4 + classes) × candidates."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 0.4, (batch, CELLS, 5 + classes)).astype(np.float32)
    raw[..., 4:] = rng.random((batch, CELLS, 1 + classes)) * 0.5
    for picture in raw:
        picture[rng.permutation(CELLS)[:likely], 4:] **= 0.2
    if decode == "yolox":
        return raw
    centre, size = rng.uniform(0, SIDE, (batch, CELLS, 2)), rng.uniform(4, 60, (batch, CELLS, 2))
    values = np.concatenate([centre, size, raw[..., 4:5] * raw[..., 5:]], 2)
    return np.ascontiguousarray(values.transpose(0, 2, 1), np.float32)


def dynamic(shape):
    return ("batch", *shape[1:])


def assert_same(found, expected):
    assert found.classes.tolist() == expected.classes.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("batch", [1, 3])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), likely=st.sampled_from([0, 5, 40, CELLS]), open_batch=st.booleans())
def test_the_device_finds_what_the_host_finds(decode, batch, seed, likely, open_batch):
    raw = detector_output(decode, batch, seed, likely)
    task = create("detect", decode=decode)
    model = append_tail(network(*(dynamic(raw.shape) if open_batch else raw.shape)), task, INPUT)
    onnx.checker.check_model(model, full_check=True)
    outputs = run(model, raw, streamed(o.name for o in model.graph.output))
    for index in range(batch):
        expected = task.postprocess({"raw": raw}, index, PLACE)
        assert_same(task.postprocess(outputs, index, PLACE), expected)


@pytest.mark.parametrize("decode", DECODERS)
def test_with_more_candidates_than_are_kept_the_first_detections_are_still_the_hosts(decode, monkeypatch):
    """Suppression never looks back, so what is missing is less likely than all that was kept."""
    monkeypatch.setattr("edge.tasks.detect_tail.KEPT", 60)
    raw = detector_output(decode, 1, seed=1, likely=CELLS)
    task = create("detect", decode=decode, max_detections=60, confidence=0.05, overlap=0.02)
    outputs = run(append_tail(network(*raw.shape), task, INPUT), raw)
    assert outputs[CANDIDATES].shape == (1, 60, 6)
    found = task.postprocess(outputs, 0, PLACE)
    expected = task.postprocess({"raw": raw}, 0, PLACE)
    count = len(found.boxes)
    assert 5 < count < len(expected.boxes)
    assert (expected.scores[count:] <= outputs[CANDIDATES][0, -1, 4]).all()
    np.testing.assert_allclose(found.boxes, expected.boxes[:count], atol=1e-3)


def test_as_many_candidates_are_kept_as_detections_are_asked_for():
    task = create("detect", decode="yolov8", max_detections=2 * KEPT)
    wide = append_tail(network(1, 6, 5000), task, INPUT)
    assert tail_outputs(wide)[0].shape == (1, 2 * KEPT, 6)
    narrow = append_tail(network(1, 6, 30), task, INPUT)
    assert tail_outputs(narrow)[0].shape == (1, 30, 6)


def test_more_candidates_than_tensorrt_can_choose_are_left_to_the_host():
    model = network(1, 6, 5000)
    assert append_tail(model, create("detect", decode="yolov8", max_detections=4000), INPUT) is model


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 2, 4, 6])
def test_what_is_no_number_is_flagged_wherever_it_is(decode, value, row):
    """Streaming does not see the network's output any more; the sum over it tells."""
    raw = detector_output(decode, 3, seed=2)
    raw[(1, 7, row) if decode == "yolox" else (1, row, 7)] = value
    task = create("detect", decode=decode)
    model = append_tail(network(*raw.shape), task, INPUT)
    outputs = run(model, raw, streamed(o.name for o in model.graph.output))
    assert has_nan({SUM: outputs[SUM][1:2]})
    assert not has_nan({name: value[::2] for name, value in outputs.items()})
    sound = task.postprocess({"raw": raw}, 0, PLACE)
    assert_same(task.postprocess(outputs, 0, PLACE), sound)
    task.postprocess(outputs, 1, PLACE).to_json()


@pytest.mark.parametrize(
    ("settings", "channels"), [({"scores": "logits"}, 1), ({"scores": "logits", "channel": 2}, 4), ({}, 2)]
)
def test_a_heat_map_arrives_as_one_plane_of_probabilities(settings, channels):
    raw = np.random.default_rng(0).normal(0.3, 3, (3, channels, 16, 16)).astype(np.float32)
    raw = raw if settings else 1 / (1 + np.exp(-raw))
    task = create("segment", **settings)
    model = append_tail(network(*dynamic(raw.shape)), task, INPUT)
    onnx.checker.check_model(model, full_check=True)
    outputs = run(model, raw, streamed(o.name for o in model.graph.output))
    assert outputs[HEAT].shape == (3, 1, 16, 16) and outputs[SUM].shape == (3,)
    for index in range(3):
        found, expected = (task.postprocess(o, index, PLACE) for o in (outputs, {"raw": raw}))
        np.testing.assert_allclose(found.heat, expected.heat, atol=1e-6)
        assert found.to_json()["mask"]["boxes"] and found.window == expected.window


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        (create("detect", decode="boxes"), (1, 300, 6)),
        (create("segment"), (1, 1, 16, 16)),
        (create("classify"), (1, 1000)),
        (create("image"), (1, 3, 32, 32)),
        (create("detect", decode="yolox"), (1, 1, CELLS, 85)),
        (create("segment", scores="logits"), (1, 16, 16)),
    ],
    ids=["boxes", "probabilities", "classes", "picture", "no candidates", "no heat map"],
)
def test_where_nothing_is_saved_the_graph_stays_as_it_is(task, shape):
    """Also where the output is not the task's: running it tells what is wrong."""
    model = network(*shape)
    assert append_tail(model, task, INPUT) is model


@pytest.mark.parametrize("shape", [("batch", "candidates", 85), ("batch", CELLS, "values")])
def test_a_size_that_is_not_known_is_left_to_the_host(shape):
    model = network(*shape)
    assert append_tail(model, create("detect", decode="yolox"), INPUT) is model


def test_the_network_keeps_its_outputs_and_its_bytes():
    """They are what was verified, and what the metric is computed from."""
    raw = detector_output("yolox", 1, seed=3)
    model = network(*raw.shape)
    before = model.SerializeToString()
    tailed = append_tail(model, create("detect", decode="yolox"), INPUT)
    assert model.SerializeToString() == before
    assert [o.name for o in tailed.graph.output] == ["raw", CANDIDATES, SUM]
    assert tailed.graph.node[: len(model.graph.node)] == model.graph.node
    np.testing.assert_array_equal(run(tailed, raw)["raw"], raw)


def test_the_tail_is_fp32_throughout_and_no_shape_in_it_depends_on_data():
    raw = detector_output("yolox", 1, seed=3)
    model = append_tail(network(*raw.shape), create("detect", decode="yolox"), INPUT)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for value in inferred.graph.value_info:
        tensor = value.type.tensor_type
        assert tensor.elem_type in (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL), value.name
        assert all(dim.dim_value for dim in tensor.shape.dim), value.name


@pytest.mark.parametrize(
    ("options", "shape", "why"),
    [
        ({"decode": "yolox", "strides": [8]}, (1, CELLS, 85), "YOLOX with strides"),
        ({"decode": "yolov8"}, (1, 4, 100), "4 rows"),
        ({"decode": "yolox", "output": "row"}, (1, CELLS, 85), "did you mean 'raw'"),
    ],
)
def test_an_output_that_is_not_what_the_config_says_stops_the_build(options, shape, why):
    with pytest.raises(ModelError, match=why):
        append_tail(network(*shape), create("detect", **options), INPUT)


def test_a_graph_that_uses_the_tails_names_is_refused():
    with pytest.raises(ModelError, match=SUM):
        append_tail(network(1, CELLS, 85, output=SUM), create("detect", decode="yolox"), INPUT)


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_says_whether_it_has_a_tail(kind):
    options = {"decode": "yolox"} if kind == "detect" else {}
    tail = create(kind, **options).tail()
    assert tail is None or callable(tail.write)


def test_without_a_tail_everything_is_streamed():
    assert streamed(["raw", "other"]) is None
    assert streamed(["raw", CANDIDATES, SUM]) == (CANDIDATES, SUM)


def test_a_score_is_computed_from_the_networks_own_output():
    raw = detector_output("yolox", 1, seed=4)
    task = create("detect", decode="yolox")
    outputs = run(append_tail(network(*raw.shape), task, INPUT), raw)
    assert_same(task.score_payload(outputs, 0, PLACE), task.score_payload({"raw": raw}, 0, PLACE))
    with pytest.raises(ModelError, match="own output is not there"):
        task.score_payload({CANDIDATES: outputs[CANDIDATES]}, 0, PLACE)


# ---------------------------------------------------------------------- suppression in the engine


def suppressing(**options):
    """A YOLOX head behind which EfficientNMS stands, and its raw output."""
    raw = detector_output("yolox", 3, seed=5)
    task = create("detect", decode="yolox", nms="engine", max_detections=20, **options)
    return task, raw, append_tail(network(*dynamic(raw.shape)), task, INPUT, PLUGINS)


def test_efficient_nms_is_asked_for_with_the_tasks_thresholds():
    """Attributes and layouts as NVIDIA's plugin/efficientNMSPlugin documents them, version 1."""
    _, _, model = suppressing(confidence=0.4, overlap=0.5)
    node = next(n for n in model.graph.node if n.op_type == "EfficientNMS_TRT")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {
        "plugin_version": b"1",
        "score_threshold": pytest.approx(0.4),
        "iou_threshold": pytest.approx(0.5),
        "max_output_boxes": 20,
        "background_class": -1,
        "score_activation": 0,
        "class_agnostic": 0,
        "box_coding": 0,
    }
    assert list(node.output) == [COUNT, BOXES, SCORES, CLASSES]
    assert {o.name: (o.dtype, o.shape) for o in tail_outputs(model)} == {
        COUNT: ("int32", ("batch", 1)),
        BOXES: ("float32", ("batch", 20, 4)),
        SCORES: ("float32", ("batch", 20)),
        CLASSES: ("int32", ("batch", 20)),
        SUM: ("float32", ("batch",)),
    }


def plugin(boxes, scores, limit, confidence, overlap):
    """EfficientNMS as documented, for one picture: suppression class by class over all box × class pairs."""
    from edge.tasks.nms import suppress

    rows, classes = np.nonzero(scores > confidence)
    pairs = suppress(boxes[rows], scores[rows, classes], classes, overlap, limit)
    count = len(pairs)
    rows, classes = rows[pairs], classes[pairs]
    padded = [np.zeros((limit, 4), np.float32), np.zeros(limit, np.float32), np.zeros(limit, np.int32)]
    padded[0][:count], padded[1][:count], padded[2][:count] = boxes[rows], scores[rows, classes], classes
    return np.int32([count]), *padded


def test_what_efficient_nms_is_given_leads_to_the_hosts_detections():
    """The plugin is not here: its inputs are computed by the graph, its answer by its documentation."""
    task, raw, model = suppressing()
    node = next(n for n in model.graph.node if n.op_type == "EfficientNMS_TRT")
    given = onnx.ModelProto.FromString(model.SerializeToString())
    for kept in (given.graph.node, given.graph.output):
        kept.remove(next(each for each in kept if each.name in (node.name, BOXES)))
    del given.graph.output[1:]
    given.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.input
    )
    _, boxes, scores = run(given, raw).values()
    assert boxes.shape == (3, CELLS, 4) and scores.shape == (3, CELLS, 5)
    found = [plugin(boxes[i], scores[i], 20, 0.3, 0.45) for i in range(3)]
    outputs = dict(zip((COUNT, BOXES, SCORES, CLASSES), map(np.stack, zip(*found, strict=True)), strict=True))
    for index in range(3):
        expected = task.postprocess({"raw": raw}, index, PLACE)
        assert len(expected.boxes) > 3
        assert_same(task.postprocess(outputs, index, PLACE), expected)


@pytest.mark.parametrize(("nms", "plugins"), [("engine", ()), ("host", PLUGINS)])
def test_suppression_stays_on_the_host_unless_asked_for_and_there(nms, plugins):
    task = create("detect", decode="yolox", nms=nms)
    model = append_tail(network(1, CELLS, 9), task, INPUT, plugins)
    assert {o.name for o in tail_outputs(model)} == {CANDIDATES, SUM} <= TAIL


# ---------------------------------------------------------------------- real graphs


def test_a_real_detector_finds_the_same_in_real_pictures():
    config, index = graphs.real_config("yolox_nano"), graphs.real("yolox_nano")
    task = tasks.create(config)
    model = append_tail(index.model, task, config.input)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    preprocess, found = Preprocess(config.input), 0
    for path in sorted(Path(config.evaluation.images).glob("*.jpg"))[:4]:
        tensor, (place,) = preprocess.batch([cv2.imread(str(path))])
        outputs = dict(zip(names, session.run(names, {index.inputs[0]: tensor}), strict=True))
        expected = task.postprocess({names[0]: outputs.pop(names[0])}, 0, place)
        assert_same(task.postprocess(outputs, 0, place), expected)
        found += len(expected.boxes)
    assert found > 3


@pytest.mark.parametrize("target", ["t4", "ada"])
@pytest.mark.parametrize("decode", [*DECODERS, "heat"])
def test_the_real_compiler_takes_every_tail(target, decode):
    if not machine.detect().is_x86 or "tensorrt-rtx" not in machine.detect().packages:
        pytest.skip("tensorrt-rtx is not installed, or this is not x86-64: it compiles nowhere else")
    if decode == "heat":
        task, shape = create("segment", scores="logits", channel=1), (1, 3, 32, 32)
    else:
        task, shape = create("detect", decode=decode), detector_output(decode, 1, seed=0).shape
    model = append_tail(network(*shape), task, INPUT)
    compiled = compile_engine(
        CompileRequest(serialize(model), "tensorrt_rtx", TARGETS[target].compute_capability)
    )
    assert compiled.engine


@pytest.mark.parametrize("target", ["t4", "ada"])
def test_a_typed_graph_with_its_tail_is_valid(target):
    """bf16 and fp8 inside, fp32 behind. (ONNX has bf16 convolutions from opset 22 on: no full check.)"""
    config, index = graphs.real_config("yolox_nano"), graphs.real("yolox_nano")
    row, seen = TARGETS[target], graphs.made_up_ranges(index)
    typed = rewrite(index, plan.make(index, row, "fast", seen), seen, row)
    model = append_tail(typed, tasks.create(config), config.input)
    onnx.checker.check_model(model)
    assert [o.shape for o in tail_outputs(model)] == [(1, KEPT, 6), (1,)]
