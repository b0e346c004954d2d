"""The policies that come with the project, and the schema that editors check policies with."""

import json

import jsonschema
import pytest

from edge import docs
from edge.config import ROOT
from edge.errors import ConfigError
from edge.precision.plan import make
from edge.precision.policy import POLICIES, Policy, hardware, load_policy
from edge.targets import TARGETS
from tests import graphs

SCHEMA = json.loads((ROOT / "docs/policy.schema.json").read_text())
FILES = sorted(POLICIES.glob("*.json"))

files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def precisions(model, target, policy):
    index = graphs.graph(model)
    return index, make(index, TARGETS[target], "fast", graphs.ranges(index), policy=policy).precisions


def test_the_schema_is_current():
    assert (ROOT / "docs/policy.schema.json").read_text() == docs.policy_schema(), "run: make docs"


@files
def test_policies_fit_the_schema(path):
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert load_policy(path).name == path.stem
    assert load_policy(path).description


def test_the_hardware_rules_fit_the_schema():
    jsonschema.validate(hardware().model_dump(mode="json", by_alias=True, exclude_unset=True), SCHEMA)


@pytest.mark.parametrize(
    "rule",
    [
        {"match": {"tag": "frist"}, "at_least": "carrier", "reason": "x"},
        {"match": {"where": {"dept": {"at_most": 3}}}, "forbid": "int8", "reason": "x"},
        {"match": {"op": "Conv"}, "precision": "int7", "reason": "x"},
        {"match": {"op": "Conv"}, "forbid": "int8"},
        {"match": {"layers": [1, 2, 3]}, "forbid": "int8", "reason": "x"},
        {"macht": {}, "match": {}, "forbid": "int8", "reason": "x"},
    ],
)
def test_schema_and_loader_refuse_the_same(rule):
    content = {"name": "wrong", "rules": [rule]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMA)
    with pytest.raises(ValueError):
        Policy.model_validate(content)


@pytest.mark.parametrize(
    "rule",
    [
        {"match": {"tag": ["first", "picture"], "layers": 0}, "at_least": "carrier", "reason": "x"},
        {"match": {"between": {"from": "a", "to": ["b"]}}, "forbid": ["int8", "fp8"], "reason": "x"},
    ],
)
def test_a_single_value_may_stand_for_a_list(rule):
    content = {"name": "right", "rules": [rule]}
    jsonschema.validate(content, SCHEMA)
    Policy.model_validate(content)


def test_transformer_fp8_asks_for_blocks_and_says_how_many_there_are():
    with pytest.raises(ConfigError) as refused:  # one block: there is none before the last
        precisions(graphs.transformer(), "ada", load_policy(POLICIES / "transformer-fp8.json"))
    assert "blocks go from 0 to 0" in str(refused.value)


def test_transformer_fp8_leaves_both_ends_in_the_carrier():
    index = graphs.real("craft_x4_128")
    policy = load_policy(POLICIES / "transformer-fp8.json")
    plan = make(index, TARGETS["ada"], "fast", graphs.made_up_ranges(index), policy=policy)
    assert plan.precisions["/conv_first/Conv"] == "bf16"
    told = {step.reason.split(":")[1].strip() for step in plan.steps if step.reason.startswith("transformer")}
    assert told == {"patch embedding", "blocks", "last block"}
    assert plan.mac_shares["fp8"] > 0.5


def test_radiology_keeps_what_reads_and_writes_pictures_in_the_carrier():
    index, found = precisions(graphs.residual(), "ada", load_policy(POLICIES / "radiology.json"))
    products = [node.name for node in index.nodes if node.op_type == "Conv"]
    assert found[products[0]] == found[products[-1]] == "bf16"
    assert "fp8" not in found.values()
    assert "int8" in found.values()


def test_pathology_keeps_scores_exact():
    index, found = precisions(graphs.residual(), "a10", load_policy(POLICIES / "pathology.json"))
    products = [node.name for node in index.nodes if node.op_type == "Conv"]
    assert found[products[-1]] == "bf16"
    assert found[products[1]] == "int8"
