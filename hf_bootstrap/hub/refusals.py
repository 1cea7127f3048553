"""What the Hub's refusals mean: which of them pass, and in words what failed and what to do.

How long to wait for those that pass is the business of `patience`.
"""

import json
import re
import traceback
from typing import Any

from ..errors import HubError

__all__ = [
    "PASSING",
    "failures",
    "is_ours",
    "is_passing",
    "retry_after",
    "root_of",
    "showable",
    "without_secrets",
    "wrong",
]

# What may be over the next time: asked too often, a server in trouble, a head that moved, another commit under way.
PASSING = {408, 409, 412, 429, 500, 502, 503, 504}


def retry_after(headers: Any) -> float | None:
    """The seconds a refusal asks for, or None."""
    text = headers.get("retry-after") or ""
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    limited = re.search(r"\br=0;.*?\bt=(\d{1,9})", headers.get("ratelimit") or "")
    return None if limited is None else float(limited[1])


def failures() -> tuple[type[Exception], ...]:
    """What the client raises when the Hub is away, refuses, or answers in no language we know.

    The errors of its HTTP library are known by the base of its own, whichever library this release has. RuntimeError
    wraps what happened to one large file; ValueError, KeyError and TypeError are answers that do not parse, and names
    and cards that were refused. `Patience.after` raises them again where they come from our own code.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, HfHubHTTPError, OSError, RuntimeError, ValueError, KeyError, TypeError)


def is_ours(error: BaseException) -> bool:
    """Whether an error that the client may raise comes from a mistake in this library."""
    trace, module = error.__traceback__, ""
    while trace is not None:
        module, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return isinstance(error, ValueError | KeyError | TypeError) and module.partition(".")[0] == "hf_bootstrap"


def is_passing(error: BaseException) -> tuple[bool, float | None]:
    """Whether trying again may help, and the seconds the Hub asks to wait."""
    from huggingface_hub import errors

    error = root_of(error)
    if isinstance(error, errors.LocalTokenNotFoundError | errors.OfflineModeIsEnabled | HubError):
        return False, None
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code in PASSING, retry_after(response.headers)
    if isinstance(error, (*errors.HfHubHTTPError.__bases__, TimeoutError, ConnectionError)) and not _is_local(error):
        return True, None
    if isinstance(error, OSError):
        return "Consistency check failed" in str(error), None  # an answer that broke off
    # An answer that is not the JSON it should be: a proxy's page. What it was an answer to may have been done.
    return isinstance(error, json.JSONDecodeError | KeyError | TypeError), None


def _is_local(error: BaseException) -> bool:
    """Whether this is about a file of this machine: OSError is a base of the client's errors and of everything else."""
    return type(error) is OSError or getattr(error, "filename", None) is not None


def root_of(error: BaseException) -> BaseException:
    """What happened, from under the errors that the client puts around it."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def wrong(error: BaseException, what: str) -> HubError:
    """The error to raise for one of the client's: what failed, and what to do.

    Its cause is kept, except where that shows a token.
    """
    root = root_of(error)
    if isinstance(root, HubError):
        return root
    status = getattr(getattr(root, "response", None), "status_code", None)
    told = without_secrets(" ".join(str(root).split()) or type(root).__name__)
    found = HubError(f"{what} failed: {told[:600]} {_advice(root, status)}")
    found.__cause__ = showable(error)
    found.__suppress_context__ = True
    return found


def _advice(error: BaseException, status: int | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        return "Log in with `hf auth login` (or check that the token there is still valid), then run this again."
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return "Unset HF_HUB_OFFLINE to reach the Hub."
    if isinstance(error, errors.RevisionNotFoundError):
        return "Check the name of the revision."
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return "Check the name <user>/<repository>; if it is private, log in with `hf auth login`."
    if status == 403:
        return (
            "This login may not do that there: to push, use a token with write access and a namespace of yours; to "
            "fetch, one that was given access."
        )
    if "metadata in README.md" in str(error):
        return "Correct the block between the --- lines at the top of README.md; nothing was sent."
    if status in (400, 413, 422):
        return "The Hub refuses the request as it is, and would again. Nothing was changed there."
    if getattr(error, "filename", None) is not None:
        return "Check the file and its permissions."
    if status is not None and status in PASSING:
        return "The Hub is busy or in trouble; run the same command again later."
    return "Check the network and HF_ENDPOINT, then run this again."


def showable(error: BaseException) -> BaseException | None:
    """The error as a cause, or None where it, or what led to it, shows a token when it is printed."""
    told = "".join(traceback.format_exception(error))
    return error if without_secrets(told) == told else None


def without_secrets(text: str) -> str:
    """The text with the login's token, and whatever looks like one, blotted out."""
    from huggingface_hub import get_token

    token = get_token()
    if token:
        text = text.replace(token, "<token>")
    return re.sub(r"\b(hf|api_org)_[A-Za-z0-9]{20,}", "<token>", text)
