"""Decisions of people that the model contradicts."""

from typing import Any

from pipeline.triage import Plan, contradicted, recheck_tasks
from pipeline.triage.pace import DEFAULT_S


def contradiction(name: str, probability: float, provenance: str = "review", **changes: Any) -> dict[str, Any]:
    decided = {"sample_id": name, "image_url": f"/{name}.png", "label": "3", "auditor": "user:1"}
    return {**decided, "provenance": provenance, "model_label": "8", "probability": probability, **changes}


def key(sample_id: str, question: str) -> str:
    return f"{sample_id} {question}"


ROWS = [
    contradiction("weak", 0.6),
    contradiction("strong", 0.99, model_version="fasten/2", error_probability=0.3),
    contradiction("no image", 0.97, image_url=None),
    contradiction("audited", 0.995, "audit"),
    contradiction("agreed", 0.9, model_label="3"),
    contradiction("middle", 0.8),
]


def test_the_most_contradicted_reviews_are_asked_again_and_audits_are_only_listed() -> None:
    tasks = recheck_tasks(ROWS, 2, key=key, references={"8": ("/8.png",)}, run_key="run")
    assert [task.push_key for task in tasks] == ["strong recheck", "middle recheck"]
    first = tasks[0]
    assert (first.asked_as, first.current_label, first.model_label, first.confidence) == ("recheck", "3", "8", 0.99)
    assert (first.references, first.run_key, first.model_version) == (("/8.png",), "run", "fasten/2")
    assert [row["sample_id"] for row in contradicted(ROWS)] == [
        "audited",
        "strong",
        "no image",
        "middle",
        "weak",
    ]
    assert Plan.of(tasks).tasks == tasks
    assert Plan.of(tasks, overlap=3).minutes == 2 * 3 * DEFAULT_S / 60
    assert Plan.of(tasks).counts["recheck"] == 2
    assert Plan.of(tasks).expected_corrections == 0.3 + 0.8, "people are right more often than the model believes"


def test_what_was_rechecked_once_is_not_rechecked_again() -> None:
    tasks = recheck_tasks(ROWS, 2, key=key, asked={"strong recheck"})
    assert [task.sample_id for task in tasks] == ["middle", "weak"]
    assert recheck_tasks(ROWS, 0, key=key) == ()
