"""The parts of the documentation that code knows better: `python -m edge.docs` writes them into the pages.

A page holds a block between `<!-- begin NAME -->` and `<!-- end NAME -->`; `BLOCKS` says what belongs there.
The tests compare, so that a key or a board that is added without a description is noticed.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from edge.config import (
    ROOT,
    GateConfig,
    InputConfig,
    ModelConfig,
    ProfileConfig,
    QuantizeConfig,
    SamplesConfig,
    TaskConfig,
    VolumeConfig,
)
from edge.precision.facts import NUMBERS, TAGS
from edge.precision.policy import Between, Condition, Match, Policy, Rule
from edge.stream.config import (
    AlarmConfig,
    EngineConfig,
    FeedConfig,
    FeedSettings,
    HealthConfig,
    MotionConfig,
    ReconnectConfig,
    SinkConfig,
    StreamConfig,
    TriageConfig,
)
from edge.targets import TARGETS, Target
from edge.tasks import TASKS

BUILDERS = {"onnxruntime": "ONNX Runtime", "tensorrt_rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
STATES = {
    "verified": "verified: built and run",
    "simulated": "simulated: compiled anywhere on x86-64",
    "bundle": "bundle: compiled on the device",
}


def matrix() -> str:
    """The hardware matrix, short: for the README."""
    header = ("target", "compute capability", "devices", "`fast`", "`exact`", "an engine built elsewhere is")
    return table(
        header,
        (
            (
                f"`{target.name}`",
                target.capability_text or "–",
                ", ".join(target.devices),
                target.fast_precision,
                target.carrier,
                STATES[target.remote_state],
            )
            for target in TARGETS.values()
        ),
    )


def matrix_details() -> str:
    """All that a row knows, with its sources."""
    return "\n\n".join(_target_details(target) for target in TARGETS.values())


def _target_details(target: Target) -> str:
    facts = {
        "Devices": ", ".join(target.devices),
        "Also called": ", ".join(f"`{alias}`" for alias in target.aliases),
        "Carrier": target.carrier,
        "Quantized types, preferred first": ", ".join(target.quantized),
        "Scales": f"{target.scale_type}{', values bf16-exact' if target.bf16_exact_scales else ''}",
        "int8 activations": " or ".join(target.int8_activations),
        "int8 depthwise → Swish": "yes" if target.depthwise_swish_int8 else "no",
        "Compiled by": ", ".join(BUILDERS[name] for name in target.builders),
        "First TensorRT": ".".join(map(str, target.min_tensorrt or ())),
        "Memory bandwidth": f"{target.memory_bandwidth_gb_s:g} GB/s" if target.memory_bandwidth_gb_s else "",
        "Dense int8": f"{target.int8_tops:g} TOPS" if target.int8_tops else "",
        "Sources": "; ".join(target.sources),
    }
    capability = f", compute capability {target.capability_text}" if target.is_gpu else ""
    lines = [f"- {name}: {value}" for name, value in facts.items() if value]
    return "\n".join([f"### `{target.name}`{capability}", "", *lines])


def model_config() -> str:
    """Every key of a model's TOML file."""
    sections: list[tuple[str, type[BaseModel]]] = [
        ("Top of the file", ModelConfig),
        ("`[input]`", InputConfig),
        ("`[input.volume]`", VolumeConfig),
        ("`[task]`", TaskConfig),
        *((f'`[task]` with `kind = "{kind}"`', task_settings(kind)) for kind in TASKS),
        ("`[calibration]` and `[evaluation]`", SamplesConfig),
        ("`[gate]`", GateConfig),
        ("`[quantize]`", QuantizeConfig),
        ("`[profile]`", ProfileConfig),
    ]
    return "\n\n".join(f"### {title}\n\n{_keys(kind)}" for title, kind in sections)


def task_settings(kind: str) -> type[BaseModel]:
    """The model that validates a task's own keys: the class of its module whose name ends in Settings."""
    module = importlib.import_module(TASKS[kind])
    found = [
        value
        for name, value in vars(module).items()
        if name.endswith("Settings") and isinstance(value, type) and value.__module__ == module.__name__
    ]
    return typing.cast("type[BaseModel]", found[0])


def stream_config() -> str:
    """Every key of a stream's TOML file."""
    sections: list[tuple[str, type[BaseModel]]] = [
        ("Top of the file", StreamConfig),
        ("`[engine]`", EngineConfig),
        ("`[[feeds]]`", FeedConfig),
        ("`[defaults]` and `[[feeds]]`", FeedSettings),
        ("`[defaults.reconnect]` and `[feeds.reconnect]`", ReconnectConfig),
        ("`[defaults.health]` and `[feeds.health]`", HealthConfig),
        ("`[defaults.motion]` and `[feeds.motion]`", MotionConfig),
        ("`[defaults.alarm]` and `[feeds.alarm]`", AlarmConfig),
        ("`[[sinks]]`", SinkConfig),
        ("`[triage]`", TriageConfig),
    ]
    return "\n\n".join(f"### {title}\n\n{_keys(kind)}" for title, kind in sections)


def policy_keys() -> str:
    """Every key of a policy's JSON file."""
    sections: list[tuple[str, type[BaseModel]]] = [
        ("The file", Policy),
        ("A rule", Rule),
        ("`match`", Match),
        ("`between`", Between),
        ("A condition under `where`", Condition),
    ]
    text = [f"### {title}\n\n{_keys(kind, nested=True)}" for title, kind in sections]
    words = [
        ("### Words for `tag` and `not_tag`", ("tag", "what has to be so of a node"), TAGS),
        ("### Words for `where`", ("number", "what it is of a node"), NUMBERS),
    ]
    for title, header, meanings in words:
        text.append(f"{title}\n\n{table(header, ((f'`{w}`', m) for w, m in meanings.items()))}")
    return "\n\n".join(text)


def policy_schema() -> str:
    """JSON Schema of a policy, for editors."""
    schema = Policy.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    schema["properties"] = {"$schema": {"type": "string"}, **schema["properties"]}
    match = schema["$defs"]["Match"]["properties"]
    for name in ("tag", "not_tag"):
        match[name]["items"] = {"enum": [*TAGS]}
    match["where"]["propertyNames"] = {"enum": [*NUMBERS]}
    for definition in (schema, *schema["$defs"].values()):
        for key in definition.get("properties", {}).values():
            _one_or_more(key)
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _one_or_more(key: dict[str, Any]) -> None:
    """For a list of words or numbers a single one may stand, too."""
    options = key.pop("anyOf", None) or [{n: key.pop(n) for n in _OF_A_LIST if n in key}]
    for option in list(options):
        if option.get("type") == "array" and "$ref" not in option["items"]:
            for wrong, right in (("minLength", "minItems"), ("maxLength", "maxItems")):
                if wrong in option:  # what pydantic calls them behind a validator
                    option[right] = option.pop(wrong)
            options.insert(0, option["items"])
    key |= {"anyOf": options} if len(options) > 1 else options[0]


_OF_A_LIST = ("type", "items", "minItems", "maxItems", "minLength", "maxLength")


def target_keys() -> str:
    """Every key of a row in a TOML file of boards."""
    described = _attributes(Target.__doc__ or "")
    rows = [("`like`", "text", "name of the row to start from")]
    for field in dataclasses.fields(Target):
        if field.name != "name":
            kind = typing.get_type_hints(Target)[field.name]
            rows.append((f"`{field.name}`", _type(kind), described[field.name]))
    return table(("key", "value", "meaning"), rows)


def _attributes(docstring: str) -> dict[str, str]:
    """The Attributes section of a docstring: name → text."""
    text = inspect.cleandoc(docstring).split("Attributes:")[1]  # from 3.13 on the compiler does so itself
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: " ".join(description.split()) for name, description in found}


def _keys(kind: type[BaseModel], nested: bool = False) -> str:
    """Its keys; those that are sections of their own only where these are `nested` in it, and none that
    another section has already, which it is made from."""
    inherited = getattr(kind.__base__, "model_fields", {})
    rows = []
    for name, field in kind.model_fields.items():
        section = _is_section(field.annotation)
        if (section and not nested) or name in inherited:
            continue
        default = "required" if field.is_required() else _default(field.default)
        what = "as below" if section else _type(field.annotation)
        rows.append((f"`{field.alias or name}`", what, default, field.description or ""))
    return table(("key", "value", "default", "meaning"), rows)


def _is_section(annotation: Any) -> bool:
    options = [annotation, *typing.get_args(annotation)]
    return any(isinstance(option, type) and issubclass(option, BaseModel) for option in options)


def _default(value: Any) -> str:
    if value is None or value is PydanticUndefined or value in ("", ()):
        return "–"
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, float) and 0 < value < 0.01:
        return f"1/{round(1 / value)}"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


_NAMES = {
    "int": "whole number",
    "float": "number",
    "str": "text",
    "bool": "true or false",
    "Path": "path",
    "NoneType": "",
}


def _type(annotation: Any) -> str:
    """An annotation in words: Literal["a", "b"] → `a`, `b`; tuple[float, ...] → list of number."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(args[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(filter(None, (_type(arg) for arg in args)))
    if origin is tuple:
        kinds = [_type(arg) for arg in args if arg is not Ellipsis]
        return f"list of {kinds[0]}" if Ellipsis in args else f"[{', '.join(kinds)}]"
    if origin in (list, dict):
        return "list" if origin is list else "table"
    return _NAMES.get(getattr(annotation, "__name__", ""), str(annotation))


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    names = list(header)
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *lines])


def conformance(name: str) -> Callable[[], str]:
    """A table of the DICOM conformance statement; its module needs pynetdicom."""
    return lambda: str(getattr(importlib.import_module("edge.dicom.conformance"), name)())


BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "matrix": ("README.md", matrix),
    "matrix-details": ("docs/hardware.md", matrix_details),
    "model-config": ("docs/configuration.md", model_config),
    "target-keys": ("docs/configuration.md", target_keys),
    "policy-keys": ("docs/policies.md", policy_keys),
    "stream-config": ("docs/streams.md", stream_config),
    "conformance-services": ("docs/dicom.md", conformance("services")),
    "conformance-syntaxes": ("docs/dicom.md", conformance("syntaxes")),
    "conformance-associations": ("docs/dicom.md", conformance("associations")),
    "conformance-statuses": ("docs/dicom.md", conformance("statuses")),
}
FILES: dict[str, Callable[[], str]] = {"docs/policy.schema.json": policy_schema}
"""Files that are generated as a whole."""


def block(page: str, name: str) -> str:
    """What a page holds in its block `name`.

    Raises:
        ValueError: there is no such block.
    """
    match = _block(name).search(page)
    if match is None:
        raise ValueError(f"no block '{name}'")
    return match[2].strip()


def update(root: Path = ROOT) -> list[Path]:
    """Write all blocks; returns the pages that changed."""
    changed = []
    for name, (place, generate) in BLOCKS.items():
        page = root / place
        before = page.read_text(encoding="utf-8")
        old = _block(name).search(before)
        if old is None:
            raise ValueError(f"{page} has no block '{name}'")
        after = f"{before[: old.start(2)]}{generate()}\n{before[old.end(2) :]}"
        if after != before:
            page.write_text(after, encoding="utf-8")
            changed.append(page)
    for place, generate in FILES.items():
        if not (root / place).exists() or (root / place).read_text(encoding="utf-8") != generate():
            (root / place).write_text(generate(), encoding="utf-8")
            changed.append(root / place)
    return changed


def _block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- begin {name} -->)\n(.*?)(<!-- end {name} -->)", re.DOTALL)


if __name__ == "__main__":
    for path in update():
        print(f"updated {path}", file=sys.stderr)
