"""What is kept of one round of one policy."""

from dataclasses import dataclass, fields

RoundKey = tuple[str, str, int, str, int]
"""(data set, noise, seed, policy, round): what a row is of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRow:
    """One round: a model, the questions chosen by it, and their answers. Shares are in 0…1; B questions were asked."""

    dataset: str
    noise: str
    seed: int
    policy: str
    round: int
    """From 1."""
    error: str | None = None
    """Why there are no figures."""
    samples: int = 0
    """N."""
    audited: int = 0
    """C, before the first round."""
    spent: int = 0
    """Reviews before this round, those C among them."""
    noise_rate: float | None = None
    """Share of the given labels of all N that are wrong."""
    picked: list[int] | None = None
    """Places in the pool, in the order asked: [B]."""
    asked_as: list[str] | None = None
    wrong: list[bool] | None = None
    """Whether the given label was wrong: [B]."""
    contradicted: list[bool] | None = None
    """Whether the reviewer said another label, who may err: [B]."""
    handed: list[float] | None = None
    """Share of all N labels handed out that are right, before the first answer and after each: [B + 1]."""
    suggested: list[float] | None = None
    """The same if the model's suggestions were taken where nobody has decided."""
    bin_count: list[int] | None = None
    """Open samples by their error probability, ten bins of equal width."""
    bin_predicted: list[float] | None = None
    """Sum of the error probabilities in each bin."""
    bin_wrong: list[int] | None = None
    """Labels in each bin that are wrong."""
    standing: list[int] | None = None
    """Labels that are changed after this round's model by its promise or an earlier one's, −1 where none is: [N]."""
    standing_right: int | None = None
    """Those of them that are right."""
    rho: float | None = None
    changed: int | None = None
    """Open labels with a decision to relabel, whether the policy hands them out or not."""
    changed_right: int | None = None
    target_precision: float | None = None
    noise_at_random: float | None = None
    """Share of wrong labels, by the answers, among all that are claimed to have been drawn at random."""
    diagonal_true: float | None = None
    """Mean of T's diagonal."""
    diagonal_estimated: float | None = None
    """Of T̂'s."""
    transition_absolute: float | None = None
    """Mean |T̂ − T|."""
    accuracy_true: float | None = None
    """Of the model, on the test images."""
    accuracy_estimated: float | None = None
    """On the held-out samples that are claimed to be random."""
    seconds: float | None = None
    """Of the training, where this row's policy was the one that needed it, and of the choice."""
    machine: str = ""
    code: str = ""
    """Commit and date."""

    @property
    def key(self) -> RoundKey:
        """What the row is of."""
        return self.dataset, self.noise, self.seed, self.policy, self.round

    @property
    def cell(self) -> str:
        """“digits, sym:0.4”."""
        return f"{self.dataset}, {self.noise}"

    @property
    def asked(self) -> int:
        """B."""
        return len(self.picked or ())


COLUMNS = tuple(field.name for field in fields(RoundRow))
