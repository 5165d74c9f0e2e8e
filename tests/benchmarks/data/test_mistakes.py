"""The maps of asymmetric noise."""

from benchmarks.data import mistakes


def test_cifar10_is_mistaken_as_published() -> None:
    assert mistakes.by_pairs(mistakes.CIFAR10, 10) == (0, 1, 0, 5, 7, 3, 6, 7, 8, 1)


def test_the_superclasses_of_cifar100_hold_each_class_once() -> None:
    names = [name for members in mistakes.CIFAR100_SUPERCLASSES for name in members]
    assert len(set(names)) == len(names) == 100
    assert all(len(members) == 5 for members in mistakes.CIFAR100_SUPERCLASSES)


def test_cifar100_classes_go_round_within_their_superclass() -> None:
    classes = sorted(name for members in mistakes.CIFAR100_SUPERCLASSES for name in members)
    mistaken = mistakes.next_in_superclass(classes, mistakes.CIFAR100_SUPERCLASSES)
    said = {classes[true]: classes[given] for true, given in enumerate(mistaken)}
    assert (said["beaver"], said["whale"], said["tractor"]) == ("dolphin", "beaver", "lawn_mower")
    assert sorted(mistaken) == list(range(100))
    superclass = {name: row for row, members in enumerate(mistakes.CIFAR100_SUPERCLASSES) for name in members}
    assert all(superclass[true] == superclass[given] and true != given for true, given in said.items())


def test_other_classes_go_to_the_next() -> None:
    assert mistakes.next_class(3) == (1, 2, 0)
