"""How long we wait for a busy Hub, said aloud and bounded, the waits that the client makes by itself among them.

What is sent and fetched is the business of `push` and `pull`, what a refusal means that of `refusals`.
"""

import contextlib
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import HubError
from .refusals import PASSING, is_ours, is_passing, retry_after, showable, without_secrets, wrong
from .watching import watched

__all__ = ["Patience", "Say"]

Say = Callable[[str], None]
_LOG = logging.getLogger("hf_bootstrap")
# The client's own waits between two tries of one request grow to this.
_CLIENT_WAIT = 8.0
_BUSY = "another conflicting operation is in progress"
# Seconds for a connection, and of silence on one; the client itself would wait for ever.
_CONNECTING, _SILENCE = 10.0, 120.0


class Patience:
    """Seconds that may be spent waiting, in all; waits are told, and one that does not fit is an error.

    Args:
        seconds: for all waits together; transfers do not count.
        say: is handed a sentence before each wait; logged as a warning by default.
    """

    def __init__(self, seconds: float, say: Say | None = None) -> None:
        self.seconds = seconds
        self.spent = 0.0
        self.tries = 0
        self._say = say or _LOG.warning
        self._repeats: dict[str, int] = {}  # request -> how often it was refused or broke
        self._asked: dict[str, float] = {}  # request that has no answer yet -> when it was sent

    def say(self, sentence: str) -> None:
        """Tell the user something, without any token in it."""
        self._say(without_secrets(sentence))

    def wait(self, reason: str, asked: float | None = None) -> None:
        """Wait as long as the Hub asked, or else longer each time, with jitter so that rivals part.

        Raises:
            HubError: the wait does not fit into what is left.
        """
        self.tries += 1
        seconds = min(2.0**self.tries, 30.0) * random.uniform(0.25, 0.5) if asked is None else asked
        self._spend(seconds, reason)
        self.say(f"{reason} Waiting {seconds:.1f} s {self._account()}.")
        time.sleep(seconds)

    def after(self, error: Exception, what: str) -> None:
        """Wait after a failure that may pass.

        Raises:
            HubError: it will not pass, or the wait does not fit; `what` is the beginning of its message.
        """
        if is_ours(error):
            raise error
        told = wrong(error, what)
        passing, asked = is_passing(error)
        if not passing:
            raise told from told.__cause__
        for request, since in self._asked.items():
            if not request.startswith("PUT "):
                self._spend(time.monotonic() - since, str(told))
        self._asked.clear()
        self.wait(str(told), asked)

    def _account(self) -> str:
        return f"({self.spent:.0f} of at most {self.seconds:.0f} s)"

    def _spend(self, seconds: float, reason: str) -> None:
        if self.spent + seconds > self.seconds:
            now = sys.exception()
            raise HubError(
                f"{without_secrets(reason)} It would take {seconds:.0f} s of waiting on top of {self.spent:.0f} s, "
                f"and {self.seconds:.0f} s are allowed. Run the same command again later, or allow more with patience="
                "; what has landed is not sent twice."
            ) from (None if now is None else showable(now))
        self.spent += seconds

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count the waits that huggingface_hub makes inside one call, which by itself obeys any Retry-After.

        In this context its requests and their answers are looked at as they go; one that asks for more than is left
        ends the call with a `HubError`. Of a connection that broke we learn when the client, after a wait of up to
        8 s that it logs itself, asks again: by so much the bound may be passed.
        """
        self._repeats.clear()
        self._asked.clear()
        with watched(self._ask, self._look):
            yield

    def _ask(self, request: Any) -> None:
        """A request is about to be sent: one that waits for an answer already broke, and the client tried again."""
        name = f"{request.method} {request.url}"
        left = max(self.seconds - self.spent, 1.0)
        usual = {"connect": _CONNECTING, "read": min(_SILENCE, left / 2), "write": _SILENCE, "pool": None}
        given = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {
            kind: seconds if given.get(kind) is None else given[kind] for kind, seconds in usual.items()
        }
        since = self._asked.get(name)
        now = self._asked[name] = time.monotonic()
        if since is None:
            return
        self._repeats[name] = self._repeats.get(name, -1) + 1
        waited = min(2.0 ** self._repeats[name], _CLIENT_WAIT)
        if request.method != "PUT":  # what a large file took before it broke off was no wait
            waited = max(waited, now - since)
        self._spend(waited, f"The connection broke at {request.method} {request.url.path}.")
        self.say(f"The connection to the Hub broke; the client waited {waited:.0f} s {self._account()}.")

    def _look(self, response: Any) -> None:
        status = int(response.status_code)
        path = response.request.url.path
        name = f"{response.request.method} {response.request.url}"
        self._asked.pop(name, None)
        if status == 409 and path.endswith("/repos/create"):
            response.read()
            if _BUSY in response.text:  # the client asks again at once, for ever
                self.wait("The Hub is making another repository for this user.")
        elif status in PASSING - {409, 412} and "/commit/" not in path:  # the one request that it does not repeat
            asked = retry_after(response.headers)
            self._repeats[name] = self._repeats.get(name, -1) + 1
            wait = min(2.0 ** self._repeats[name], _CLIENT_WAIT) if asked is None else asked + 1
            self._spend(wait, f"The Hub answered {status} to {response.request.method} {path}.")
            self.say(f"The Hub answered {status}; the client waits up to {wait:.0f} s {self._account()}.")
