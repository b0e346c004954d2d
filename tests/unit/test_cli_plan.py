"""`edge plan`: what a build would do, without building; and the plan for training scripts."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.build.torch_names import module_of
from edge.cli import main
from tests import graphs


class Project:
    """A small network and pictures, and `edge plan` of it."""

    def __init__(self, folder: Path, model: onnx.ModelProto) -> None:
        self.store, self.result = folder / "engines", folder / "plan.json"
        self.words = ["--onnx", str(graphs.saved(model, folder / "net.onnx")), "--out", str(self.store)]
        self.words += ["--calib", str(graphs.pictures(folder / "pictures", 12))]

    def plan(self, *words: str) -> int:
        return main(["plan", *self.words, *words])

    def json(self, *words: str) -> list[dict]:
        assert self.plan(*words, "--json", str(self.result)) == 0
        return json.loads(self.result.read_text())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, graphs.residual())


def test_every_group_is_shown_with_its_precision_and_reason(project, capsys):
    assert project.plan("--targets", "a10") == 0
    shown = capsys.readouterr().out
    (plan,) = project.json("--targets", "a10")
    assert "int8" in shown and "carrier bf16" in shown
    for group in plan["groups"]:
        assert group["name"] in shown and group["reason"]
        assert group["precision"] in shown


def test_nothing_is_published_and_a_build_takes_up_what_was_measured(project, capsys):
    assert project.plan("--targets", "a10") == 0
    assert not list(project.store.rglob("manifest.json"))
    capsys.readouterr()
    assert main(["build", *project.words, "--targets", "a10", "--variants", "fast", "--no-report"]) == 0
    assert "sensitivity" not in capsys.readouterr().err
    assert list(project.store.rglob("manifest.json"))


def test_a_build_makes_the_plan_that_was_shown(project):
    (plan,) = project.json("--targets", "ada")
    main(["build", *project.words, "--targets", "ada", "--variants", "fast", "--no-report"])
    (path,) = project.store.rglob("manifest.json")
    built = json.loads(path.read_text())["plan"]
    assert [(n["node"], n["precision"]) for n in plan["nodes"]] == [
        (n["node"], n["precision"]) for n in built
    ]


@pytest.mark.parametrize(
    ("words", "types"),
    [
        (("--targets", "cpu"), "int8"),
        (("--targets", "t4", "--variants", "exact"), "fp16"),
        (("--targets", "orin", "--variants", "w8a16"), "w8a16"),
    ],
)
def test_plans_of_every_kind_of_target_and_variant(project, words, types):
    (plan,) = project.json(*words)
    assert plan["types"] in (types, plan["carrier"])
    assert sum(plan["mac_shares"].values()) == pytest.approx(1)


def test_nodes_are_shown_one_by_one(project, capsys):
    assert project.plan("--targets", "a10", "--nodes") == 0
    shown = capsys.readouterr().out
    assert "Relu stays in the carrier" in shown


class TestExport:
    def test_scales_are_those_of_the_engine(self, project, tmp_path):
        path = tmp_path / "torch-names.json"
        assert project.plan("--targets", "a10", "--export", str(path)) == 0
        exported = json.loads(path.read_text())
        main(["build", *project.words, "--targets", "a10", "--variants", "fast", "--no-report"])
        (graph,) = project.store.rglob("graph.onnx") or project.store.rglob("*.onnx")
        constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(graph).graph.initializer}
        quantized = [m for m in exported["modules"] if m["precision"] == "int8"]
        assert quantized
        for module in quantized:
            scale = constants[f"{module['input']['tensor']}/scale"].astype(np.float64)
            assert module["input"]["scale"] == scale
            assert module["input"]["amax"] == scale * 127
            assert module["weight"]["type"] == "int8" and module["weight"]["axis"] == 0

    def test_is_for_one_plan(self, project, tmp_path, capsys):
        path = tmp_path / "torch-names.json"
        assert project.plan("--targets", "a10,ada", "--export", str(path)) == 2
        assert "a10/fast, ada/fast" in capsys.readouterr().err
        assert not path.exists()

    def test_folder_has_to_exist(self, project, tmp_path, capsys):
        assert project.plan("--targets", "a10", "--export", str(tmp_path / "no" / "names.json")) == 2
        assert "no such folder" in capsys.readouterr().err

    def test_says_which_products_have_no_module(self, tmp_path, capsys):
        net = graphs.Net()
        wide = net.op("Conv", "image", net.weights("1178", 16, 3, 3, 3), name="Conv_41", pads=[1] * 4)
        out = net.conv(wide, "last", (16, 1))
        project = Project(tmp_path, net.model(out))
        assert project.plan("--targets", "a10", "--export", str(tmp_path / "names.json")) == 0
        assert "1 products have no module" in capsys.readouterr().err
        module = json.loads((tmp_path / "names.json").read_text())["modules"][0]
        assert module["module"] is None and module["node"] == "Conv_41"


@pytest.mark.parametrize(
    ("name", "inputs", "module", "known_from"),
    [
        ("Conv_0", ["x", "features.0.conv.weight", "b"], "features.0.conv", "weight"),
        ("Conv_0", ["x", "conv1_w", "conv1.bias"], "conv1", "bias"),
        ("/blocks.3/attn/qkv/MatMul", ["x", "onnx::MatMul_1256"], "blocks.3.attn.qkv", "scope"),
        (
            "/blocks.3/mlp/fc1/MatMul/MatMulAddFusion",
            ["x", "onnx::MatMul_9", "b"],
            "blocks.3.mlp.fc1",
            "scope",
        ),
        ("/blocks.0/attn/MatMul_1", ["q", "k"], "blocks.0.attn", "scope"),
        ("/Conv", ["x", "w"], None, ""),
        ("Conv_41", ["683", "1178", "1179"], None, ""),
    ],
)
def test_module_of_a_product(name, inputs, module, known_from):
    node = helper.make_node(name.strip("/").split("/")[-1].split("_")[0], inputs, ["y"], name=name)
    assert module_of(node) == (module, known_from)
