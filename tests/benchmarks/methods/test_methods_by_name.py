"""The registry: what `--methods` may name."""

import pytest

from benchmarks.methods import METHODS, ce, confident_learning, fasten


def test_every_table_of_the_paper_can_be_made() -> None:
    papers = ["l2rw", "mw-net", "deep-knn", "glc", "mloc", "mlc", "mslc", "fasten-paper"]
    assert set(papers) | {"ce", "ce-clean", "cleanlab", "fasten"} == set(METHODS)
    assert len(METHODS) == 12


def test_a_name_is_a_function() -> None:
    assert METHODS["ce"] is ce.run
    assert METHODS["cleanlab"] is confident_learning.run
    assert METHODS["fasten-paper"] is fasten.run_paper
    assert METHODS["fasten"] is fasten.run


def test_an_unknown_name_is_none() -> None:
    assert "dividemix" not in METHODS
    with pytest.raises(KeyError):
        METHODS["dividemix"]
