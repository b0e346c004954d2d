"""Configuration files: what is wrong is named, with the nearest right key."""

from pathlib import Path

import pytest

from edge import config, tasks
from edge.config import InputConfig, ModelConfig, load_model, validate
from edge.errors import ConfigError, InputError, UsageError

MODEL = """
name = "net"
onnx = "net.onnx"
[input]
size = [32, 64]
[task]
kind = "classify"
{task}
[calibration]
images = "pictures"
"""


@pytest.fixture
def model(tmp_path):
    def write(text: str = MODEL, task: str = "", **files: str) -> Path:
        for name, content in files.items():
            (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
        path = tmp_path / "net.toml"
        path.write_text(text.replace("{task}", task), encoding="utf-8")
        return path

    return write


def test_paths_are_relative_to_the_file(model, tmp_path):
    loaded = load_model(model())
    assert loaded.onnx == (tmp_path / "net.onnx").resolve()
    assert loaded.calibration.images == (tmp_path / "pictures").resolve()


def test_the_assets_folder_comes_from_the_environment(model, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_ASSETS", str(tmp_path / "elsewhere"))
    loaded = load_model(model(MODEL.replace('"pictures"', '"$EDGE_ASSETS/pictures"')))
    assert loaded.calibration.images == (tmp_path / "elsewhere" / "pictures").resolve()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('name = "net"', 'nmae = "net"', "unknown key 'nmae', did you mean 'name'"),
        ("size = ", "szie = ", "unknown key 'input.szie', did you mean 'size'"),
        ("size = [32, 64]", "size = [32, 0]", "input.size.1"),
        ("size = [32, 64]", "size = [32, 64]\nstd = [1, 0, 1]", "std holds a zero"),
        ("size = [32, 64]", "size = [32, 64]\nmean = [1, 2]", "mean has 2 values"),
        ('name = "net"', 'name = "../net"', "name"),
        ('onnx = "net.onnx"', "", "onnx: Field required"),
    ],
)
def test_a_wrong_key_or_value_is_named(model, before, after, message):
    with pytest.raises(ConfigError) as caught:
        load_model(model(MODEL.replace(before, after)))
    assert message in caught.value.why
    assert caught.value.exit_code == 2


def test_every_problem_is_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        validate(InputConfig, {"size": [0, 8], "pad": 300}, "here")
    assert "size" in caught.value.why and "pad" in caught.value.why


def test_broken_toml_is_named_with_its_line(model):
    with pytest.raises(ConfigError, match="line 1"):
        load_model(model("name = \n"))


def test_an_unknown_model_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="yolox_nano"):
        load_model(Path("yolox_nan"))


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_model(tmp_path / "absent" / "net.toml")


def test_class_names_from_a_file_become_part_of_the_config(model):
    loaded = load_model(model(task='labels_file = "names.txt"', names="cat\n\ndog \n"))
    assert loaded.task.settings["labels"] == ["cat", "dog"]
    assert "labels_file" not in loaded.task.settings


def test_class_names_are_given_once(model):
    with pytest.raises(ConfigError, match="labels_file"):
        load_model(model(task='labels_file = "names.txt"\nlabels = ["a"]', names="cat"))


def test_a_missing_file_of_class_names_is_named(model):
    with pytest.raises(InputError, match=r"absent\.txt"):
        load_model(model(task='labels_file = "absent.txt"'))


@pytest.mark.parametrize("path", sorted(config.MODELS.glob("*.toml")), ids=lambda p: p.stem)
def test_each_model_config_of_the_project_is_valid(path):
    loaded = load_model(path)
    assert loaded.name == path.stem
    assert loaded.licence
    assert tasks.create(loaded).kind == loaded.task.kind


def test_a_config_survives_the_way_through_json():
    """A stored engine keeps its config in its manifest."""
    loaded = load_model(Path("yolox_nano"))
    assert validate(ModelConfig, loaded.model_dump(mode="json"), "manifest") == loaded


def test_an_unknown_task_names_the_nearest():
    loaded = load_model(Path("yolox_nano"))
    other = loaded.model_copy(update={"task": loaded.task.model_copy(update={"kind": "detekt"})})
    with pytest.raises(ConfigError, match="did you mean 'detect'"):
        tasks.create(other)


def test_an_unknown_name_is_a_wrong_command_line_and_a_missing_file_is_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model 'nosuch'"):
        load_model(Path("nosuch"))
    for path in (Path("nosuch.toml"), tmp_path / "nosuch", Path("folder/nosuch.toml")):
        with pytest.raises(InputError, match="nosuch"):
            load_model(path)
