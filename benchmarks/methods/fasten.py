"""FasTEN: Kye, Choi, Yi and Chang, "Learning with Noisy Labels by Efficient Transition Matrix Estimation to Combat
Label Miscorrection", ECCV 2022; as published (`run_paper`; github hyperconnect/FasTEN) and as this project has it
(`run`).

Both are `fasten_model.train.train`; `docs/ablation.md` has the differences and what each is worth.
"""

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.methods.base import Observer, Outcome, Problem, beliefs_of
from benchmarks.methods.plain import FORWARD_ONLY, passes
from fasten_model.device import resolve_device
from fasten_model.fitting import Fitted, fit
from fasten_model.labelled import LabelledImages
from fasten_model.network import TwoHeadNetwork
from fasten_model.posterior import soft_count_transition
from fasten_model.scoring import score
from fasten_model.stacking import stacked
from fasten_model.train import OURS, PAPER, Method, TrainConfig, Trained, TrainingSet, train
from fasten_model.train.plan import steps_per_epoch
from fasten_model.transition import log_evidence


def run_paper(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """As published. Passes: 1 + D/B."""
    return run_by_network(problem, replace(config, method=PAPER), observer)


def run_by_network(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """The variant that `config.method` says, beliefs being the clean head's alone, and T̂ as training leaves it: where
    the noisy head learns corrected labels, T̂ is of those (the paper's is)."""
    method = config.method or OURS
    trained = train(_training_set(problem), replace(config, method=method), observer=observer)
    network = trained.network.to(resolve_device(config.device))
    return Outcome(
        network=network,
        beliefs=beliefs_of(network, problem.noisy_images),
        transition=trained.transition,
        transition_of=trained.corrected_labels if _of_corrected(method) else None,
        passes=_passes(problem, config, method),
    )


HOLDOUT = 0.2
"""Share of the clean samples that ours keeps from training, to calibrate by."""


def run(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Ours as the product runs it, `fasten_model.fit` and `score`: a fifth of the clean set is held out and calibrates;
    beliefs are its posterior q. Where annotators are told apart, but not on the clean set: `run_uncalibrated`.

    Passes: 1 + D/B, of the held-out samples that train beside the bulk, too; a look at those in every epoch, and one at
    the bulk for T of the original labels."""
    if problem.votes is not None and problem.clean_votes is None:
        return run_uncalibrated(problem, config, observer)
    method = config.method or OURS
    classes = [str(label) for label in range(problem.num_classes)]
    noisy = _labelled("noisy", problem.noisy_images, problem.noisy_labels, problem.noisy_labels, problem.votes)
    fitted = fit(
        noisy,
        _labelled("clean", problem.clean_images, problem.clean_labels, problem.clean_given, problem.clean_votes),
        classes,
        replace(config, method=method),
        holdout=HOLDOUT,
        observer=observer,
    )
    return Outcome(
        network=fitted.model.network.to(resolve_device(config.device)),
        beliefs=score(
            fitted.model,
            noisy.images,
            noisy.labels,
            annotators=noisy.annotators,
            votes=noisy.votes,
            sample_ids=noisy.sample_ids,
        ).posterior.float(),
        transition=fitted.model.transition,
        temperature=fitted.model.temperature,
        passes=_passes(problem, config, method) * (1 + _pairs_held_out(fitted, method) / len(noisy))
        + passes(
            problem,
            config,
            trained=(),
            predicted=fitted.held_out * (config.settings().epochs * method.calibrated + 1) + len(noisy),
        ),
    )


def _pairs_held_out(fitted: Fitted, method: Method) -> int:
    """Held-out samples that train beside the bulk, with the label that they came with."""
    return fitted.choice.pairs_held_out if method.visits else 0


def _labelled(name: str, images: Tensor, labels: Tensor, given: Tensor, votes: Tensor | None) -> LabelledImages:
    """The samples as if they had come from a file; all audited ones were drawn at random."""
    return LabelledImages.from_tensors(
        images,
        labels,
        sample_ids=[f"{name} {number}" for number in range(len(labels))],
        given_labels=given,
        annotators=() if votes is None else [f"annotator {number}" for number in range(votes.shape[1])],
        votes=votes,
    )


def run_uncalibrated(problem: Problem, config: TrainConfig, observer: Observer | None = None) -> Outcome:
    """Ours, or the variant that `config.method` says, trained on the whole clean set, with the network's own p and
    training's T̂: beliefs q_i ∝ p_i·Π_r T_r[i, vote_r], or with the visits where the method keeps them.

    Audited samples are joined with the label that they had (`Problem.clean_given`), where there is one label a sample.
    """
    method = config.method or OURS
    config = replace(config, method=method)
    trained = train(_training_set(problem), config, observer=observer)
    network = trained.network.to(resolve_device(config.device))
    beliefs, transition = _posterior(problem, trained, network, method)
    return Outcome(
        network=network,
        beliefs=beliefs,
        transition=transition,
        passes=_passes(problem, config, method),
    )


def _training_set(problem: Problem) -> TrainingSet:
    return TrainingSet(
        noisy_images=problem.noisy_images,
        noisy_labels=problem.noisy_labels,
        clean_images=problem.clean_images,
        clean_labels=problem.clean_labels,
        clean_estimates=torch.ones(len(problem.clean_labels), dtype=torch.bool),  # drawn at random, all of them
        num_classes=problem.num_classes,
        votes=problem.votes,
        # With several annotators nobody knows which of them an audited sample's one label is from.
        clean_votes=problem.clean_given[:, None] if problem.votes is None else None,
    )


def _posterior(problem: Problem, trained: Trained, network: TwoHeadNetwork, method: Method) -> tuple[Tensor, Tensor]:
    """(beliefs [N,K], T̂ [K,K] of the original labels)."""
    p = beliefs_of(network, problem.noisy_images)
    given = problem.noisy_labels[:, None]  # [N, 1]
    transition, transitions = trained.transition, trained.transitions
    if _of_corrected(method):
        # Training's T̂ is of the labels as corrected: count what the network believes of the original ones.
        pairs = torch.stack([problem.clean_labels, problem.clean_given], dim=1) if method.pairs else None
        transition = soft_count_transition(p, problem.noisy_labels, problem.num_classes, pairs=pairs)
        transitions = transition[None]
    votes = given if len(transitions) == 1 or problem.votes is None else problem.votes
    tiny = torch.finfo(p.dtype).tiny
    said = log_evidence(transitions.clamp(min=tiny), votes)
    if trained.visits is not None:
        return stacked(p.clamp(min=tiny).log(), trained.visits, said, trained.weights), transition
    return torch.softmax(p.clamp(min=tiny).log() + said, dim=1), transition


def _of_corrected(method: Method) -> bool:
    """Whether training's T̂ is of the labels as corrected, and not of the original ones."""
    return method.noisy_head_labels == "corrected" and not method.counts_bulk


def _passes(problem: Problem, config: TrainConfig, method: Method) -> float:
    settings, count = config.settings(), len(problem.noisy_labels)
    looks = 1 + FORWARD_ONLY * method.evaluation_features  # at each clean sample of a step
    return 1 + looks * settings.clean_batch * steps_per_epoch(count, settings.noisy_batch) / count
