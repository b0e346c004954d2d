"""Scores → classes, and where labels come from."""

import json

import cv2
import numpy as np
import pytest

from edge.config import SamplesConfig
from edge.errors import InputError, ModelError
from edge.preprocess import Placement
from edge.tasks import Sample
from edge.tasks.classify import create

PLACE = Placement(8, 8, 1, 1, 0, 0, 8, 8)


def task(**settings):
    return create(settings, "here")


def classes(values, **settings):
    return task(**settings).postprocess({"out": np.float32([values])}, 0, PLACE)


def pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / name), np.zeros((4, 4, 3), np.uint8))


def labels(folder, source, **settings):
    return {
        s.path.name: s.label for s in task(**settings).samples(SamplesConfig(images=folder, labels=source))
    }


def test_logits_become_probabilities():
    found = classes([1.0, 3.0, 2.0], top_k=3)
    want = np.exp([3.0, 2.0, 1.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    assert found.indices.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.scores, want, rtol=1e-6)


def test_large_logits_do_not_overflow():
    assert classes([1000.0, 0.0]).scores.tolist() == [1.0, 0.0]


def test_probabilities_stay_as_they_are():
    assert classes([0.25, 0.5], scores="probabilities").scores.tolist() == [0.5, 0.25]


def test_the_result_names_the_classes():
    found = classes([0.1, 0.7], scores="probabilities", labels=["cat", "dog"], top_k=1)
    assert found.to_json() == {"classes": [{"class": 1, "score": 0.7, "name": "dog"}]}


def test_what_was_found_is_told_by_name_or_else_by_number():
    values = [0.1, 0.5, 0.25]
    named = classes(values, scores="probabilities", labels=["cat", "crane", "crane"])
    assert named.found() == pytest.approx({"crane": 0.5, "cat": 0.1})
    assert classes(values, scores="probabilities", top_k=2).found() == {"1": 0.5, "2": 0.25}


def test_the_trailing_ones_of_a_convolutional_head_are_dropped():
    output = np.float32([0.1, 0.7]).reshape(1, 2, 1, 1)
    found = task(scores="probabilities").postprocess({"out": output}, 0, PLACE)
    assert found.indices.tolist() == [1, 0]


def test_labels_that_do_not_fit_the_output_are_refused():
    with pytest.raises(ModelError, match="3 labels for 2 classes"):
        classes([0.1, 0.7], labels=["a", "b", "c"])


def test_top1_counts_labelled_samples_in_percent(tmp_path):
    scorer = task().scorer()
    found = classes([0.0, 5.0])
    for label in (1, 1, 0, None):
        scorer.add(Sample(tmp_path, label), found)
    assert scorer.value() == pytest.approx(200 / 3)


def test_without_a_label_source_nothing_is_labelled(tmp_path):
    pictures(tmp_path, "0007.png")
    assert labels(tmp_path, None) == {"0007.png": None}


def test_the_file_name_can_be_the_class_index(tmp_path):
    pictures(tmp_path, "0007.png", "12.png")
    assert labels(tmp_path, tmp_path) == {"0007.png": 7, "12.png": 12}


@pytest.mark.parametrize(
    ("folders", "names", "want"),
    [(("cat", "dog"), (), [0, 1]), (("cat", "dog"), ("dog", "cat"), [1, 0]), (("3", "5"), (), [3, 5])],
    ids=["sorted", "by label", "by number"],
)
def test_a_folder_can_name_the_class(tmp_path, folders, names, want):
    pictures(tmp_path, *(f"{folder}/x_{folder}.png" for folder in folders))
    assert list(labels(tmp_path, tmp_path, labels=names).values()) == want


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_table_can_name_the_classes(tmp_path, form):
    pictures(tmp_path, "a.png", "b.png", "c.png")
    table = tmp_path / f"labels.{form}"
    table.write_text(json.dumps({"a.png": 3, "b.png": "dog"}) if form == "json" else "a.png,3\nb.png,dog\n")
    assert labels(tmp_path, table, labels=("cat", "dog")) == {"a.png": 3, "b.png": 1, "c.png": None}


def test_a_label_that_is_no_class_is_named_with_the_nearest(tmp_path):
    pictures(tmp_path, "cet.png")
    with pytest.raises(InputError, match="did you mean 'cat'"):
        labels(tmp_path, tmp_path, labels=("cat", "dog"))


@pytest.mark.parametrize("content", ["[1, 2]", '{"a": [1]}', "{"])
def test_a_broken_table_is_named(tmp_path, content):
    pictures(tmp_path, "a.png")
    table = tmp_path / "labels.json"
    table.write_text(content)
    with pytest.raises(InputError, match=r"labels\.json"):
        labels(tmp_path, table)


def test_a_missing_table_is_named(tmp_path):
    pictures(tmp_path, "a.png")
    with pytest.raises(InputError, match=r"absent\.csv"):
        labels(tmp_path, tmp_path / "absent.csv")
