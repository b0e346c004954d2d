"""What each kind of answer says, read back with highdicom and pydicom."""

from __future__ import annotations

import io

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
hd = pytest.importorskip("highdicom", reason="the extra 'pacs' is not installed")

from pydicom.sr.codedict import codes  # noqa: E402

from edge import __version__  # noqa: E402
from edge.dicom import open_dicom  # noqa: E402
from edge.dicom.answers import Found, LabelVolume, build, capture  # noqa: E402
from edge.dicom.answers.observation import pixels  # noqa: E402
from edge.preprocess import Placement  # noqa: E402
from edge.tasks.image import Picture  # noqa: E402
from edge.tasks.segment import Mask, Window  # noqa: E402
from tests.answers import ENGINE, PRECISION, boxes, classes, inference, mask, nothing, source, written  # noqa: E402
from tests.dicoms import item  # noqa: E402

GREY = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
CINE = np.stack([GREY + 7 * number for number in range(4)])
COLORS = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.3"
SPACING = {"PixelSpacing": [0.7, 0.5], "SliceThickness": 2}
CT = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT", "FrameOfReferenceUID": "1.2.7"}


@pytest.fixture
def image(tmp_path):
    """One grey picture, 64 wide, 48 high."""
    return source(tmp_path / "image.dcm", GREY)


@pytest.fixture
def cine(tmp_path):
    """Four of them in one object."""
    return source(tmp_path / "cine.dcm", CINE, SOPClassUID=MULTI_FRAME)


def back(answer):
    """The answer as somebody else reads it."""
    return pydicom.dcmread(io.BytesIO(written(answer)))


def slices(folder, depths, **elements):
    """Oblique slices of a series at these places along the normal, written in this order."""
    axes = [0.8, 0.6, 0, 0, 0, -1]
    normal = np.cross(axes[:3], axes[3:])
    return [
        source(
            folder / f"{number}.dcm",
            GREY,
            ImageOrientationPatient=axes,
            ImagePositionPatient=[round(float(x), 6) for x in normal * depth + (5, 6, 7)],
            InstanceNumber=number,
            **(CT | SPACING | elements),
        )
        for number, depth in enumerate(depths, 1)
    ]


# ------------------------------------------------------------------ report


def report(found, **others):
    (answer,) = build("sr", inference(found, **others))
    return hd.sr.srread(io.BytesIO(written(answer)))


def certainty(group):
    (value,) = group.get_measurements(codes.DCM.CertaintyOfFinding)
    assert value.unit == codes.UCUM.Percent
    return float(value.value)


def test_a_report_has_a_group_with_outline_and_score_for_every_object(cine):
    groups = report([Found(cine, 2, boxes(64, 48))]).content.get_planar_roi_measurement_groups()
    assert [group.finding_type.meaning for group in groups] == ["nodule", "a long name of a thing"]
    assert [certainty(group) for group in groups] == [90, 40]
    region = groups[0].roi
    assert region.value.tolist() == [[1, 2], [32, 2], [32, 24], [1, 24], [1, 2]]
    image = region.ContentSequence[0]
    assert image.referenced_sop_instance_uid == pydicom.dcmread(cine).SOPInstanceUID
    assert image.referenced_sop_class_uid == MULTI_FRAME
    assert image.referenced_frame_numbers == [3]
    assert groups[1].roi.value.max(0).tolist() == [64, 47]  # cut at the picture's edge


def test_a_report_names_engine_and_precision(image):
    answer = report([Found(image, 0, boxes(64, 48))])
    (group, _) = answer.content.get_planar_roi_measurement_groups()
    texts = [(entry.name, entry.value) for entry in group[0].ContentSequence if entry.ValueType == "TEXT"]
    assert (codes.DCM.AlgorithmName, "chest") in texts
    assert (codes.DCM.AlgorithmVersion, ENGINE.key) in texts
    parameters = [value for name, value in texts if name == codes.DCM.AlgorithmParameters]
    assert parameters == ["target: cpu", "variant: fast", f"precision: {PRECISION}"]
    (observer,) = answer.content.get_observer_contexts(observer_type=codes.DCM.Device)
    assert observer.observer_identifying_attributes.manufacturer_name == "edge"
    assert observer.observer_identifying_attributes.serial_number == ENGINE.key
    assert observer.observer_identifying_attributes.model_name == f"edge {__version__}"


def test_a_report_of_classes_has_a_probability_for_each(image):
    groups = report([Found(image, 0, classes(64, 48))]).content.get_image_measurement_groups()
    found = {group.finding_type.meaning: certainty(group) for group in groups}
    assert found == {"pneumonia": 80, "normal": 20}
    assert groups[0].finding_type.scheme_designator == "99EDGE"


def test_a_report_says_that_nothing_was_found(image):
    (group,) = report([Found(image, 0, nothing(64, 48))]).content.get_image_measurement_groups()
    (value,) = group.get_measurements()
    assert (value.name.value, float(value.value)) == ("regions", 0)


def test_a_report_of_a_mask_has_its_share_and_its_boxes(image):
    found = mask(64, 48)
    content = report([Found(image, 0, found)]).content
    (frame,) = content.get_image_measurement_groups()
    values = {value.name.value: float(value.value) for value in frame.get_measurements()}
    assert values == {"regions": 1, "share": 100 * 24 / 400}
    (group,) = content.get_planar_roi_measurement_groups()
    x1, y1, x2, y2 = found.boxes[0][0].tolist()
    assert group.roi.value[0].tolist() == [x1, y1] and group.roi.value[2].tolist() == [x2, y2]


def test_a_report_lists_all_objects_as_evidence(tmp_path):
    paths = slices(tmp_path, [0, 3])
    answer = report([Found(path, 0, nothing(64, 48)) for path in paths])
    listed = {entry[2] for entry in answer.get_evidence()}
    assert listed == {pydicom.dcmread(path).SOPInstanceUID for path in paths}


def test_an_image_of_a_retired_class_is_referred_to_by_it(tmp_path):
    retired = "1.2.840.10008.5.1.4.1.1.6"
    path = source(tmp_path / "old.dcm", GREY, SOPClassUID=retired)
    (group, _) = report([Found(path, 0, boxes(64, 48))]).content.get_planar_roi_measurement_groups()
    assert group.roi.ContentSequence[0].referenced_sop_class_uid == retired


def test_a_report_of_a_volume_has_millilitres(tmp_path):
    paths = slices(tmp_path, [0, 3, 6, 9])
    labels = [np.zeros((48, 64), np.uint8) for _ in paths]
    labels[1][:10, :20] = 2
    volume = LabelVolume(labels, paths, {1: "gray matter", 2: "lesion"})
    groups = report([], volume=volume).content.get_image_measurement_groups()
    found = {group.finding_type.meaning: group.get_measurements()[0] for group in groups}
    assert {name: float(value.value) for name, value in found.items()} == {
        "Gray Matter": 0,
        "lesion": 200 * 0.7 * 0.5 * 3 / 1000,
    }
    assert found["lesion"].unit.value == "ml"


def test_a_task_that_measures_nothing_has_no_report(image):
    found = Found(image, 0, Picture(np.zeros((48, 64, 3), np.uint8)))
    assert build("sr", inference([found])) == []
    assert len(build("sc", inference([found]))) == 1


def test_labels_on_slices_without_a_place_have_no_volume(tmp_path):
    paths = [source(tmp_path / f"{n}.dcm", GREY) for n in range(2)]
    volume = LabelVolume([np.ones((48, 64), np.uint8)] * 2, paths, {1: "lesion"})
    assert build("sr", inference([], volume=volume)) == []
    assert segmentation([], volume=volume).NumberOfFrames == 2


# ------------------------------------------------------------------ segmentation


def segmentation(found, **others):
    (answer,) = build("seg", inference(found, **others))
    return hd.seg.segread(io.BytesIO(written(answer)))


def test_masks_lie_on_their_frames_pixel_for_pixel(cine):
    found = [Found(cine, frame, mask(64, 48)) for frame in (1, 3)]
    answer = segmentation(found)
    uid = pydicom.dcmread(cine).SOPInstanceUID
    stored = answer.get_pixels_by_source_frame(uid, [2, 4], combine_segments=True)
    assert np.array_equal(stored, [pixels(mask(64, 48))] * 2)
    assert stored[0].sum() == stored[0, 5:14, 10:29].sum() == 9 * 19
    assert "FrameOfReferenceUID" not in answer
    assert answer.get_segment_description(1).segment_label == "text"
    assert answer.get_segment_description(1).algorithm_identification.version == ENGINE.key


def test_masks_whose_size_is_no_multiple_of_eight_are_packed_without_gaps(tmp_path):
    path = source(tmp_path / "odd.dcm", np.zeros((3, 13, 11), np.uint8), SOPClassUID=MULTI_FRAME)
    answer = segmentation([Found(path, frame, mask(11, 13)) for frame in range(3)])
    stored = answer.get_pixels_by_source_frame(
        pydicom.dcmread(path).SOPInstanceUID, [1, 2, 3], combine_segments=True
    )
    assert np.array_equal(stored, [pixels(mask(11, 13))] * 3)


def test_empty_masks_make_no_segmentation(image):
    empty = mask(64, 48)
    empty.heat[:] = 0
    assert build("seg", inference([Found(image, 0, empty)])) == []


def test_labels_of_a_volume_lie_where_the_slices_lie(tmp_path):
    depths = [6, 0, 9, 3]  # as they arrived
    paths = slices(tmp_path, depths)
    random = np.random.default_rng(1)
    labels = [random.integers(0, 3, (48, 64), np.uint8) for _ in paths]
    answer = segmentation([], volume=LabelVolume(labels, paths, {1: "grey matter", 2: "lesion"}))
    assert answer.FrameOfReferenceUID == "1.2.7"
    images = hd.get_volume_from_series([pydicom.dcmread(path) for path in paths])
    volume = answer.get_volume(combine_segments=True).match_geometry(images)
    assert np.allclose(volume.affine, images.affine)
    along = images.affine[:3, 0] / np.linalg.norm(images.affine[:3, 0])
    normal = np.cross([0.8, 0.6, 0], [0, 0, -1])
    order = np.argsort(depths) if along @ normal > 0 else np.argsort(depths)[::-1]
    assert np.array_equal(volume.array, np.stack([labels[index] for index in order]))
    assert answer.get_segment_description(1).segmented_property_type == codes.SCT.GrayMatter


def test_a_label_value_of_no_name_is_background(tmp_path):
    (path,) = slices(tmp_path, [0])
    labels = np.full((48, 64), 9, np.uint8)
    labels[0, 0] = 4
    answer = segmentation([], volume=LabelVolume([labels], [path], {0: "background", 4: "lesion"}))
    assert answer.number_of_segments == 1
    assert answer.pixel_array.sum() == 1


def test_slices_at_one_place_are_told_apart_by_their_order(tmp_path):
    paths = slices(tmp_path, [0, 0])
    answer = segmentation([Found(path, 0, mask(64, 48)) for path in paths])
    groups = answer.PerFrameFunctionalGroupsSequence
    places = [list(group.FrameContentSequence[0].DimensionIndexValues) for group in groups]
    assert places == [[1, 1], [1, 2]]
    assert answer.DimensionIndexSequence[1].DimensionDescriptionLabel == "InStackPositionNumber"


def test_slices_of_two_directions_make_two_segmentations(tmp_path):
    first = slices(tmp_path, [0])
    (tmp_path / "other").mkdir()
    other = slices(tmp_path / "other", [0], PixelSpacing=[1, 1])
    answers = build("seg", inference([Found(path, 0, mask(64, 48)) for path in (*first, *other)]))
    assert [answer.InstanceNumber for answer in answers] == [1, 2]


def test_pixels_that_the_network_did_not_see_are_outside_of_the_mask():
    """The picture is cropped to its middle: 160 of 320 columns."""
    place = Placement(320, 160, 1.0, 1.0, -80, 0, 160, 160)
    heat = np.ones((20, 20), np.float32)
    found = Mask(heat, Window(slice(0, 20), slice(0, 20), 8.0, 8.0), (20, 20), place, 0.5, 0, "all")
    assert np.array_equal(np.flatnonzero(pixels(found).any(0)), np.arange(80, 240))


# ------------------------------------------------------------------ secondary capture


def test_a_capture_is_the_overlay_over_the_display_picture(image):
    (answer,) = build("sc", inference([Found(image, 0, boxes(64, 48))]))
    shown = boxes(64, 48).draw(open_dicom(image).frame(0)[0])
    stored = back(answer)
    assert np.array_equal(stored.pixel_array, shown[..., ::-1])
    assert stored.Modality == "OT"
    assert stored.BurnedInAnnotation == "YES" and stored.SOPClassUID == capture.SECONDARY_CAPTURE
    assert stored.SourceImageSequence[0].ReferencedSOPInstanceUID == pydicom.dcmread(image).SOPInstanceUID


def test_a_capture_of_a_cine_has_its_frames(cine):
    (answer,) = build("sc", inference([Found(cine, frame, boxes(64, 48)) for frame in (0, 2, 3)]))
    stored = back(answer)
    assert stored.SOPClassUID == capture.MULTI_FRAME_TRUE_COLOR and stored.NumberOfFrames == 3
    assert list(stored.PageNumberVector) == [1, 3, 4]
    assert list(stored.SourceImageSequence[0].ReferencedFrameNumber) == [1, 3, 4]
    shown = boxes(64, 48).draw(open_dicom(cine).frame(2)[0])
    assert np.array_equal(stored.pixel_array[1], shown[..., ::-1])


def test_a_cine_that_is_too_long_shows_its_best_frames_in_order(cine, monkeypatch):
    monkeypatch.setattr(capture, "MOST_BYTES", 2 * 3 * 64 * 48)
    finds = [nothing(64, 48), boxes(64, 48), nothing(64, 48), boxes(64, 48)]
    (answer,) = build("sc", inference([Found(cine, frame, found) for frame, found in enumerate(finds)]))
    assert list(answer.PageNumberVector) == [2, 4]


def test_slices_without_a_window_are_shown_like_their_neighbours(tmp_path):
    paths = [source(tmp_path / f"{n}.dcm", GREY * n) for n in (1, 4)]
    answers = build("sc", inference([Found(path, 0, nothing(64, 48)) for path in paths]))
    darkest, brightest = (back(answer).pixel_array.max() for answer in answers)
    assert (darkest, brightest) == (64, 255)


def test_a_volume_is_shown_slice_by_slice(tmp_path):
    paths = slices(tmp_path, [0, 3])
    labels = [np.zeros((48, 64), np.uint8), np.ones((48, 64), np.uint8)]
    (answer,) = build("sc", inference([], volume=LabelVolume(labels, paths, {1: "lesion"})))
    stored = back(answer)
    assert stored.NumberOfFrames == 2 and len(stored.SourceImageSequence) == 2
    plain, tinted = stored.pixel_array[:, -1, -1].astype(int)
    assert plain[0] == plain[1] == plain[2] and tinted[0] != tinted[2]


# ------------------------------------------------------------------ presentation state


def states(*found):
    return [back(answer) for answer in build("gsps", inference(list(found)))]


def test_a_state_outlines_the_objects_and_names_them(cine):
    (state,) = states(Found(cine, 1, boxes(64, 48)), Found(cine, 2, boxes(64, 48)))
    first, second = state.GraphicAnnotationSequence
    frames = [entry.ReferencedImageSequence[0].ReferencedFrameNumber for entry in (first, second)]
    assert frames == [2, 3]
    line, label = first.GraphicObjectSequence[0], first.TextObjectSequence[0]
    assert list(line.GraphicData) == [1, 2, 32, 2, 32, 24, 1, 24, 1, 2] and line.GraphicType == "POLYLINE"
    assert label.UnformattedTextValue == "nodule 90%" and list(label.AnchorPoint) == [1, 2]


def test_a_region_has_one_tracking_uid_in_report_and_state(image):
    (state,) = states(Found(image, 0, boxes(64, 48)))
    groups = report([Found(image, 0, boxes(64, 48))]).content.get_planar_roi_measurement_groups()
    lines = state.GraphicAnnotationSequence[0].GraphicObjectSequence
    assert [line.TrackingUID for line in lines] == [group.tracking_uid for group in groups]


def test_a_state_shows_the_image_as_the_network_got_it(tmp_path):
    path = source(
        tmp_path / "cr.dcm",
        GREY,
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope=2,
        RescaleIntercept=-10,
        WindowCenter=[500, 900],
        WindowWidth=[100, 1800],
        WindowCenterWidthExplanation=["narrow", "wide"],
        PixelSpacing=[0.7, 0.5],
    )
    (state,) = states(Found(path, 0, boxes(64, 48)))
    assert state.PresentationLUTShape == "INVERSE"
    assert (state.RescaleSlope, state.RescaleIntercept) == (2, -10)
    voi = state.SoftcopyVOILUTSequence[0]
    assert (voi.WindowCenter, voi.WindowWidth) == (500, 100)
    (wide,) = build("gsps", inference([Found(path, 0, boxes(64, 48))], window="wide"))
    assert wide.SoftcopyVOILUTSequence[0].WindowWidth == 1800
    area = state.DisplayedAreaSelectionSequence[0]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [64, 48]


def test_a_deep_image_without_a_window_is_shown_by_its_range(image):
    (state,) = states(Found(image, 0, boxes(64, 48)))
    voi = state.SoftcopyVOILUTSequence[0]
    assert (voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction) == (3071 / 2, 3071, "LINEAR_EXACT")


def test_frames_that_are_shown_differently_get_states_of_their_own(tmp_path):
    paths = [source(tmp_path / f"{n}.dcm", GREY, WindowCenter=n, WindowWidth=100) for n in (300, 300, 600)]
    paths[1] = source(tmp_path / "same.dcm", GREY, WindowCenter=300, WindowWidth=100)
    result = states(*(Found(path, 0, boxes(64, 48)) for path in paths))
    assert [len(state.GraphicAnnotationSequence) for state in result] == [2, 1]


def test_a_voi_table_is_taken_over(tmp_path):
    table = item(LUTDescriptor=[4, 0, 16], LUTData=np.uint16([0, 10, 20, 65535]).tobytes())
    path = source(tmp_path / "lut.dcm", GREY, VOILUTSequence=pydicom.Sequence([table]))
    (state,) = states(Found(path, 0, boxes(64, 48)))
    assert list(state.SoftcopyVOILUTSequence[0].VOILUTSequence[0].LUTDescriptor) == [4, 0, 16]


@pytest.mark.parametrize("payload", [nothing, classes])
def test_without_regions_there_is_no_state(payload, image):
    assert states(Found(image, 0, payload(64, 48))) == []


def test_colour_has_no_grayscale_state(tmp_path):
    path = source(tmp_path / "rgb.dcm", np.zeros((48, 64), np.uint8), **COLORS)
    ds = pydicom.dcmread(path)
    ds.PixelData = bytes(3 * 48 * 64)
    ds.save_as(path)
    assert states(Found(path, 0, boxes(64, 48))) == []


# ------------------------------------------------------------------ key objects


def test_the_frames_with_findings_are_selected(cine, image):
    finds = [nothing, boxes, mask, nothing]
    found = [Found(cine, frame, make(64, 48)) for frame, make in enumerate(finds)]
    (answer,) = build("ko", inference([*found, Found(image, 0, boxes(64, 48))]))
    first, second = [entry for entry in back(answer).ContentSequence if entry.ValueType == "IMAGE"]
    assert list(first.ReferencedSOPSequence[0].ReferencedFrameNumber) == [2, 3]
    assert second.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == pydicom.dcmread(image).SOPInstanceUID
    assert "ReferencedFrameNumber" not in second.ReferencedSOPSequence[0]


@pytest.mark.parametrize("payload", [nothing, classes])
def test_nothing_is_selected_where_nothing_was_found_at_a_place(payload, image):
    assert build("ko", inference([Found(image, 0, payload(64, 48))])) == []
