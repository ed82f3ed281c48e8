"""Errors of the Hub and its client, turned into one sentence with a remedy and without a token."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from .caches import full_disk

logger = logging.getLogger(__name__)

RETRY_WAITS_S = (2.0, 10.0)
"""Seconds before each further attempt at a request that the client does not repeat by itself, such as a commit."""

HTTP_ERROR = HfHubHTTPError.__bases__[0]
"""Base of all errors of the HTTP library behind the installed version of huggingface_hub."""

# The client raises RuntimeError for any trouble with a large file. A JSONDecodeError means that no Hub answered.
_CLIENT_ERRORS = (OSError, RuntimeError, json.JSONDecodeError, HTTP_ERROR)
_PASSING_STATUSES = (408, 429, 500, 502, 503, 504)

_REASONS = {
    401: "the Hub knows no such token, or wants one (401); log in with `hf auth login` or set HF_TOKEN to a valid one",
    403: "the token may not do that (403); use one with write access there, or name a repository of your own",
    404: "there is no such repository or revision, or the token may not see it (404); check name, revision and token",
    409: "it is there already (409); choose another name",
    412: "somebody else has changed it meanwhile (412); try again",
    429: "the Hub has had too many requests (429); wait some minutes and try again",
}

_SHOWN_CHARS = 1000  # of the client's message, which may quote a name
_Result = TypeVar("_Result")


class HubError(OSError):
    """The Hub refused something or can't be reached; the message names the repository and what to do."""


@contextmanager
def hub_errors(what: str, *, token: str | None = None, remedy: str = "") -> Iterator[None]:
    """Turn every error of huggingface_hub's client into [`HubError`].

    `what`, argument, value and the action that failed, begins the message, `remedy` ends it. Tokens are kept out.

    Example:
    ```python
    >>> with hub_errors("teacher='me/bert' can't be read"):
    ...     raise TimeoutError("no answer")
    Traceback (most recent call last):
    ...
    homodistil_hf.files.hub_errors.HubError: teacher='me/bert' can't be read: TimeoutError: no answer

    ```
    """
    try:
        yield
    except HubError:
        raise
    except _CLIENT_ERRORS as error:
        # `from None`: the client's message may quote a server's answer that quotes the token.
        raise explained(what, error, token=token, remedy=remedy) from None


def explained(what: str, error: BaseException, *, token: str | None = None, remedy: str = "") -> HubError:
    """Return the [`HubError`] for an error of the client, to be raised `from None`; arguments as in [`hub_errors`]."""
    text = f"{what}: {_reason(error)}{f'. {remedy}' if remedy else ''}"
    for secret in filter(None, (token, get_token())):
        text = text.replace(secret, "<token>")
    return HubError(text)


def comes_from_hub(error: BaseException) -> bool:
    """Whether an error is one of the HTTP library or was caused by one."""
    return isinstance(_root(error), HTTP_ERROR)


def persistently(request: Callable[[], _Result]) -> _Result:
    """Make a request, and again after `RETRY_WAITS_S` if the Hub is busy or the connection fails."""
    for wait_s in RETRY_WAITS_S:
        try:
            return request()
        except _CLIENT_ERRORS as error:
            status = _status(error)
            # the status decides where there is one; without any, trouble with the connection may pass
            if not (comes_from_hub(error) if status is None else status in _PASSING_STATUSES):
                raise
            short = status or type(_root(error)).__name__
            logger.warning("the Hub does not answer as it should (%s); trying again in %g s", short, wait_s)
        time.sleep(wait_s)
    return request()


def _root(error: BaseException) -> BaseException:
    """Return the first error of the HTTP library in a chain: huggingface_hub and transformers wrap it in theirs."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HTTP_ERROR):
            return cause
        cause = cause.__cause__
    return error


def _status(error: BaseException) -> int | None:
    root = _root(error)
    return root.response.status_code if isinstance(root, HfHubHTTPError) else None


def _reason(error: BaseException) -> str:
    status, root = _status(error), _root(error)
    if status is not None and isinstance(root, EntryNotFoundError):
        return f"a file is missing there ({status}); choose another repository or revision"
    if status in _REASONS:
        return _REASONS[status]
    if status is not None and status >= 500:
        return f"the Hub is in trouble ({status}); try again later"
    if isinstance(root, json.JSONDecodeError):
        return "the answer is not that of a Hub; check HF_ENDPOINT and the network"
    if status is None and comes_from_hub(error):
        return f"the connection failed ({type(root).__name__}); check network and HF_ENDPOINT, and try again"
    return f"{type(root).__name__}: {' '.join(str(full_disk(root) or root).split())[:_SHOWN_CHARS]}"
