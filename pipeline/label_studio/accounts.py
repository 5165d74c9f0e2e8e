"""Signing people up with an open-source Label Studio, which has no API for it that puts them in the organisation.

A user made through `POST /api/users` belongs to no organisation and sees nothing; the invite link and the sign-up form
are what a new colleague would use.
"""

from collections.abc import Mapping

import httpx

from pipeline.errors import ServiceError

TOKEN_PATH = "/api/current-user/token"  # noqa: S105  the path of the page, not a token


def sign_in_or_up(http: httpx.Client, *, email: str, password: str, invite: str) -> tuple[int, str]:
    """User id and API token of `email`, who is signed up with token `invite` unless known already.

    `http` must be a client of its own: the session cookie of the new user stays in it. Raises `ServiceError` where the
    address is taken with another password, or the password is refused (8 characters at least); transport errors pass.
    """
    if not _submit(http, "/user/login/", {}, {"email": email, "password": password}):
        form = {"email": email, "password": password, "allow_newsletters": "", "how_find_us": ""}
        if not _submit(http, "/user/signup/", {"token": invite}, form):
            raise ServiceError(
                f"Label Studio did not sign {email} up; is the address in use with another password, or the password "
                "shorter than 8 characters?"
            )
    user = http.get("/api/current-user/whoami").raise_for_status().json()
    answer = http.get(TOKEN_PATH)
    if answer.is_success:
        return int(user["id"]), str(answer.json()["token"])
    # Legacy tokens can be switched off for the organisation: then a personal access token does the same.
    made = http.post("/api/token/", json={}, headers=_csrf(http)).raise_for_status().json()
    return int(user["id"]), str(made["token"])


def _submit(http: httpx.Client, path: str, params: Mapping[str, str], form: Mapping[str, str]) -> bool:
    """Whether the form was accepted: it answers with a redirect then, and shows itself again where it was not."""
    http.get(path, params=params).raise_for_status()
    return http.post(path, params=params, data=form, headers=_csrf(http)).is_redirect


def _csrf(http: httpx.Client) -> dict[str, str]:
    return {"X-CSRFToken": http.cookies.get("csrftoken") or "", "Referer": str(http.base_url)}
