"""What is known of the people behind the labels."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """An estimated share, from 0 to 1."""

    value: float
    low: float
    """The share lies between `low` and `high` with a probability of 95 %."""
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixup:
    """What a reviewer has called samples of one class."""

    truth: str
    said: str
    count: int
    of: int
    """Samples of the class `truth` that were compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviewer:
    """One reviewer's answers, each sample counted once, by the latest."""

    name: str
    """`user:{id}`."""
    classes: int
    """Answers that name a class."""
    not_sure: int
    unusable: int
    median_seconds: float | None
    """Per answer; None where Label Studio has measured none."""
    compared: int
    """Answers on randomly audited samples that others have decided."""
    right: int
    """Those of them that say the same."""
    accuracy: Share | None
    """right ÷ compared, with its interval; None where nothing was compared."""
    overlaps: int
    """Other reviewers' answers to the same samples."""
    agreements: int
    """Those of them that say the same."""
    mixups: tuple[Mixup, ...]
    """On the samples compared, most frequent first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """How often an annotator calls one class another."""

    truth: str
    said: str
    share: Share
    """T_r[truth, said]"""
    expected: float
    """Samples that this happened to, expected number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotator:
    """One annotator of the bulk labels."""

    name: str
    """`user:{id}`."""
    votes: int
    audited: int
    """Those of them on samples that were audited at random."""
    error: Share
    """Share of wrong labels among the votes."""
    expected_wrong: float
    """Wrong labels among the votes, expected number."""
    confusions: tuple[Confusion, ...]
    """The most frequent ones, by expected number."""
    matrix: tuple[tuple[float, ...], ...]
    """T_r [K,K] in class order: matrix[i][j] = p(says j | truth is i); rows sum to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class People:
    """Everybody who has labelled or reviewed."""

    classes: tuple[str, ...]
    reviewers: tuple[Reviewer, ...]
    """Those who have answered most first."""
    annotators: tuple[Annotator, ...]
    """Those with most wrong labels first."""
    left_out: int = 0
    """Annotators with too few votes to be among them."""
    strength: float | None = None
    """α: samples that a row of the shared T is worth beside an annotator's own; None without annotators."""
