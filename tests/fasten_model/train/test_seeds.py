"""Random numbers as a function of (seed, purpose, step)."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fasten_model.train.seeds import derived_seed, generator

purposes = st.lists(st.one_of(st.sampled_from(["noisy", "clean", "layers"]), st.integers(0, 10**6)), max_size=3)


@given(st.integers(), purposes, st.integers(), purposes)
def test_each_seed_and_purpose_has_numbers_of_its_own(
    seed: int, purpose: list[str | int], other: int, other_purpose: list[str | int]
) -> None:
    one, two = derived_seed(seed, *purpose), derived_seed(other, *other_purpose)
    assert 0 <= one < 2**63
    assert (one == two) == ((seed, purpose) == (other, other_purpose))


def test_a_seed_is_the_same_on_every_machine_and_in_every_version() -> None:
    """Or a checkpoint would go on with other batches."""
    assert derived_seed(0, "noisy order", 3) == 5181759222332462296


def test_asking_twice_gives_the_same_and_leaves_torchs_own_generator_alone() -> None:
    before = torch.get_rng_state()
    one, two = (torch.rand(5, generator=generator(7, "crop", 1)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)
