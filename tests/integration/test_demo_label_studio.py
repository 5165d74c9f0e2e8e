"""The demonstration's people at work in a real Label Studio."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from pipeline.demo.datasets import DemoDataset, load_dataset
from pipeline.demo.enter import Entered, Titles, email_of, enter_dataset
from pipeline.demo.review import review_queue
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.queue import push, push_key
from pipeline.records import ReviewTask
from pipeline.review_screen import REVIEW_CONTROL, review_config

if TYPE_CHECKING:
    from tests.integration.conftest import LabelStudioServer

PASSWORD = SecretStr("they-all-share-it")


@pytest.fixture(scope="module")
def door(label_studio: "LabelStudioServer") -> Iterator[LabelStudio]:
    config = LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token), page_size=25)
    with LabelStudio(config) as door:
        yield door


@pytest.fixture(scope="module")
def dataset() -> DemoDataset:
    return load_dataset("digits", limit=120)


@pytest.fixture(scope="module")
def entered(door: LabelStudio, dataset: DemoDataset) -> Entered:
    titles = Titles.of("some digits")
    # What a call that was stopped half-way leaves behind, and then a whole one.
    enter_dataset(door, replace(dataset, samples=dataset.samples[:30]), titles, password=PASSWORD)
    return enter_dataset(door, dataset, titles, password=PASSWORD, chunk=50)


def test_votes_and_audits_are_read_back_as_they_were_given(
    door: LabelStudio, dataset: DemoDataset, entered: Entered
) -> None:
    samples = {sample.sample_id: sample for sample in dataset.samples}
    people: Counter[tuple[int, str]] = Counter()
    tasks = list(door.iter_tasks(entered.labels))
    assert sorted(task.sample_id for task in tasks) == sorted(samples)
    for task in tasks:
        sample = samples[task.sample_id]
        in_time = sorted(task.annotations, key=lambda a: (a.updated_at, a.annotation_id))
        votes = [answer for answer in in_time if not answer.ground_truth]
        assert [vote.label for vote in votes] == [vote.label for vote in sample.votes]
        people.update((said.annotator, got.annotator) for said, got in zip(sample.votes, votes, strict=True))
        audits = [answer.label for answer in in_time if answer.ground_truth]
        assert audits == ([sample.truth] if sample.audit == "annotation" else [])
    assert len(people) == 3, "each annotator is one user, and no two are the same"
    audited = {task.sample_id: [a.label for a in task.annotations] for task in door.iter_tasks(entered.audit)}
    assert audited == {s.sample_id: [s.truth] for s in dataset.samples if s.audit == "project"}


def test_both_projects_show_the_image_that_was_entered(
    door: LabelStudio, dataset: DemoDataset, entered: Entered
) -> None:
    images = {sample.sample_id: sample.image for sample in dataset.samples}
    in_labels = {task.sample_id: task.data["image"] for task in door.iter_tasks(entered.labels)}
    task = next(iter(door.iter_tasks(entered.audit)))
    assert task.data["image"] == in_labels[task.sample_id]
    answer = httpx.get(door.url + task.data["image"], headers=door.authorization())
    assert answer.content == images[task.sample_id]


def test_entering_a_second_time_adds_nothing(door: LabelStudio, dataset: DemoDataset, entered: Entered) -> None:
    before = [door.project_state(project) for project in (entered.labels, entered.audit)]
    again = enter_dataset(door, dataset, Titles.of("some digits"), password=PASSWORD)
    assert (again.added, again.labels, again.audit) == (0, entered.labels, entered.audit)
    assert [door.project_state(project) for project in (entered.labels, entered.audit)] == before


def test_reviewers_take_the_queue_in_its_order(door: LabelStudio, dataset: DemoDataset, entered: Entered) -> None:
    review = door.create_project("some digits, review", review_config(dataset.classes), uncertainty_sampling=True)
    review = door.find_project(review.project_id, control=REVIEW_CONTROL)
    urls = {task.sample_id: task.data["image"] for task in door.iter_tasks(entered.labels)}
    priorities = {sample.sample_id: n / 8 for n, sample in enumerate(dataset.samples[:8])}
    questions = [
        ReviewTask(
            push_key=push_key(entered.labels.project_id, sample.sample_id),
            sample_id=sample.sample_id,
            image_url=urls[sample.sample_id],
            current_label=sample.votes[-1].label,
            model_label=str(sample.truth),
            confidence=0.7,
            reason="the model is unsure",
            priority=priorities[sample.sample_id],
            rank=1 - priorities[sample.sample_id],
            model_version="1",
        )
        for sample in dataset.samples[:8]
    ]
    given = {question.sample_id: question.current_label for question in questions}
    push(door, review, questions)
    people = [door.add_user(email_of(f"reviewer-{n}"), PASSWORD.get_secret_value()) for n in (1, 2)]
    doors = [LabelStudio(LabelStudioConfig(url=door.url, token=person.token)) for person in people]
    try:
        reviewed = review_queue(
            doors, review, dataset.truths, given, count=5, accuracy=1.0, rng=np.random.default_rng(0)
        )
    finally:
        for each in doors:
            each.close()

    asked = sorted(priorities, key=lambda sample_id: -priorities[sample_id])[:5]
    truths = dataset.truths
    assert (reviewed.asked, reviewed.suggestion_right, reviewed.answered_right) == (5, 5, 5)
    assert reviewed.really_wrong == sum(given[sample_id] != truths[sample_id] for sample_id in asked)
    answered = {task.sample_id: task.annotations[0] for task in door.iter_tasks(review, annotated_only=True)}
    assert sorted(answered, key=lambda sample_id: answered[sample_id].annotation_id) == asked
    assert {sample_id: answer.label for sample_id, answer in answered.items()} == {i: truths[i] for i in asked}
    assert {answer.annotator for answer in answered.values()} == {f"user:{person.user_id}" for person in people}
    assert all(answer.lead_time_s for answer in answered.values())
