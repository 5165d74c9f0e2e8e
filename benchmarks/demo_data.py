"""FasTEN against plain cross-entropy on the demonstration's digits, and two orders of the queue, without any server.

    python -m benchmarks.demo_data --seeds 5

Everything of one seed (draw, votes, audits, training) is compared on the same data in the same process. Accuracies are
of the held-out images. The queue counts labels that the loop would hand out wrong (`suggested_label` is not
the truth) among the first samples of each order: those are the labels that a reviewer sets right.
"""

import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import torch

from benchmarks.command import finish, parser, positive, use_threads
from benchmarks.machine import machine_line
from fasten_model.fitting import fit
from fasten_model.holding_out import holdout_mask
from fasten_model.images.parquet import decode_image
from fasten_model.images.source import as_images
from fasten_model.labelled import LabelledImages
from fasten_model.model import Model
from fasten_model.predict import predict_logits
from fasten_model.presets import find_preset
from fasten_model.relabel import TARGET_PRECISION
from fasten_model.train import TrainConfig, train_cross_entropy
from pipeline import scoring
from pipeline.demo.datasets import DemoDataset, DemoSample, load_dataset
from pipeline.snapshot.consensus import Vote, consensus

FIRST = 50
"""How far into the queue the two orders are compared: minutes of one reviewer's attention."""


def labelled(samples: Sequence[DemoSample], classes: Sequence[str], size: int, *, audited: bool) -> LabelledImages:
    """The samples as the loop would have them after a pull."""
    given = [_consensus(sample) for sample in samples]
    labels = [sample.truth if audited else label for sample, label in zip(samples, given, strict=True)]
    return LabelledImages(
        sample_ids=tuple(sample.sample_id for sample in samples),
        images=torch.stack([decode_image(sample.image, size) for sample in samples]),
        labels=torch.tensor([classes.index(str(label)) for label in labels]),
        given_labels=torch.tensor([classes.index(label) for label in given]),
        estimates=torch.ones(len(samples), dtype=torch.bool),
    )


def _in_memory(samples: LabelledImages) -> torch.Tensor:
    return as_images(samples.images).take(torch.arange(len(samples)))


def _consensus(sample: DemoSample) -> str:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    label = consensus(
        [
            Vote(annotator=f"user:{vote.annotator}", label=vote.label, updated_at=when, annotation_id=turn)
            for turn, vote in enumerate(sample.votes)
        ]
    )
    assert label is not None
    return label


def one_seed(dataset: DemoDataset, seed: int) -> dict[str, float]:
    """Every figure of one seed, in percent or as a count."""
    config = TrainConfig(seed=seed)
    size, classes = find_preset(config.preset).image_size, dataset.classes
    noisy_samples = [sample for sample in dataset.samples if not sample.audited]
    noisy = labelled(noisy_samples, classes, size, audited=False)
    clean = labelled([sample for sample in dataset.samples if sample.audited], classes, size, audited=True)
    truth = torch.tensor([classes.index(str(sample.truth)) for sample in noisy_samples])
    held_out = torch.stack([decode_image(each.image, size) for each in dataset.held_out])
    held_truth = torch.tensor([classes.index(each.truth) for each in dataset.held_out])

    started = time.perf_counter()
    model: Model = fit(noisy, clean, classes, config, holdout=0.25).model
    fasten_seconds = time.perf_counter() - started
    taught = clean.at(~holdout_mask(clean, 0.25, len(classes)))
    started = time.perf_counter()
    plain = train_cross_entropy(
        torch.cat([_in_memory(noisy), _in_memory(taught)]),
        torch.cat([noisy.labels, taught.labels]),
        len(classes),
        config,
    )
    plain_seconds = time.perf_counter() - started

    rows = scoring.score(model, noisy, target_precision=TARGET_PRECISION, model_version="benchmark").table.to_pylist()
    suggested_wrong = [
        classes.index(row["suggested_label"]) != right for row, right in zip(rows, truth.tolist(), strict=True)
    ]
    asked = [i for i, row in enumerate(rows) if row["decision"] != "keep"]
    relabeled = [i for i, row in enumerate(rows) if row["decision"] == "relabel"]

    def found(column: str) -> int:
        first = sorted(asked, key=lambda i: (-rows[i][column], rows[i]["sample_id"]))[:FIRST]
        return sum(suggested_wrong[i] for i in first)

    return {
        "labels wrong as given, %": 100 * float((noisy.labels != truth).double().mean()),
        "labels wrong after the loop, %": 100 * sum(suggested_wrong) / len(rows),
        "relabels right, %": 100 * sum(not suggested_wrong[i] for i in relabeled) / max(1, len(relabeled)),
        "held-out accuracy, FasTEN, %": 100 * _accuracy(predict_logits(model.network, held_out)[0], held_truth),
        "held-out accuracy, plain CE + clean, %": 100
        * _accuracy(predict_logits(plain.network, held_out)[0], held_truth),
        f"set right by {FIRST} reviews, 1 − q[suggested] (ours)": found("priority"),
        f"set right by {FIRST} reviews, 1 − q[given]": found("error_probability"),
        "seconds, FasTEN with calibration": fasten_seconds,
        "seconds, plain CE": plain_seconds,
        "seconds, FasTEN ÷ plain CE": fasten_seconds / plain_seconds,
    }


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).double().mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the seeds and print mean, spread and range of every figure."""
    made = parser("benchmarks.demo_data", __doc__, device=False)
    made.add_argument("--seeds", type=positive, default=5)
    options = made.parse_args(arguments)
    use_threads(options.threads)
    seeds = options.seeds
    print(f"{machine_line()}; digits, 1,200 noisy + 200 audited, n = {seeds} seeds")
    runs = []
    for seed in range(seeds):
        runs.append(one_seed(load_dataset("digits", seed=seed), seed))
        print(f"seed {seed} done", flush=True)
    print(f"\n{'':55} {'mean':>8} {'sd':>7} {'min':>7} {'max':>7}")
    for name in runs[0]:
        values = [run[name] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name:55} {statistics.mean(values):8.2f} {spread:7.2f} {min(values):7.2f} {max(values):7.2f}")
    return 0


if __name__ == "__main__":
    finish(main)
