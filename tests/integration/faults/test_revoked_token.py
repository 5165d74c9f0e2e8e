"""The token, revoked while a command uses it: one clear line, and with a new one the next run goes on."""

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.faults.bench import Bench
from tests.integration.faults.proxy import FaultProxy, Rule, meanwhile
from tests.integration.faults.server import KillableServer
from tests.integration.faults.test_bad_answers import IMAGE, IMPORT, PAGE
from tests.integration.faults.world import queued


@pytest.fixture
def new_token(mortal: KillableServer) -> Iterator[list[str]]:
    """Where a new token is put when the old one was revoked; the server's other users are told of it at the end."""
    made: list[str] = []
    yield made
    if made:
        mortal.token = made[-1]


def revoking(mortal: KillableServer, made: list[str]) -> Rule:
    def revoked() -> None:
        headers = {"Authorization": f"Token {made[-1] if made else mortal.token}"}
        answer = httpx.post(f"{mortal.url}/api/current-user/reset-token/", headers=headers)
        made.append(str(answer.raise_for_status().json()["token"]))

    return Rule(toxic=meanwhile(revoked))


@pytest.mark.parametrize("where", [PAGE, IMAGE])
def test_a_pull_whose_token_is_revoked_says_so_and_goes_on_with_a_new_one(
    where: str,
    bench: Bench,
    proxy: FaultProxy,
    mortal: KillableServer,
    new_token: list[str],
    trials: Counter[str],
) -> None:
    home, undisturbed = bench.home(), bench.home()
    bench.complete("pull", undisturbed)
    rule = revoking(mortal, new_token)
    rule.path, rule.nth = where, 3
    with proxy.rule(rule):
        ended = bench.run("pull", home, url=proxy.url, from_disk=False)
    assert "FASTEN_LABEL_STUDIO_TOKEN" in ended.complaint
    assert mortal.token not in ended.err
    mortal.token = new_token[-1]
    bench.complete("pull", home)
    assert bench.pulled(home) == bench.pulled(undisturbed)
    trials["revoked tokens"] += 1


def test_a_push_whose_token_is_revoked_asks_the_rest_with_a_new_one(
    bench: Bench, proxy: FaultProxy, mortal: KillableServer, new_token: list[str], trials: Counter[str]
) -> None:
    base = bench.ready_to_push()
    undisturbed = bench.home(base)
    bench.complete("push", undisturbed, title="token kept")
    rule = revoking(mortal, new_token)
    rule.method, rule.path, rule.nth = "POST", IMPORT, 3
    with proxy.rule(rule):
        ended = bench.run("push", base, title="token revoked", url=proxy.url)
    assert "FASTEN_LABEL_STUDIO_TOKEN" in ended.complaint
    mortal.token = new_token[-1]
    bench.complete("push", base, title="token revoked")
    with mortal.door() as door:
        expected = queued(bench.world, undisturbed, door, "token kept")
        assert queued(bench.world, base, door, "token revoked") == expected
    trials["revoked tokens"] += 1
