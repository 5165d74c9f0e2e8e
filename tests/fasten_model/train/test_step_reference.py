"""The preset `paper` against its equations in NumPy: float64, one sample at a time, gradients by hand."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fasten_model.network import TwoHeadNetwork
from fasten_model.train import PAPER, TrainConfig, TrainingSet, train
from fasten_model.train.plan import CleanPlan, clean_groups, noisy_epoch

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

K, SIDE, FEATURES = 3, 2, 4
N, C, B, D = 24, 9, 6, 4
EPOCHS = 4
RHO, LAMBDA, LR, WEIGHT_DECAY, MOMENTUM = 0.45, 0.5, 0.05, 5e-4, 0.9


class LinearTrunk(nn.Module):
    """x → Wx: a trunk whose gradients fit on a line of NumPy."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(3 * SIDE * SIDE, FEATURES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.features(images.flatten(1))
        return features


def softmax(logits: Floats) -> Floats:
    odds = np.exp(logits - logits.max())
    return np.asarray(odds / odds.sum())


@dataclass
class Transcription:
    """method.md, section 2, one sample at a time. A weight is (matrix [out, in], bias [out])."""

    weights: dict[str, Floats]
    noisy_x: Floats
    original: Labels
    clean_x: Floats
    clean_y: Labels

    def __post_init__(self) -> None:
        self.labels = self.original.copy()
        self.transition = np.eye(K)
        self.momentum = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.corrections: list[int] = []

    def features(self, x: Floats) -> Floats:
        return np.asarray(self.weights["trunk.features.weight"] @ x + self.weights["trunk.features.bias"])

    def head(self, name: str, features: Floats) -> Floats:
        return np.asarray(self.weights[f"{name}.weight"] @ features + self.weights[f"{name}.bias"])

    def step(self, batch: Labels, clean_batch: Labels, lr: float) -> float:
        # T̂[i] = mean over clean samples of class i of softmax(noisy head)
        for label in range(K):
            rows = [softmax(self.head("noisy_head", self.features(self.clean_x[c]))) for c in clean_batch
                    if self.clean_y[c] == label]  # fmt: skip
            if rows:
                self.transition[label] = np.mean(rows, axis=0)
        gradients = {name: np.zeros_like(value) for name, value in self.weights.items()}
        total = 0.0
        written: dict[int, int] = {}
        for n in batch:
            x, said = self.noisy_x[n], self.labels[n]
            features = self.features(x)
            p = softmax(self.head("clean_head", features))
            seen = self.transition.T @ p  # p(ȳ | x)
            total += -np.log(seen[said]) / (len(batch) + len(clean_batch))
            q = self.transition[:, said] * p / seen[said]  # the posterior: the gradient is p − q
            self.descend(gradients, "clean_head", features, x, (p - q) / (len(batch) + len(clean_batch)))
            noisy_p = softmax(self.head("noisy_head", features))
            total += LAMBDA * -np.log(noisy_p[said]) / len(batch)
            self.descend(gradients, "noisy_head", features, x, LAMBDA * (noisy_p - np.eye(K)[said]) / len(batch))
            written[int(n)] = int(p.argmax()) if p.max() >= RHO else int(self.original[n])
        for c in clean_batch:
            x = self.clean_x[c]
            features = self.features(x)
            p = softmax(self.head("clean_head", features))
            total += -np.log(p[self.clean_y[c]]) / (len(batch) + len(clean_batch))
            error = (p - np.eye(K)[self.clean_y[c]]) / (len(batch) + len(clean_batch))
            self.descend(gradients, "clean_head", features, x, error)
        for n, label in written.items():  # trained on at the next visit
            self.labels[n] = label
        self.corrections.append(int((self.labels != self.original).sum()))
        for name, value in self.weights.items():
            self.momentum[name] = MOMENTUM * self.momentum[name] + gradients[name] + WEIGHT_DECAY * value
            self.weights[name] = value - lr * self.momentum[name]
        return float(total)

    def descend(self, gradients: dict[str, Floats], head: str, features: Floats, x: Floats, error: Floats) -> None:
        """Add the gradients of one sample's term, whose gradient with respect to the head's logits is `error`."""
        gradients[f"{head}.weight"] += np.outer(error, features)
        gradients[f"{head}.bias"] += error
        back = self.weights[f"{head}.weight"].T @ error
        gradients["trunk.features.weight"] += np.outer(back, x)
        gradients["trunk.features.bias"] += back


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_paper_preset_is_the_equations_of_the_paper_step_by_step(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(seed)
    network = TwoHeadNetwork(LinearTrunk(), FEATURES, K)
    start = {name: value.double().numpy().copy() for name, value in network.state_dict().items()}
    monkeypatch.setattr("fasten_model.train.loop.build_network", lambda *_args, **_kwargs: network)
    clean_labels = torch.arange(C) % K
    clean_labels[-1] = 0
    images = torch.randint(0, 256, (N + C, 3, SIDE, SIDE), dtype=torch.uint8)
    noisy_images, clean_images = images[:N], images[N:]
    data = TrainingSet(
        noisy_images=noisy_images,
        noisy_labels=torch.randint(0, K, (N,)),
        clean_images=clean_images,
        clean_labels=clean_labels,
        clean_estimates=torch.ones(C, dtype=torch.bool),
        num_classes=K,
    )
    method = replace(PAPER, rho=RHO)
    config = TrainConfig(
        preset="paper", method=method, epochs=EPOCHS, noisy_batch=B, clean_batch=D, lr=LR, weight_decay=WEIGHT_DECAY,
        horizontal_flip=False, seed=seed, device="cpu",
    )  # fmt: skip
    monkeypatch.setattr("fasten_model.train.loop.crop", lambda images, *_args, **_kwargs: images)

    def normalised(images: torch.Tensor) -> Floats:
        return np.asarray((images.flatten(1).double().numpy() - 127.5) / 64)

    plain = Transcription(
        weights=start,
        noisy_x=normalised(noisy_images),
        original=data.noisy_labels.numpy().copy(),
        clean_x=normalised(clean_images),
        clean_y=data.clean_labels.numpy(),
    )
    clean_plan = CleanPlan(clean_groups(clean_labels, data.clean_estimates, D, balanced=True), seed=seed)
    losses = []
    for epoch in range(EPOCHS):
        in_epoch = []
        for number, batch in enumerate(noisy_epoch(N, B, seed=seed, epoch=epoch)):
            step = epoch * (N // B) + number
            done = step / (EPOCHS * N // B)
            rate = LR * (1.0 if done < 50 / 70 else 0.1 if done < 60 / 70 else 0.01)
            in_epoch.append(plain.step(batch.numpy(), clean_plan.batch(step).numpy(), rate))
        losses.append(np.mean(in_epoch))

    trained = train(data, config)

    assert 0 < min(plain.corrections[-4:]) < N, "a test in which nothing, or everything, is corrected proves little"
    assert any(a > b for a, b in zip(plain.corrections, plain.corrections[1:], strict=False)), "none was ever undone"
    assert trained.corrected_labels.tolist() == plain.labels.tolist()
    for name, value in trained.network.state_dict().items():
        np.testing.assert_allclose(value.numpy(), plain.weights[name], rtol=2e-4, atol=2e-5, err_msg=name)
    np.testing.assert_allclose([epoch.loss for epoch in trained.history], losses, rtol=1e-4)
