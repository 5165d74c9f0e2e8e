"""cleanlab's two ways to say which labels to look at (Northcutt et al., JAIR 2021; Goh and Mueller, 2023: ActiveLab).

Both get the labels as they are now, decided ones included, and p of every sample; decided samples are then passed over.
"""

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from cleanlab.multiannotator import get_active_learning_scores
from cleanlab.rank import get_label_quality_scores
from torch import Tensor

from benchmarks.review_loop.ledger import Ledger
from benchmarks.review_loop.looks import Look
from benchmarks.review_loop.pool import Pool


def issue_ranking(_: Pool, __: Ledger, look: Look) -> Tensor:
    """int64 [N]: what `find_label_issues` finds, by self-confidence; then all others by label quality."""
    labels, p = look.labels.numpy(), _probabilities(look)
    # One process: the library's pool of workers would copy the whole program.
    issues = find_label_issues(labels, p, return_indices_ranked_by="self_confidence", n_jobs=1)
    rest = np.argsort(get_label_quality_scores(labels, p, method="self_confidence"), kind="stable")
    return torch.from_numpy(np.concatenate([issues, rest[~np.isin(rest, issues)]]).astype(np.int64))


def active_learning_scores(pool: Pool, ledger: Ledger, look: Look) -> Tensor:
    """int64 [N] by ActiveLab, the lowest score first.

    The reviewers are one annotator, who has answered where a sample is decided; those of the bulk are the others, taken
    for one where nobody is told apart.
    """
    said = ledger.decided.double()
    said[ledger.open] = torch.nan
    bulk = pool.given[:, None] if pool.votes is None else pool.votes
    votes = torch.cat([bulk.double().masked_fill(bulk < 0, torch.nan), said[:, None]], dim=1).numpy()
    scores, _ = get_active_learning_scores(votes, _probabilities(look))
    return torch.from_numpy(np.argsort(scores, kind="stable"))


def _probabilities(look: Look) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """p [N,K], its rows summing to 1 as exactly as the library wants."""
    p = look.p.double().clamp(min=1e-12)
    found: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = (p / p.sum(dim=1, keepdim=True)).numpy()
    return found
