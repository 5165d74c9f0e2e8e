"""What the demonstration's tasks and their screen look like to Label Studio."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from pipeline.demo.records import DemoSample
from pipeline.records import Project
from pipeline.review_screen import CLASS_KEYS

SAMPLE_ID = "sample_id"


def labelling_config(classes: Sequence[str]) -> str:
    """Label config XML: the image, and one radio button a class with the key that the reviewers' screen has for it."""
    root = Element("View", style="display: flex; gap: 24px; align-items: flex-start")
    SubElement(root, "Image", name="image", value="$image", maxWidth="320px", zoomControl="false")
    choices = SubElement(root, "Choices", name="label", toName="image", choice="single-radio", required="true")
    for name, key in zip_longest(classes, CLASS_KEYS[: len(classes)]):
        SubElement(choices, "Choice", {"value": name} | ({"hotkey": key} if key else {}))
    return tostring(root, encoding="unicode")


def labels_task(sample: DemoSample, project: Project, annotators: Sequence[int], auditor: int) -> dict[str, Any] | None:
    """The sample's task of the labels project, without its image: each vote, and the audit where it belongs here.

    `annotators` and `auditor` are user ids. None for a sample that nobody has answered there.
    """
    answers = [_answer(project, vote.label, annotators[vote.annotator]) for vote in sample.votes]
    if sample.audit == "annotation":
        answers.append(_answer(project, sample.truth, auditor, ground_truth=True))
    return {"annotations": answers} if answers else None


def audit_task(sample: DemoSample, project: Project, auditor: int) -> dict[str, Any] | None:
    """The sample's task of the audit project, without its image; None for a sample not audited there."""
    if sample.audit != "project":
        return None
    return {"annotations": [_answer(project, sample.truth, auditor)]}


def with_image(task: Mapping[str, Any], project: Project, sample_id: str, url: str) -> dict[str, Any]:
    """The task as it is imported."""
    return {**task, "data": {project.control.image_field: url, SAMPLE_ID: sample_id}}


def _answer(project: Project, label: str | None, user: int, *, ground_truth: bool = False) -> dict[str, Any]:
    region = {
        "from_name": project.control.name,
        "to_name": project.control.to_name,
        "type": "choices",
        "value": {"choices": [label]},
    }
    # Said each time: an imported annotation that does not say so is taken for ground truth.
    return {"result": [region], "completed_by": user, "ground_truth": ground_truth, "was_cancelled": False}
