"""The documentation says what the code does: generated parts are current, links and options exist."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import docs
from edge.cli import COMMANDS, parser
from edge.config import ROOT, load_model, validate
from edge.stream.burned_in import FOUND, UNCHECKED
from edge.stream.config import FeedConfig, load_stream
from edge.stream.feed import open_feed
from edge.stream.health import FLAGS
from edge.stream.network import null_network
from edge.stream.run import Run
from edge.targets import TARGETS, load_targets
from edge.tasks import TASKS

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "engines/README.md"])
SHORTHANDS = {"build_engines.py": "build", "run_stream.py": "run"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """Every `edge …` command line in a page's code, as words."""
    fences = re.findall(r"^\s*```(\w*)\n(.*?)^\s*```", text(page), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for kind, block in fences if kind in ("", "sh") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", text(page)) + re.findall(r"^ {4}(edge .*)$", text(page), re.MULTILINE)
    for line in lines:
        program, _, rest = line.partition(" ")
        if program == "edge" and rest and re.match(r"[a-z-]", rest):
            yield shlex.split(rest, comments=True)
        elif program in SHORTHANDS and rest:
            yield [SHORTHANDS[program], *shlex.split(rest, comments=True)]


@pytest.mark.parametrize("name", docs.BLOCKS)
def test_the_generated_parts_are_current(name: str) -> None:
    place, generate = docs.BLOCKS[name]
    assert docs.block(text(ROOT / place), name) == generate(), "run: make docs"


def test_the_readme_has_every_target() -> None:
    rows = [
        line for line in docs.block(text(ROOT / "README.md"), "matrix").splitlines() if line.startswith("| `")
    ]
    assert [row.split("`")[1] for row in rows] == list(TARGETS)


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{page.name} → {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} → {target}"


@pages
def test_commands_and_options_exist(page: Path) -> None:
    for command, *words in commands(page):
        if command.startswith("-"):
            assert command in ("--help", "--version")
            continue
        assert command in COMMANDS, f"edge {command}"
        known = options(command)
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{page.name}: edge {command} {word}"


def test_the_readme_shows_every_everyday_command() -> None:
    shown = {words[0] for words in commands(ROOT / "README.md")}
    assert {"doctor", "build", "run", "inspect", "bench"} <= shown


def options(command: str) -> set[str]:
    """Of a command and of its actions, as `edge dicom send`."""
    return set(_options(_subparsers(parser(command))[command]))


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from parser._option_string_actions
    for child in _subparsers(parser).values():
        yield from _options(child)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    groups = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return {name: child for group in groups for name, child in group.items()}


@pages
def test_files_it_names_exist(page: Path) -> None:
    for name in re.findall(r"`((?:edge|tests|benchmarks|configs|docs)/[\w/.-]+\.\w+)`", text(page)):
        example = name.startswith(
            ("edge/sources/webcam_x", "edge/sinks/mqtt_x", "edge/tasks/keypoints", "edge/backends/my_")
        )
        assert example or (ROOT / name).exists(), f"{page.name} → {name}"


@pages
def test_make_targets_exist(page: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), re.MULTILINE))
    named = re.findall(r"(?:`|^)make ([a-z][a-z -]*?)(?:`|$|\s{2,}|\s+#)", text(page), re.MULTILINE)
    assert {target for words in named for target in words.split()} <= known


@pages
def test_make_variables_exist(page: Path) -> None:
    makefile = text(ROOT / "Makefile")
    for words in re.findall(r"(?:`|^\s*)make ([a-z-]+ [A-Z][^`\n]*)", text(page), re.MULTILINE):
        for name in re.findall(r"\b([A-Z_]+)=", words):
            assert f"$({name})" in makefile, f"{page.name} → make … {name}="


@pytest.mark.parametrize("kind", TASKS)
def test_every_key_of_a_task_is_described(kind: str) -> None:
    for name, field in docs.task_settings(kind).model_fields.items():
        assert field.description, f"[task] kind = {kind}: {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "configs/models").glob("*.toml")), ids=lambda path: path.stem)
def test_the_model_configs_are_valid(path: Path) -> None:
    config = load_model(path)
    validate(docs.task_settings(config.task.kind), _without_names(config.task.settings), str(path))
    assert config.name == path.stem


def _without_names(settings: dict[str, object]) -> dict[str, object]:
    """A file of class names is read by the task itself."""
    return {key: value for key, value in settings.items() if key != "labels_file"}


def test_the_readmes_model_config_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", text(ROOT / "README.md"), re.DOTALL)
    (tmp_path / "detector.toml").write_text("\n".join(line.strip() for line in block.splitlines()))
    config = load_model(tmp_path / "detector.toml")
    assert config.onnx == tmp_path / "detector.onnx"
    validate(docs.task_settings(config.task.kind), config.task.settings, "README")


@pytest.mark.parametrize("page", ["docs/configuration.md", "docs/extending.md"])
def test_the_boards_in_the_pages_are_valid(page: str, tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(\[targets.*?)```", text(ROOT / page), re.DOTALL)
    (tmp_path / "boards.toml").write_text(block)
    assert len(load_targets(tmp_path / "boards.toml")) == len(TARGETS) + 1


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs/images/demo.png").stat().st_size < 1_000_000


def test_the_schema_of_result_lines_and_the_page_know_every_flag() -> None:
    schema = json.loads(text(ROOT / "docs/result.schema.json"))
    flags = schema["properties"]["flags"]["items"]["enum"]
    assert set(flags) == {*FLAGS, "nan", "gated", "alarm", FOUND, UNCHECKED}
    (row,) = re.findall(r"^\| `flags` \|.*$", text(ROOT / "docs/streaming.md"), re.MULTILINE)
    assert all(f"`{flag}`" in row for flag in flags)


def test_the_page_knows_every_key_of_a_feeds_summary_and_every_cause() -> None:
    """As the code writes them."""
    page = text(ROOT / "docs/streaming.md")
    feed = open_feed(FeedConfig(name="a", source="test:text?frames=2"))
    data = Run(null_network(), [feed]).go().data
    told = {word for span in re.findall(r"`([^`\n]+)`", page) for word in span.split()}
    assert {*data, *data["feeds"][0]} <= told
    code = "".join(text(path) for path in ROOT.glob("edge/stream/*.py"))
    causes = set(re.findall(r"(?:\.drop|discard|_leave_out)\((?:feed, )?\"(\w+)\"", code))
    assert {"superseded", "limited", "behind"} <= causes <= told


def test_the_stream_in_the_page_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", text(ROOT / "docs/streams.md"), re.DOTALL)
    (tmp_path / "stream.toml").write_text(block)
    assert [feed.fps for feed in load_stream(tmp_path / "stream.toml").feeds] == [10, 5]


def test_the_program_that_adds_and_removes_feeds_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", text(ROOT / "docs/streams.md"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/streams.md", "exec"), {})
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[:2] for words in shown] == [["gate", "live"], ["yard", "live"]]
    assert all(int(words[2]) > 0 for words in shown)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["feed"] for line in lines} == {"gate", "yard"}
