"""Why somebody is asked, in the words the review screen shows."""

from pipeline.records import UNUSABLE
from pipeline.review_screen import confidence_in_words
from pipeline.triage.candidates import Candidate, Dispute

RANDOM = "Random check: say what you see."
"""Of everything drawn at random: which draw it was would tell whether the machine doubts the label."""
DISAGREES = 0.8
"""From this probability of another class on the model disagrees; below it is unsure."""
_NUMBERS = {2: "Two", 3: "Three", 4: "Four"}


def reason(candidate: Candidate) -> str:
    """Why a targeted question is asked; what the model suggests, and how sure it is, stands beside it."""
    given, guess = candidate.given_label, candidate.model_label
    if guess == given:
        return f"The model is unsure of “{given}”."
    if candidate.model_label_probability >= DISAGREES:
        return f"The model disagrees with “{given}”."
    return f"The model is unsure: it may not be “{given}”."


def tie_break_reason(dispute: Dispute) -> str:
    """Why a sample is asked about that people have looked at already; names no one."""
    said = sorted({f"“{label}”" for _, answer, label in dispute.answers if answer == "class" and label is not None})
    said += [UNUSABLE] * any(answer == "unusable" for _, answer, _ in dispute.answers)
    if not said:
        return "One person was not sure."
    people = sum(answer != "not_sure" for _, answer, _ in dispute.answers)
    who = f"{_NUMBERS.get(people, people)} people disagree"
    return f"{who}: {', '.join(said[:-1])} or {said[-1]}." if len(said) > 1 else f"People were not sure of {said[0]}."


def recheck_reason(*, label: str, model_label: str, probability: float) -> str:
    """Why a decision is looked at again; does not say whose it was."""
    sure = confidence_in_words(probability)
    return f"Somebody decided “{label}”; the model disagrees: {sure} that it is “{model_label}”."
