"""CE + clean: cross-entropy on the noisy labels and on the clean set's true ones, one set of both.

What anyone would do first who has a clean set. Every sample is visited once an epoch, a clean one like a noisy one.
"""

from benchmarks.methods.base import Observer, Outcome, Problem, beliefs_of
from benchmarks.methods.plain import passes, train_plain, with_clean
from fasten_model.train import TrainConfig


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Passes: 1 + C/N."""
    images, labels = with_clean(problem)
    network = train_plain(images, labels, problem.num_classes, config, observer)
    return Outcome(
        network=network,
        beliefs=beliefs_of(network, problem.noisy_images),
        transition=None,
        passes=passes(problem, config, trained=[len(labels)]),
    )
