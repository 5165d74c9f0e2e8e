"""MLflow's errors become ours, in one line without secrets."""

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    UNAUTHENTICATED,
)

from pipeline.errors import ServiceError, ServiceUnavailable
from pipeline.tracking.failures import translated, without_credentials


@pytest.mark.parametrize(
    ("code", "retry"),
    [
        (INTERNAL_ERROR, True),
        (REQUEST_LIMIT_EXCEEDED, True),
        (INVALID_PARAMETER_VALUE, False),
        (RESOURCE_DOES_NOT_EXIST, False),
    ],
)
def test_only_what_may_pass_is_worth_a_retry(code: int, retry: bool) -> None:
    with pytest.raises(ServiceError, match="log metrics") as caught, translated("log metrics", "http://h"):
        raise MlflowException("first line\nsecond line", error_code=code)
    assert isinstance(caught.value, ServiceUnavailable) is retry
    assert "\n" not in str(caught.value)


def test_a_refused_login_names_the_variables_to_set() -> None:
    with pytest.raises(ServiceError, match="MLFLOW_TRACKING_USERNAME") as caught, translated("start a run", "http://h"):
        raise MlflowException("no", error_code=UNAUTHENTICATED)
    assert not isinstance(caught.value, ServiceUnavailable)


@pytest.mark.parametrize(("status", "retry"), [(None, True), (503, True), (404, False)])
def test_errors_of_an_upload_are_judged_by_their_status(status: int | None, retry: bool) -> None:
    error = OSError("upload failed")
    if status is not None:
        error.response = type("Response", (), {"status_code": status})()  # type: ignore[attr-defined]
    with pytest.raises(ServiceError) as caught, translated("log a file", "http://h"):
        raise error
    assert isinstance(caught.value, ServiceUnavailable) is retry


def test_an_answer_that_is_not_mlflows_asks_for_the_address_and_is_not_quoted() -> None:
    answer = "API request to endpoint /api/2.0/x failed with error code 404 != 200. Response body: '<!doctype html>'"
    with pytest.raises(ServiceError, match="point at MLflow") as caught, translated("look up a run", "http://h"):
        raise MlflowException(answer, error_code=RESOURCE_DOES_NOT_EXIST)
    assert "html" not in str(caught.value)


def test_passwords_are_taken_out_of_addresses() -> None:
    text = "see https://me:hunter2@host/a and s3://key:secret@bucket, mail me@host"
    assert without_credentials(text) == "see https://host/a and s3://bucket, mail me@host"


def test_our_own_errors_pass_unchanged() -> None:
    with pytest.raises(ServiceError, match=r"^as it was$"), translated("anything", "http://h"):
        raise ServiceError("as it was")
