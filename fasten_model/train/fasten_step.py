"""One step of FasTEN's training (Kye et al., ECCV 2022), with every remedy of `Method` as a switch.

Shapes: N noisy samples and C clean ones, B and D their batches, K classes, R annotators, H held-out samples.
"""

import math
from dataclasses import astuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from fasten_model.calibrate import fit_temperature
from fasten_model.correction import corrections
from fasten_model.images.source import as_images
from fasten_model.loss import cross_entropy, evidence_loss, resampling_weights, soft_cross_entropy
from fasten_model.stacking import Weights, fit_weights, stacked
from fasten_model.train.batch import Batch, Part, StepLosses, TrainingStep
from fasten_model.train.config import TrainConfig
from fasten_model.train.estimate import TransitionEstimate
from fasten_model.train.loop import Loop
from fasten_model.train.metrics import Diverged
from fasten_model.train.plan import class_weights, clean_frequencies, clean_groups, steps_per_epoch, times_shown
from fasten_model.train.seeds import generator
from fasten_model.train.training_set import TrainingSet
from fasten_model.train.visits import Visits

_HELD_OUT_AT_ONCE = 1024
"""Held-out images that go through the network together: they bound the memory that calibrating takes."""

_PRIOR_RIGHT = 10
"""Held-out samples that count as predicted rightly beside those there are: a handful tells little."""


class FastenStep(TrainingStep):
    """One step: T̂ from what the heads say, the losses under it, and the labels that the next visit will learn from."""

    def __init__(self, loop: Loop, data: TrainingSet, config: TrainConfig) -> None:
        self._loop, self._method, self._seed = loop, config.switches(), config.seed
        method, device, own = self._method, loop.device, loop.process.own
        told_apart = method.tells_apart and data.all_votes().shape[1] > 1
        pairs = data.pair_counts() if told_apart else data.majority_pair_counts()
        count, clean_count = len(data.noisy_labels), len(data.clean_labels)
        bulk = method.counts_bulk
        samples, batch = (count, loop.settings.noisy_batch) if bulk else (clean_count, loop.settings.clean_batch)
        self.estimate = TransitionEstimate(
            method,
            pairs.to(device),
            steps_per_pass=samples / batch,
            samples_per_pass=samples,
            process=loop.process,
        )
        held_out = method.calibrated or method.asks_accuracy or method.visits
        self._held_out = (data.held_out_images, data.held_out_labels) if held_out else (None, None)
        adapts = method.noisy_loss_weight is None and self._held_out[1] is not None
        # Without a loss nothing is asked of it: its gradient would be 0, and cost a pass back through it.
        self._noisy_head_learns = adapts or bool(method.noisy_loss_weight)
        loop.network.noisy_head.requires_grad_(self._noisy_head_learns)
        self._count = count
        votes = data.all_votes() if told_apart else data.noisy_labels[:, None]  # [N, R]
        self._votes = own(votes).to(device)
        self._original = own(data.noisy_labels).to(device)  # ȳ*, never written to
        self._labels = self._original.clone()  # ȳ: the correction written at the sample's previous visit
        self._sure = torch.zeros_like(self._labels, dtype=torch.bool)  # p or q was at ρ there, for whichever label
        self._clean_labels = own(data.clean_labels).to(device)
        self._temperature = torch.ones((), device=device)
        self._accuracy = torch.ones((), device=device)  # a, over the last epochs
        self._clean_estimates = own(data.clean_estimates).to(device).float()
        order = torch.randperm(clean_count, generator=generator(config.seed, "folds"))
        self._folds = own(order % method.folds).to(device)
        self._visits = Visits(count, data.num_classes, loop.process, device) if method.visits else None
        self._weights = Weights()
        self._held_out_rows = data.held_out_rows
        if data.held_out_rows is not None:
            self._held_out_votes = votes[data.held_out_rows.clamp(min=0)].to(device)  # [H, R]
        self._averages = method.correction in ("average", "ensemble")
        size = len(self._original) if self._averages else 0
        self._average = torch.zeros(size, data.num_classes, device=device)  # running mean of q or p; 0: not visited
        self.clean_groups = clean_groups(
            data.clean_labels,
            data.clean_estimates,
            loop.settings.clean_batch,
            balanced=method.clean_sampling == "balanced",
        )
        self._times_shown = times_shown(self.clean_groups)
        self._clean_prior = clean_frequencies(self.clean_groups, data.clean_labels, data.num_classes).to(device)
        self._class_weights = torch.ones_like(self._clean_prior)
        if method.clean_sampling == "shuffled" and not method.prior_correction:  # else their frequencies are seen to
            drawn = self._clean_prior.cpu()
            weights = class_weights(drawn, data.clean_labels, data.clean_estimates, data.held_out_labels)
            self._class_weights = weights.to(device)
        self._bulk_prior = torch.full_like(self._clean_prior, 1 / data.num_classes)  # decayed mean of p

    def __call__(self, batch: Batch) -> StepLosses:
        method, clean = self._method, batch.clean
        assert clean is not None
        if batch.step % steps_per_epoch(self._count, self._loop.settings.noisy_batch) == 0:
            self._ask_held_out(batch)
        index = batch.noisy.index
        clean_logits, noisy_logits, clean_logits_d, noisy_logits_d = self._forward(batch.noisy, clean, batch.step)
        log_p = log_softmax(clean_logits.detach().float() / self._temperature, dim=1)  # [B, K]
        p, clean_labels = log_p.exp(), self._clean_labels[clean.index]
        trains, estimates = self._roles(clean, batch)
        if not method.counts_bulk:
            if method.evaluation_features:
                noisy_logits_d = self._loop.forward_in_evaluation(clean.images)[1]
            self.estimate.add_clean(noisy_logits_d, clean_labels, estimates)
        votes, labels = self._votes[index], self._labels[index]  # [B, R], [B]: as the visit before left them
        # T̂ of corrected labels tells what those say, T̂ of the original ones what the annotators said.
        evidence = self.estimate.log_evidence(labels[:, None] if method.of_corrected else votes)  # [B, K]
        q = self._posterior_of_visit(index, clean_logits, log_p, evidence)
        self.estimate.add_bulk(q if method.estimator == "bulk_posterior" else p, votes)
        started = batch.step >= method.correction_start * batch.steps
        forward = self._noisy_loss(clean_logits, evidence, labels, batch, started)
        clean_loss = self._clean_loss(clean_logits_d, p, clean_labels, batch.noisy.size)
        clean_loss = clean_loss if trains is None else clean_loss * trains
        noisy = None
        if self._noisy_head_learns:
            noisy = cross_entropy(noisy_logits, self._noisy_targets(index, labels, evidence, started))
        self._correct(index, p, q, started)
        return self._total(forward, clean_loss, noisy, batch)

    def _posterior_of_visit(self, index: Tensor, clean_logits: Tensor, log_p: Tensor, evidence: Tensor) -> Tensor:
        """q [B,K]: from what the network says now, log p at the temperature, and where they are kept at all visits."""
        if self._visits is None:
            return torch.softmax(log_p + evidence, dim=1)
        now = log_softmax(clean_logits.detach().float(), dim=1)
        return stacked(now, self._visits.add(index, log_p), evidence, self._weights)

    def _forward(self, noisy: Part, clean: Part, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """θ(φ(x̄)), θ̄(φ(x̄)) [B,K], θ(φ(x)), θ̄(φ(x)) [D,K]."""
        images, clean_images = self._loop.inputs(noisy, step, "noisy"), self._loop.inputs(clean, step, "clean")
        if self._method.forwards == "separate":
            return *self._loop.forward(images), *self._loop.forward(clean_images)
        clean_head, noisy_head = self._loop.forward(torch.cat([images, clean_images]))
        count = len(images)
        return clean_head[:count], noisy_head[:count], clean_head[count:], noisy_head[count:]

    def _ask_held_out(self, batch: Batch) -> None:
        """Fit temperature and weights to the held-out samples, and see how many are predicted rightly, before an
        epoch. `Diverged` where the network says nothing finite of them any more."""
        step = batch.step
        images, labels = self._held_out
        if images is None or labels is None or len(labels) < 2:  # BatchNorm has no statistics of one
            return
        source, pieces = as_images(images), math.ceil(len(labels) / _HELD_OUT_AT_ONCE)
        logits = [
            self._loop.forward_as_trained(source.take(index), step)
            for index in torch.arange(len(labels)).tensor_split(pieces)
        ]
        predicted = torch.cat(logits)
        if not torch.isfinite(predicted).all():
            if step == 0:
                raise Diverged("the network says nothing finite before it has learnt anything: look at its trunk")
            raise Diverged(f"training diverged in step {step}; lower lr (it was {batch.lr:.2g})")
        if self._method.calibrated:
            self._temperature = torch.tensor(fit_temperature(predicted, labels), device=self._loop.device)
        if step > 0:  # before that nothing has been learnt
            self._weigh(predicted, labels)
            right = (predicted.argmax(dim=1) == labels.to(predicted.device)).sum()
            self._accuracy = (self._accuracy + (right + _PRIOR_RIGHT) / (len(labels) + _PRIOR_RIGHT)) / 2

    def _weigh(self, predicted: Tensor, labels: Tensor) -> None:
        """Fit the weights of q to the held-out samples that train with the label they came with; logits [H,K]."""
        rows = self._held_out_rows
        if self._visits is None or rows is None or not (rows >= 0).any():
            return
        trains = (rows >= 0).to(predicted.device)
        self._weights = fit_weights(
            log_softmax(predicted.float(), dim=1)[trains],
            self._visits.at(rows[rows >= 0]),
            self.estimate.log_evidence(self._held_out_votes)[trains],
            labels.to(predicted.device)[trains],
        )

    def _roles(self, clean: Part, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """(weights in the clean loss, weights in T̂) of the clean batch [D]: with several folds, never both above 0.

        None: all 1. Those that train make up for those that do not, so that their mean weighs what a whole batch does.
        """
        estimates = self._clean_estimates[clean.index]
        if self._method.folds == 1:
            return None, estimates
        epoch = batch.step // max(1, batch.steps // self._loop.epochs(self._count))
        estimating = (self._folds[clean.index] == epoch % self._method.folds).float()
        training = 1 - estimating
        trained = self._loop.process.sum(training.sum()).clamp(min=1)
        return training * (clean.size / trained), estimates * estimating

    def _noisy_loss(
        self, clean_logits: Tensor, evidence: Tensor, labels: Tensor, batch: Batch, started: bool
    ) -> Tensor:
        """The clean head's loss over the noisy batch, [B]; labels int64 [B]: ȳ, as corrected at the visit before."""
        index = batch.noisy.index
        # A label that was corrected under a T̂ of the original ones is taken to be the true one.
        trusts = self._method.correction in ("posterior", "confidence") and not self._method.of_corrected
        if self._method.loss == "resample":
            weights = resampling_weights(clean_logits, evidence, labels)
            weights = torch.where(self._sure[index], 1.0, weights) if trusts else weights
            return cross_entropy(clean_logits, labels) * self._draws(weights, batch)
        loss = evidence_loss(clean_logits, evidence)
        if not started:
            return loss
        if trusts:
            return torch.where(self._sure[index], cross_entropy(clean_logits, labels), loss)
        if self._averages:
            mean = self._average[index]  # [B, K]
            targets = mean if self._method.correction == "average" else _posterior(mean, evidence)
            return torch.where(mean.sum(dim=1) > 0, soft_cross_entropy(clean_logits, targets), loss)
        return loss

    def _draws(self, weights: Tensor, batch: Batch) -> Tensor:
        """How often each noisy sample is drawn when B are, by `weights` [B]: [B]."""
        part = batch.noisy
        weights = self._loop.process.whole(weights, part.positions, part.size)
        # `multinomial` refuses weights that are no numbers or all 0; the loop tells of a loss that diverged.
        weights = torch.nan_to_num(weights).clamp(min=torch.finfo(weights.dtype).tiny)
        random = generator(self._seed, "resample", batch.step, device=weights.device)
        drawn = torch.multinomial(weights, part.size, replacement=True, generator=random)
        counts = torch.zeros_like(weights).index_add_(0, drawn, torch.ones_like(weights))
        return counts if part.positions is None else counts[part.positions]

    def _clean_loss(self, clean_logits: Tensor, p: Tensor, clean_labels: Tensor, size: int) -> Tensor:
        """Cross-entropy over the clean batch, [D]."""
        if self._method.prior_correction:
            # The clean head is to predict under the bulk's class frequencies, whatever those of the clean set are.
            mean = self._loop.process.sum(p.sum(dim=0)) / size
            self._bulk_prior = 0.99 * self._bulk_prior + 0.01 * mean
            clean_logits = clean_logits.float() + self._clean_prior.log() - self._bulk_prior.log()
        return cross_entropy(clean_logits, clean_labels) * self._class_weights[clean_labels]

    def _noisy_targets(self, index: Tensor, labels: Tensor, evidence: Tensor, started: bool) -> Tensor:
        """What the noisy head learns of a noisy batch, int64 [B]."""
        if self._method.noisy_head_labels == "original":
            return self._original[index]
        if not self._averages:
            return labels
        return self._argmax_of_average(index, evidence) if started else self._original[index]

    def _correct(self, index: Tensor, p: Tensor, q: Tensor, started: bool) -> None:
        """Write what the next visit of these samples learns from."""
        method = self._method
        if method.correction == "none":
            return
        believed = p if method.correction in ("confidence", "ensemble") else q
        if self._averages:
            kept, new = self._average[index], believed
            share = torch.where(kept.sum(dim=1, keepdim=True) > 0, method.average_momentum, 0.0)
            self._average[index] = share * kept + (1 - share) * new
        elif started:
            labels, sure = corrections(believed, self._original[index], method.rho)
            self._labels.index_copy_(0, index, labels)
            self._sure.index_copy_(0, index, sure)

    def _total(self, forward: Tensor, clean: Tensor, noisy: Tensor | None, batch: Batch) -> StepLosses:
        """mean(forward ‖ clean) + λ·mean(noisy), or the two of the clean head by `clean_loss_weight`, and all three
        with weights that sum to 1 where λ follows the accuracy."""
        assert batch.clean is not None
        method, size, clean_size = self._method, batch.noisy.size, batch.clean.size
        share = clean_size / (size + clean_size) if method.clean_loss_weight is None else method.clean_loss_weight
        weight = share * self._discount(batch.step) if method.discounted else share
        forward_mean, clean_mean = forward.sum() / size, clean.sum() / clean_size
        total = (1 - weight) * forward_mean + weight * clean_mean
        noisy_mean = torch.zeros_like(total) if noisy is None else noisy.sum() / size
        if noisy is not None:
            if method.noisy_loss_weight is None:
                # Divided, so that a learning rate means what it does without a noisy head.
                follows = 2 * (1 - self._accuracy)
                total = (total + follows * noisy_mean) / (1 + follows)
            else:
                total = total + method.noisy_loss_weight * noisy_mean
        return StepLosses(
            total=total, forward=forward_mean.detach(), clean=clean_mean.detach(), noisy=noisy_mean.detach()
        )

    def _discount(self, step: int) -> Tensor:
        """What the clean set's weight is multiplied by in that step: scalar."""
        fresh, passes = self._method.fresh_passes, (step + 1) * self._times_shown
        discount = (1 + self._accuracy) / 2
        return discount if fresh is None else discount * min(1.0, fresh / passes) ** (2 * (1 - self._accuracy))

    def metrics(self) -> tuple[Tensor, Tensor]:
        changed = self._loop.process.sum((self._believed() != self._original).float().sum())
        return changed / self._count, self.estimate.shared().diagonal().mean()

    def corrected_labels(self) -> Tensor:
        """int64 [N] on the CPU, in every process."""
        return self._loop.process.gather(self._believed(), self._count).cpu()

    def visits(self) -> Tensor | None:
        """[N,K] on the CPU, in every process: the mean of log p over each noisy sample's visits, where it is kept."""
        return None if self._visits is None else self._visits.means().cpu()

    @property
    def weights(self) -> Weights:
        """Of q, as they were fitted last."""
        return self._weights

    def _believed(self) -> Tensor:
        """What each noisy label has been corrected to, int64 [N]."""
        if not self._averages:
            return self._labels
        every = slice(None)
        return self._argmax_of_average(every, self.estimate.log_evidence(self._votes))

    def _argmax_of_average(self, index: Tensor | slice, evidence: Tensor) -> Tensor:
        """The label that the running average of these samples comes to, int64 [B]; the original before any visit."""
        mean = self._average[index]
        best = (mean if self._method.correction == "average" else _posterior(mean, evidence)).argmax(dim=1)
        return torch.where(mean.sum(dim=1) > 0, best, self._original[index])

    def state(self) -> dict[str, Tensor]:
        gather = self._loop.process.gather
        return {
            "transition_counts": self.estimate.counts,
            "labels": gather(self._labels, self._count),
            "sure": gather(self._sure.to(torch.uint8), self._count),
            "average": gather(self._average, self._count) if self._averages else self._average,
            "bulk_prior": self._bulk_prior,
            "temperature": self._temperature,
            "accuracy": self._accuracy,
            "weights": torch.tensor(astuple(self._weights), dtype=torch.float64),
            **({} if self._visits is None else self._visits.state()),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        own, device = self._loop.process.own, self._loop.device
        expected = {name: value.shape for name, value in self.state().items()}
        for name in sorted(expected.keys() | state.keys()):
            if name not in state or state[name].shape != expected.get(name):
                found = list(state[name].shape) if name in state else "missing"
                wanted = list(expected[name]) if name in expected else "none"
                raise ValueError(f"{name} is {found}, this step has {wanted}")
        self.estimate.counts = state["transition_counts"].to(device)
        self._labels = own(state["labels"]).to(device)
        self._sure = own(state["sure"]).to(device).bool()
        self._average = (own(state["average"]) if self._averages else state["average"]).to(device)
        self._bulk_prior = state["bulk_prior"].to(device)
        self._temperature = state["temperature"].to(device)
        self._accuracy = state["accuracy"].to(device)
        self._weights = Weights.of(state["weights"])
        if self._visits is not None:
            self._visits.load_state(state)


def _posterior(p: Tensor, evidence: Tensor) -> Tensor:
    """q ∝ p·exp(log evidence): [B,K]."""
    return torch.softmax(torch.log(p.clamp(min=torch.finfo(p.dtype).tiny)) + evidence, dim=1)
