"""Which snapshots runs of MLflow refer to, and which of them a champion came from."""

from types import SimpleNamespace
from typing import Any, cast

from mlflow.tracking import MlflowClient

from pipeline.tracking.references import snapshot_uses


class _Page(list[Any]):
    token = None


class Client:
    """One run, from which the model was registered twice; people can do that by hand."""

    def search_experiments(self, **_: Any) -> _Page:
        return _Page([SimpleNamespace(experiment_id="1")])

    def search_runs(self, **_: Any) -> _Page:
        info = SimpleNamespace(run_id="r1", run_name="a round", status="FINISHED", start_time=1)
        return _Page(
            [SimpleNamespace(info=info, data=SimpleNamespace(tags={"fasten.snapshot_id": "abcd"}), inputs=None)]
        )

    def search_model_versions(self, **_: Any) -> _Page:
        return _Page([SimpleNamespace(run_id="r1", version=number) for number in ("1", "2")])

    def get_registered_model(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(aliases={"champion": "1", "challenger": "2"})


def test_every_alias_counts_of_a_run_whose_model_was_registered_twice() -> None:
    (use,) = snapshot_uses(cast(MlflowClient, Client()), "fasten")
    assert (use.snapshot_id, use.run_id) == ("abcd", "r1")
    assert set(use.aliases) == {"champion", "challenger"}
