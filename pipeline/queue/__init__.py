"""The reviewers' queue: questions go into the review project once each, the most valuable first, and stay true there.

Label Studio enforces no unique keys, commits after a client has given up waiting, counts silently, and tells nobody
which tasks people have open; so every question has a deterministic key (`keys`), keys are looked up right before they
are sent and again after every answer that was lost (`adding`), a question that a newer model would ask otherwise is
changed where it is, one that it would not ask is first served no longer and removed a day later (`changes` says what
is to be done, `changing` does it), and what was counted is compared with what was sent.

One push at a time on one machine, whichever workspaces (`one_push`). On several machines nothing but the schedule keeps
pushes apart; what two of them have both asked is found by its key after the next one, and asked once (`duplicates`).
"""

from pipeline.queue.adding import CHUNK, SETTLE_PAUSES_S, PushReport, QueueDoor, push
from pipeline.queue.changes import (
    ACTIONS,
    WITHDRAWN_AFTER,
    Action,
    Change,
    changes_of,
    duplicates,
    is_ours,
    would_differ,
)
from pipeline.queue.changing import RetiringDoor, carry_out, retire
from pipeline.queue.keys import MOST_TIE_BREAKS, kinds_of_key, push_key
from pipeline.queue.one_push import one_push
from pipeline.queue.payload import QUEUE_MODEL_VERSION, check_payloads, payload_of

__all__ = [
    "ACTIONS",
    "CHUNK",
    "MOST_TIE_BREAKS",
    "QUEUE_MODEL_VERSION",
    "SETTLE_PAUSES_S",
    "WITHDRAWN_AFTER",
    "Action",
    "Change",
    "PushReport",
    "QueueDoor",
    "RetiringDoor",
    "carry_out",
    "changes_of",
    "check_payloads",
    "duplicates",
    "is_ours",
    "kinds_of_key",
    "one_push",
    "payload_of",
    "push",
    "push_key",
    "retire",
    "would_differ",
]
