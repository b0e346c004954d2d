"""`edge dicom show`: what is done to the pixels of a file, for people, for machines and as a picture."""

import json

import cv2
import numpy as np
import pytest

from edge.cli import main

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
from tests.dicoms import write


@pytest.fixture
def file(tmp_path):
    """Two frames of a CT with two windows, the second one called BONE."""
    stored = np.int16([[[0, 100], [200, 1000]], [[0, 0], [0, 1000]]])
    return write(
        tmp_path / "ct.dcm",
        stored,
        RescaleSlope=1,
        RescaleIntercept=-100,
        WindowCenter=[0.5, 400.5],
        WindowWidth=[201, 1001],
        WindowCenterWidthExplanation=["SOFT", "BONE"],
    )


def test_show_prints_every_transform_in_order(file, capsys):
    assert main(["dicom", "show", str(file)]) == 0
    text = capsys.readouterr().out
    assert "2×2, 2 frame(s)" in text and "window 1  BONE" in text
    assert text.index("1. modality: rescale slope 1 intercept -100") < text.index("2. voi: LINEAR")
    assert "DOE" not in text and "12345" not in text


def test_show_writes_the_picture_that_the_network_gets(file, tmp_path, capsys):
    png = tmp_path / "frame.png"
    assert main(["dicom", "show", str(file), "--png", str(png)]) == 0
    assert cv2.imread(str(png))[..., 0].tolist() == [[0, 128], [255, 255]]
    assert str(png) in capsys.readouterr().out


@pytest.mark.parametrize("window", ["1", "bone"])
def test_show_takes_frame_and_window(file, capsys, window):
    assert main(["dicom", "show", str(file), "--frame", "1", "--window", window, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["windows"] == ["SOFT", "BONE"] and facts["frame"] == 1
    assert "center 400.5 width 1001" in facts["transforms"][-1]
    assert facts["stored"] == {"dtype": "int16", "lowest": 0, "highest": 1000}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--frame", "2"], 4, "no frame 2"),
        (["--window", "LUNG"], 4, "no window LUNG"),
        (["--png", "missing/frame.png"], 5, "cannot write missing/frame.png"),
    ],
)
def test_what_cannot_be_shown_is_an_error(file, tmp_path, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(tmp_path)
    assert main(["dicom", "show", str(file), *words]) == code
    assert f"error: {says}" in capsys.readouterr().err.replace(f"{file} has ", "")


def test_a_file_that_is_none_is_an_error(tmp_path, capsys):
    path = tmp_path / "notes.dcm"
    path.write_text("not an image " * 40)
    assert main(["dicom", "show", str(path)]) == 4
    assert "not a DICOM file" in capsys.readouterr().err


def test_an_action_is_needed(capsys):
    assert main(["dicom"]) == 2
    assert "ACTION" in capsys.readouterr().err
