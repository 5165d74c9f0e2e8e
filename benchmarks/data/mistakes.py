"""Which class is taken for which: the published maps of asymmetric noise.

* CIFAR-10: truck → automobile, bird → airplane, deer → horse, cat ↔ dog (Patrini et al., CVPR 2017; FasTEN's reference)
* CIFAR-100: each class → the next one of its superclass, the last one → the first (the same paper)
* digits: 2 → 7, 3 → 8, 5 ↔ 6, 7 → 1 (the same paper, there for MNIST)
* Fashion-MNIST: ankle boot → sneaker, sneaker → sandal, pullover → shirt, coat ↔ dress (Zhang & Sabuncu, NeurIPS 2018)
* any other: each class → the next one
"""

from collections.abc import Sequence

CIFAR10 = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
DIGITS = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}
FASHION_MNIST = {9: 7, 7: 5, 2: 6, 4: 3, 3: 4}

CIFAR100_SUPERCLASSES = (
    ("beaver", "dolphin", "otter", "seal", "whale"),
    ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    ("orchid", "poppy", "rose", "sunflower", "tulip"),
    ("bottle", "bowl", "can", "cup", "plate"),
    ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    ("clock", "keyboard", "lamp", "telephone", "television"),
    ("bed", "chair", "couch", "table", "wardrobe"),
    ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    ("bear", "leopard", "lion", "tiger", "wolf"),
    ("bridge", "castle", "house", "road", "skyscraper"),
    ("cloud", "forest", "mountain", "plain", "sea"),
    ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    ("fox", "porcupine", "possum", "raccoon", "skunk"),
    ("crab", "lobster", "snail", "spider", "worm"),
    ("baby", "boy", "girl", "man", "woman"),
    ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
)
"""The 20 superclasses of CIFAR-100 (Krizhevsky 2009), each in the order of its labels."""


def by_pairs(pairs: dict[int, int], num_classes: int) -> tuple[int, ...]:
    """Class → class, from the pairs; a class in none of them is not mistaken."""
    return tuple(pairs.get(label, label) for label in range(num_classes))


def next_class(num_classes: int) -> tuple[int, ...]:
    """0 → 1 → … → K−1 → 0."""
    return tuple((label + 1) % num_classes for label in range(num_classes))


def next_in_superclass(classes: Sequence[str], superclasses: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """Each class → the next of its superclass in the order of the labels, circularly."""
    index = {name: position for position, name in enumerate(classes)}
    mistaken = list(range(len(classes)))
    for names in superclasses:
        members = sorted(index[name] for name in names)
        for position, member in enumerate(members):
            mistaken[member] = members[(position + 1) % len(members)]
    return tuple(mistaken)
