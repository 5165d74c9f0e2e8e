"""Questions where an answer is worth most: a floor for every class, and for the rest the best of all.

The worth of a question is its gain, the probability that the label handed out without asking is wrong, per second that
the answer is expected to take: where the suggestion is likely right, a key confirms it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pipeline.records import Mode
from pipeline.triage.budget import Room
from pipeline.triage.candidates import Candidate, Open
from pipeline.triage.near_duplicates import AlreadyShown
from pipeline.triage.pace import Pace

NEGLIGIBLE = 0.01
"""Gain below which nobody is asked: a hundred answers for one label, while people err more often than that."""
MOST_FOR_FLOORS = 0.5
"""Share of a batch that the floors of all classes take at most together: with 100 classes, a floor of 2 % each would
leave nothing to the best questions."""


def worth(candidate: Candidate, mode: Mode, pace: Pace) -> float:
    """Gain per time that the quickest targeted question takes, 0–1: the gain itself where all take as long."""
    gain = min(1.0, max(0.0, candidate.gain(mode)))
    return gain * pace.quickest_targeted / pace.of_targeted(candidate.model_label_probability)


def worth_asking(pool: Iterable[Open], mode: Mode, pace: Pace) -> list[Open]:
    """Those that an answer may set right, best first: never a kept label, nor a gain below `NEGLIGIBLE`."""
    doubtful = [each for each in pool if each.candidate.decision != "keep" and each.candidate.gain(mode) >= NEGLIGIBLE]
    return sorted(doubtful, key=lambda each: (-worth(each.candidate, mode, pace), each.candidate.sample_id))


def floors(classes: Sequence[str], class_floor: float, batch: int, drawn: Iterable[Open]) -> Counter[str]:
    """How many more questions each class needs, after those drawn at random, in a batch of so many."""
    if not classes:
        return Counter()
    each = int(min(class_floor, MOST_FOR_FLOORS / len(classes)) * batch + 1e-9)
    needs = Counter(dict.fromkeys(classes, each))
    for one in drawn:
        needs.subtract(_between(one.candidate))
    return +needs


def choose(
    doubtful: Sequence[Open], room: Room, *, needs: Mapping[str, int], shown: AlreadyShown
) -> tuple[list[Open], int]:
    """The questions for this room, best first, and how many were left out because they resemble another one.

    A question counts for the floor of its given class and of the suggested one: the answer is expected to be one of the
    two, so both learn from it, and a class that is only ever given, or only ever suggested, does not starve either.
    """
    chosen: dict[str, Open] = {}
    resembling: set[str] = set()
    wanting = Counter(needs)

    def fits(each: Open) -> bool:
        """Takes `each` unless it resembles a chosen one; False where there is no room."""
        if shown.resembles(each):
            resembling.add(each.push_key)
            return True
        if not room.take(room.pace.of_targeted(each.candidate.model_label_probability)):
            return False
        shown.choose(each)
        chosen[each.push_key] = each
        wanting.subtract(_between(each.candidate))
        return True

    for each in doubtful:
        if not +wanting:
            break
        if any(wanting[name] > 0 for name in _between(each.candidate)) and not fits(each):
            break
    for each in doubtful:
        if each.push_key not in chosen and each.push_key not in resembling and not fits(each):
            break
    return [each for each in doubtful if each.push_key in chosen], len(resembling)


def _between(candidate: Candidate) -> set[str]:
    return {candidate.given_label, candidate.model_label}
