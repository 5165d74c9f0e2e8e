"""The embedded stack, with its real servers."""

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from tests.integration.conftest import LabelStudioServer


def test_label_studio_fixture_accepts_its_token(label_studio: "LabelStudioServer") -> None:
    answer = httpx.get(
        f"{label_studio.url}/api/current-user/whoami", headers={"Authorization": f"Token {label_studio.token}"}
    )
    assert answer.json()["email"] == label_studio.username
