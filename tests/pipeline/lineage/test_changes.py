"""Two snapshots are compared sample by sample, and every change has somebody behind it."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.lineage import changes as module
from pipeline.lineage import compare
from pipeline.lineage.changes import By

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=3)


def vote(number: int, sample: str, label: str, who: str = "user:1", **more: Any) -> dict[str, Any]:
    return {"annotation_id": number, "sample_id": sample, "label": label, "annotator": who} | more


def test_every_kind_of_change_is_counted_and_told_with_who_and_when(tmp_path: Path, make_snapshot: Make) -> None:
    before = make_snapshot(
        tmp_path,
        labels=[
            vote(1, "edited", "dark"),
            vote(2, "gone", "dark", "user:2"),
            vote(3, "decided", "dark"),
            vote(4, "disputed", "dark"),
            vote(5, "still", "grey"),
            vote(6, "withdrawn", "grey", "user:3"),
            vote(7, "withdrawn", "dark", "user:1"),
        ],
        noisy={"edited": "dark", "gone": "dark", "decided": "dark", "disputed": "dark", "still": "grey"}
        | {"withdrawn": "grey"},
    )
    after = make_snapshot(
        tmp_path,
        labels=[
            vote(1, "edited", "bright", updated_at=LATER),
            vote(3, "decided", "dark"),
            vote(11, "decided", "grey", "user:9", origin="review", updated_at=LATER),
            vote(4, "disputed", "dark"),
            vote(12, "disputed", "grey", "user:8", origin="review", updated_at=LATER),
            vote(5, "still", "grey", updated_at=LATER),  # saved once more as it was
            vote(7, "withdrawn", "dark", "user:1"),
            vote(13, "new", "dark", "user:2", updated_at=LATER),
        ],
        noisy={"edited": "bright", "still": "grey", "withdrawn": "dark", "new": "dark"},
        clean={"decided": ("grey", "dark", "review")},
        undecided={"disputed": ("dark", "disputed", ("grey", "dark"))},
    )
    difference = compare(before, after)
    assert difference.samples == {"relabelled": 3, "moved": 1, "added": 1, "removed": 1}
    assert difference.moves == {("noisy", "clean"): 1, ("noisy", "undecided"): 1}
    assert difference.answers == {
        "user:1": {"changed": 1},
        "user:2": {"added": 1, "withdrawn": 1},
        "user:3": {"withdrawn": 1},
        "user:8": {"added": 1},
        "user:9": {"added": 1},
    }
    told = {
        change.sample_id: (change.kind, change.place_was, change.label_was, change.place_is, change.label_is, change.by)
        for change in difference.changes
    }
    assert list(told) == ["decided", "edited", "withdrawn", "disputed", "new", "gone"]
    assert told == {
        "decided": ("relabelled", "noisy", "dark", "clean", "grey", (By(who="user:9", how="review", at=NOON),)),
        "edited": ("relabelled", "noisy", "dark", "noisy", "bright", (By(who="user:1", how="labels", at=LATER),)),
        "withdrawn": ("relabelled", "noisy", "grey", "noisy", "dark", (By(who="user:3", how="withdrawn", at=None),)),
        "disputed": ("moved", "noisy", "dark", "undecided", "dark", (By(who="user:8", how="review", at=LATER),)),
        "new": ("added", None, None, "noisy", "dark", (By(who="user:2", how="labels", at=LATER),)),
        "gone": ("removed", "noisy", "dark", None, None, (By(who="user:2", how="withdrawn", at=None),)),
    }
    back = compare(after, before)
    assert back.samples == {"relabelled": 3, "moved": 1, "added": 1, "removed": 1}


def test_a_snapshot_does_not_differ_from_itself(tmp_path: Path, make_snapshot: Make) -> None:
    snapshot = make_snapshot(tmp_path, labels=[vote(1, "a", "dark")], noisy={"a": "dark"})
    assert not compare(snapshot, snapshot).anything


def test_classes_and_a_label_that_nobody_gave_are_compared_too(tmp_path: Path, make_snapshot: Make) -> None:
    before = make_snapshot(tmp_path, undecided={"a": (None, "disputed", ("dark",)), "b": (None, "disputed", ())})
    after = make_snapshot(
        tmp_path, undecided={"a": ("dark", "disputed", ("dark",)), "b": (None, "not_sure", ())}, classes=("dark", "x")
    )
    difference = compare(before, after)
    assert (difference.classes_added, difference.classes_removed) == (("x",), ("bright", "grey"))
    assert [(change.sample_id, change.label_was, change.label_is) for change in difference.changes] == [
        ("a", None, "dark")
    ]


def test_only_so_many_are_told_and_all_are_counted(tmp_path: Path, make_snapshot: Make) -> None:
    before = make_snapshot(tmp_path, noisy={f"s{number}": "dark" for number in range(9)})
    after = make_snapshot(tmp_path, noisy={f"s{number}": "grey" for number in range(3, 12)})
    difference = compare(before, after, top=2)
    assert difference.changed == 12
    assert [change.sample_id for change in difference.changes] == ["s3", "s4", "s10", "s11", "s0", "s1"]
    assert compare(before, after, top=0).changes == []


LABELLED = st.tuples(st.sampled_from(["noisy", "clean", "undecided"]), st.sampled_from(["dark", "grey", "bright"]))
NAMES = st.text(min_size=1, max_size=2, alphabet="abé☃\U0001f600")
WORLD = st.dictionaries(NAMES, st.tuples(st.none() | LABELLED, st.none() | LABELLED), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(world={"a": (None, ("noisy", "dark")), "b": (("noisy", "bright"), ("undecided", "grey"))})
@given(world=WORLD)
def test_it_is_what_two_dictionaries_say_however_the_samples_are_cut(
    tmp_path_factory: pytest.TempPathFactory, make_snapshot: Make, world: Mapping[str, Any]
) -> None:
    """Ranges of a few rows each, and the plainest way to compare."""

    def made(side: int) -> "Snapshot":
        there = {name: both[side] for name, both in world.items() if both[side] is not None}
        of = {place: {n: label for n, (at, label) in there.items() if at == place} for place in module.PLACES}
        labels = [vote(place, name, label) for place, (name, (_, label)) in enumerate(sorted(there.items()))]
        return make_snapshot(
            tmp_path_factory.mktemp("data"),
            labels=labels,
            noisy=of["noisy"],
            clean={name: (label, None, "audit") for name, label in of["clean"].items()},
            undecided={name: (label, "disputed", ()) for name, label in of["undecided"].items()},
        )

    before, after = made(0), made(1)
    expected = Counter[str]()
    for was, now in world.values():
        if was != now:
            kind = "added" if was is None else "removed" if now is None else "moved"
            expected["relabelled" if was and now and was[1] != now[1] else kind] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ends", lambda _: iter(sorted(world)[::3]))
        cut = compare(before, after)
    whole = compare(before, after)
    for difference in (cut, whole):
        assert {kind: difference.samples[kind] for kind in module.KINDS} == {
            kind: expected[kind] for kind in module.KINDS
        }
        assert len(difference.changes) == expected.total()
    assert cut == whole
