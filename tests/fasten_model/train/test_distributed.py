"""Two processes that train together (gloo, on this machine) do what one does on the same batches."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import astuple, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn

from fasten_model.errors import DataError
from fasten_model.fitting import fit
from fasten_model.images.source import TableImages
from fasten_model.labelled import LabelledImages
from fasten_model.model import Model
from fasten_model.network import build_network
from fasten_model.predict import predict_logits
from fasten_model.predict_sharded import predict_sharded
from fasten_model.scoring import score
from fasten_model.stacking import Weights
from fasten_model.train import OURS, PAPER, TrainConfig, Trained, TrainingSet, train, train_cross_entropy
from fasten_model.train.checkpoint import CheckpointConfig
from fasten_model.train.plan import noisy_epoch, own_share
from fasten_model.train.process import ALONE, Process, this_process
from fasten_model.train.stopping import Stopped
from fasten_model.train.sync_batch_norm import CpuSyncBatchNorm, synchronise_batch_norm
from fasten_model.visited import Visited

WORLD = 2
COUNTS = [21, 1, 0]
SIDE, CLASSES = 12, 3
# SGD: where a gradient is nearly zero Adam makes a whole step of what is only a rounding error.
CONFIG = TrainConfig(
    preset="resnet18",
    trunk="small",
    epochs=2,
    noisy_batch=8,
    clean_batch=6,
    image_size=SIDE,
    horizontal_flip=True,
    lr=0.05,
    device="cpu",
)
ADAM = replace(CONFIG, preset="small", lr=1e-3)
TINY = replace(CONFIG, noisy_batch=2, clean_batch=2)

METHODS = {
    "paper": PAPER,
    "ours": OURS,
    "corrected from the start": replace(OURS, correction_start=0.0, rho=0.4),
    "paper, corrected": replace(PAPER, rho=0.4),
    "averaged weights": replace(OURS, ema=0.9),
    "average of q": replace(OURS, correction="average", correction_start=0.0),
    "folds": replace(PAPER, estimator="clean_decayed", folds=2, evaluation_features=True),
    "resample": replace(OURS, loss="resample"),
    "priors": replace(OURS, prior_correction=True),
    "λ": replace(OURS, noisy_loss_weight=0.5),
    "joint": replace(OURS, forwards="joint"),
}


def samples(noisy: int = 21, clean: int = 9) -> TrainingSet:
    generator = torch.Generator().manual_seed(0)
    return TrainingSet(
        noisy_images=torch.randint(256, (noisy, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        noisy_labels=torch.arange(noisy) % CLASSES,
        clean_images=torch.randint(256, (clean, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        clean_labels=torch.arange(clean) % CLASSES,
        clean_estimates=torch.arange(clean) % 4 != 3,
        num_classes=CLASSES,
        votes=torch.randint(-1, CLASSES, (noisy, 2), generator=generator),
        held_out_images=torch.randint(256, (6, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        held_out_labels=torch.arange(6) % CLASSES,
        held_out_rows=torch.tensor([3, 4, -1, 11, 8, 17]).clamp(max=noisy - 1),
    )


def mapped(data: TrainingSet) -> TrainingSet:
    """The same with images that are no tensors."""
    assert isinstance(data.noisy_images, Tensor)
    return replace(data, noisy_images=TableImages(data.noisy_images))


def outcome(trained: Trained) -> dict[str, Any]:
    return {
        "weights": {name: value.double() for name, value in trained.network.state_dict().items()},
        "transition": trained.transition,
        "transitions": trained.transitions,
        "labels": trained.corrected_labels,
        "visits": torch.zeros(0) if trained.visits is None else trained.visits,
        "weights of q": torch.tensor(astuple(trained.weights)),
        "history": [replace(metrics, seconds=0.0) for metrics in trained.history],
    }


class HalfUsed(nn.Module):
    """A trunk with a layer that nothing comes of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIDE * SIDE, 8)
        self.idle = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.layer(images.flatten(1)))


def judge() -> Model:
    """Trained on every second of the noisy samples, it says."""
    data, seen = samples(), torch.arange(0, 21, 2)
    return Model(
        network=build_network("small", CLASSES),
        classes=("a", "b", "c"),
        preset="small",
        image_size=SIDE,
        temperature=1.5,
        transition=torch.full((CLASSES, CLASSES), 0.1) + 0.7 * torch.eye(CLASSES),
        rho=0.4,
        visited=Visited.of(
            [str(int(number)) for number in seen],
            data.noisy_labels[seen],
            data.noisy_images[seen],
            -torch.rand(len(seen), CLASSES, generator=torch.Generator().manual_seed(1)),
            Weights(),
        ),
    )


def judged(count: int, *, sharded: bool) -> tuple[Tensor, ...]:
    """p, q, the decisions and the features of the first noisy samples."""
    data = samples()
    found = score(
        judge(),
        data.noisy_images[:count],
        data.noisy_labels[:count],
        sample_ids=[str(number) for number in range(count)],
        with_features=True,
        sharded=sharded,
    )
    assert found.features is not None
    return found.probabilities, found.posterior, found.decisions, found.features


class Unreadable(TableImages):
    """Images that the second process cannot read."""

    def __init__(self, table: Tensor, rows: Tensor | None, error: Exception) -> None:
        super().__init__(table, rows)
        self._error = error

    def take(self, index: Tensor) -> Tensor:
        if this_process().rank == 1:
            raise self._error
        return super().take(index)

    def __getitem__(self, chosen: slice | Tensor) -> "Unreadable":
        return Unreadable(self._table, self._rows[chosen], self._error)


def complaint(attempt: Callable[[], Any]) -> tuple[str, str]:
    """(kind, text) of the error that it ends with."""
    try:
        attempt()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def complaints() -> list[tuple[str, str]]:
    """Of scoring and training where something is wrong in one process only."""
    data, rank = samples(), this_process().rank
    assert isinstance(data.noisy_images, Tensor)
    assert isinstance(data.clean_images, Tensor)
    labels = data.noisy_labels
    attempts: list[Callable[[], Any]] = []
    for error in (DataError("the disk is gone"), OSError("the disk\nis gone")):
        images = Unreadable(data.noisy_images, None, error)
        attempts.append(partial(score, judge(), images, labels, sharded=True))
        attempts.append(partial(predict_sharded, build_network("small", CLASSES), images))
    attempts.append(partial(score, judge(), data.noisy_images, labels + 5 * rank, sharded=True))
    share = slice(rank, 20, 2)
    attempts.append(partial(score, judge(), data.noisy_images[share], labels[share], sharded=True))
    attempts.append(partial(score, judge(), data.noisy_images[rank:], labels[rank:], sharded=True))
    noisy = LabelledImages.from_tensors(data.noisy_images, labels)
    clean = LabelledImages.from_tensors(data.clean_images, data.clean_labels)
    attempts.append(partial(fit, noisy.at(torch.arange(21) % 2 == rank), clean, ["a", "b", "c"], CONFIG))
    attempts.append(partial(fit, noisy, clean.at(torch.full((9,), rank == 0)), ["a", "b", "c"], CONFIG))
    return [complaint(attempt) for attempt in attempts]


def trained(config: TrainConfig) -> dict[str, Any]:
    return outcome(train(samples(), config))


def plain(data: TrainingSet) -> Trained:
    assert isinstance(data.noisy_images, Tensor)
    return train_cross_entropy(data.noisy_images, data.noisy_labels, CLASSES, CONFIG)


def stopped(folder: Path, asking: int | None) -> tuple[int, bool]:
    """Train where only process `asking` wants to stop, after its fourth step: (steps done, whether they are kept)."""
    polls = 0

    def poll() -> bool:
        nonlocal polls
        polls += 1
        return this_process().rank == asking and polls >= 4

    checkpoint = CheckpointConfig(folder=folder, every_seconds=0)
    try:
        train(samples(), CONFIG, checkpoint=checkpoint, stop=nullcontext(poll))
    except Stopped as stop:
        return stop.step, stop.kept
    return -1, False


def refused(folder: Path) -> str:
    (folder.parent / "file").touch()
    try:
        train(samples(), CONFIG, checkpoint=CheckpointConfig(folder=folder.parent / "file" / "c"))
    except DataError as error:
        return str(error)
    return ""


def normalised(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Two batches in training mode and one in evaluation mode; gradients of a weighted sum."""
    x = x.clone().requires_grad_()
    y = layer(x)
    again = layer(y * 2 + 1)
    weights = torch.arange(1.0, x.shape[1:].numel() + 1).reshape(x.shape[1:])
    (again * y * weights).sum().backward()
    layer.eval()
    assert x.grad is not None
    buffers = {name: value for name, value in layer.named_buffers() if value is not None}
    return {"y": y.detach(), "again": again.detach(), "eval": layer(x).detach(), "gradient": x.grad, **buffers}


def norms() -> dict[str, tuple[nn.Module, Tensor, list[int]]]:
    """(layer, batch, how many samples of it the first process has)."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(7, 4, 3, 3, generator=generator) * 3 + 100  # far from zero, where E[x²] − E[x]² would cancel
    features = torch.randn(6, 4, generator=generator)
    built = {
        "uneven": (nn.BatchNorm2d(4), images, 5),
        "one has none": (nn.BatchNorm2d(4, momentum=0.4), images, 0),
        "cumulative": (nn.BatchNorm2d(4, momentum=None), images, 2),
        "no scale, no statistics": (nn.BatchNorm1d(4, affine=False, track_running_stats=False), features, 3),
    }
    for layer, _, _ in built.values():
        if layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.uniform_(layer.bias, -1.0, 1.0)
    return {name: (layer, x, [count, len(x) - count]) for name, (layer, x, count) in built.items()}


def jobs(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    for name, method in METHODS.items():
        yield name, partial(trained, replace(CONFIG, method=method))
    # With seed 0 an activation lies at a kink, to a bit: one process, too, ends elsewhere when inputs change by 1e-7.
    yield "one annotator", partial(trained, replace(CONFIG, seed=1, method=replace(OURS, annotators=False)))
    yield "separate, tiny", lambda: outcome(train(samples(7, 3), replace(TINY, method=PAPER)))
    yield "joint, tiny", lambda: outcome(train(samples(7, 3), replace(TINY, method=METHODS["joint"])))
    yield "one sample of each", lambda: outcome(train(samples(2, 1), replace(TINY, method=METHODS["average of q"])))
    yield "images elsewhere", lambda: outcome(train(mapped(samples()), CONFIG))
    yield "adam", lambda: outcome(train(samples(), ADAM))
    yield "half of a trunk", lambda: outcome(train(samples(), CONFIG, trunk=HalfUsed()))
    yield "cross-entropy", lambda: outcome(plain(samples()))
    yield "stopped", lambda: stopped(folder / "a", asking=1)
    yield "resumed", lambda: outcome(train(samples(), CONFIG, checkpoint=CheckpointConfig(folder=folder / "a")))
    yield "stopped too", lambda: stopped(folder / "b", asking=0)
    yield "refused", lambda: refused(folder / "c")
    yield "scores", lambda: predict_sharded(build_network("small", CLASSES), samples().noisy_images)
    yield (
        "more processes than images",
        lambda: predict_sharded(build_network("small", CLASSES), samples().noisy_images[:1]),
    )
    for count in COUNTS:
        yield f"{count} judged", partial(judged, count, sharded=True)
    yield "complaints", complaints


def as_strict_as_nccl(all_reduce: Callable[..., Any]) -> Callable[..., Any]:
    """`all_reduce`, refusing what NCCL refuses; gloo takes any tensor that is dense."""

    def strict(tensor: Tensor, *arguments: Any, **more: Any) -> Any:
        if not tensor.is_contiguous():
            raise ValueError("Tensors must be contiguous")
        return all_reduce(tensor, *arguments, **more)

    return strict


def work(rank: int, folder: Path) -> None:
    """What one process does: every job, and its results into a file."""
    torch.set_num_threads(1)
    dist.all_reduce = as_strict_as_nccl(dist.all_reduce)  # this process is one of its own: nobody else has this
    warnings.simplefilter("error")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=60),
    )
    try:
        results = {}
        for name, job in jobs(folder):
            torch.manual_seed(0)
            results[name] = job()
        torch.manual_seed(0)
        for name, (layer, x, sizes) in norms().items():
            own = synchronise_batch_norm(nn.Sequential(layer), torch.device("cpu"))[0]  # type: ignore[index]
            assert type(own) is CpuSyncBatchNorm
            results[f"norm: {name}"] = normalised(own, torch.split(x, sizes)[rank])
        torch.save(results, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The jobs' results in each of two processes, and the folder that they left."""
    folder = tmp_path_factory.mktemp("together")
    spawn(work, (folder,), nprocs=WORLD)  # type: ignore[no-untyped-call]
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def test_no_two_methods_are_the_same() -> None:
    assert len(set(METHODS.values())) == len(METHODS)


ALIKE = [name for name, _ in jobs(Path()) if name in METHODS or "tiny" in name or "sample of" in name]


@pytest.mark.parametrize(
    "name", [*ALIKE, "images elsewhere", "half of a trunk", "cross-entropy", "adam", "one annotator"]
)
def test_two_processes_train_what_one_trains(
    name: str, together: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = dict(jobs(tmp_path))[name]()
    for found in (results[name] for results in together[1]):
        assert_alike(found, expected)


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected["weights"].items():
        torch.testing.assert_close(
            found["weights"][name], value, atol=2e-5, rtol=1e-4, msg=partial("{}: {}".format, name)
        )
    for name in ("transition", "transitions", "visits", "weights of q"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)
    assert torch.equal(found["labels"], expected["labels"])
    for one, other in zip(found["history"], expected["history"], strict=True):
        for field in one.__dataclass_fields__:
            assert getattr(one, field) == pytest.approx(getattr(other, field), abs=1e-5, rel=1e-4)


def test_both_processes_have_the_same_to_the_bit(together: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (results["ours"] for results in together[1])
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert first["history"] == second["history"]


def test_corrections_differ_from_the_given_labels_where_the_test_says_so(
    together: tuple[Path, list[dict[str, Any]]],
) -> None:
    for name in ("corrected from the start", "paper, corrected", "average of q"):
        assert not torch.equal(together[1][0][name]["labels"], samples().noisy_labels), name


def test_the_tiny_batches_leave_a_process_without_samples() -> None:
    """Or the tests above would not show that a step survives that."""
    shares = [own_share(noisy_epoch(7, 2, seed=0, epoch=0), Process(rank=rank, world=2))[0] for rank in range(2)]
    assert any(len(index) == 0 for share in shares for index in share)


def test_all_stop_after_the_same_step_and_go_on_together(together: tuple[Path, list[dict[str, Any]]]) -> None:
    assert [results["stopped"] for results in together[1]] == [(4, True)] * WORLD
    assert [results["stopped too"] for results in together[1]] == [(4, True)] * WORLD
    for results in together[1]:
        assert_alike(results["resumed"], outcome(train(samples(), CONFIG)))


def test_one_process_goes_on_from_what_two_have_saved(together: tuple[Path, list[dict[str, Any]]]) -> None:
    resumed = train(samples(), CONFIG, checkpoint=CheckpointConfig(folder=together[0] / "b"))
    assert_alike(outcome(resumed), outcome(train(samples(), CONFIG)))


def test_what_the_first_process_refuses_ends_all(together: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (results["refused"] for results in together[1])
    assert "no checkpoint can be written to" in first
    assert first == second


@pytest.mark.parametrize(("name", "count"), [("scores", 21), ("more processes than images", 1)])
def test_scoring_in_shares_is_scoring(name: str, count: int, together: tuple[Path, list[dict[str, Any]]]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = predict_logits(build_network("small", CLASSES), samples().noisy_images[:count])
    for found in (results[name] for results in together[1]):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("count", COUNTS)
def test_labels_judged_in_shares_are_judged_alike(count: int, together: tuple[Path, list[dict[str, Any]]]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = judged(count, sharded=False)
    for found in (results[f"{count} judged"] for results in together[1]):
        torch.testing.assert_close(found, expected)


def test_what_goes_wrong_in_one_process_ends_all(together: tuple[Path, list[dict[str, Any]]]) -> None:
    """And at once: where one waited for another it would be for the whole of a timeout."""
    first, second = (results["complaints"] for results in together[1])
    assert first[:2] == second[:2] == [("SharedError", "the disk is gone")] * 2
    assert first[2:4] == [("SharedError", "process 1 has failed: OSError the disk")] * 2
    assert second[2:4] == [("OSError", "the disk\nis gone")] * 2
    assert first[4:] == second[4:]
    outside, shares, sizes, fitted, empty = first[4:]
    assert outside == ("SharedError", "a given label lies outside the model's 3 classes")
    apart = "the processes were given different samples: give each all of them, it takes its share"
    assert shares == sizes == fitted == ("SharedError", apart)
    assert empty[0] == "SharedError"
    assert empty[1].startswith("the clean set is empty")


@pytest.mark.parametrize("name", norms())
def test_batch_norm_is_that_of_the_whole_batch(name: str, together: tuple[Path, list[dict[str, Any]]]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, x, _ = norms()[name]
        expected = normalised(layer, x)
    one, other = (results[f"norm: {name}"] for results in together[1])
    if "running_mean" not in expected:
        del expected["eval"]  # then it is of the process's own batch, as torch's is
    for key, value in expected.items():
        shared = key in dict(layer.named_buffers())
        found = one[key] if shared else torch.cat([one[key], other[key]])
        torch.testing.assert_close(found, value, atol=1e-4, rtol=1e-4, msg=partial("{}: {}".format, key))


def test_alone_there_is_nothing_to_send() -> None:
    assert this_process() == ALONE
    assert ALONE.any(True, False) == (True, False)
    assert ALONE.first(lambda: 3) == 3
    values = torch.arange(5)
    assert torch.equal(ALONE.own(values), values)
    assert ALONE.gather(values, 5) is values
    assert ALONE.sum(values) is values


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_sample_is_one_processs_and_keeps_its_place(world: int) -> None:
    order = noisy_epoch(23, 5, seed=1, epoch=0)
    together: list[Tensor] = [torch.full_like(index, -1) for index in order]
    for rank in range(world):
        process = Process(rank=rank, world=world)
        own, places = own_share(order, process)
        numbers = process.own(torch.arange(23))
        for step, index in enumerate(own):
            place = slice(None) if places is None else places[step]
            assert (together[step][place] == -1).all()
            together[step][place] = numbers[index]
    assert all(torch.equal(found, index) for found, index in zip(together, order, strict=True))
