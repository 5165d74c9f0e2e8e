"""CE: plain cross-entropy on the noisy labels, the least that every method must beat."""

from benchmarks.methods.base import Observer, Outcome, Problem, beliefs_of
from benchmarks.methods.plain import train_plain
from fasten_model.train import TrainConfig


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """The clean set is not used."""
    network = train_plain(problem.noisy_images, problem.noisy_labels, problem.num_classes, config, observer)
    return Outcome(
        network=network,
        beliefs=beliefs_of(network, problem.noisy_images),
        transition=None,
        passes=1.0,
    )
