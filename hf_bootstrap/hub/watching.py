"""Who looks at the requests that huggingface_hub sends and at their answers; what they think of them is theirs.

The client makes itself a new session where a connection was refused, so it is not enough to look at the one it has.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["watched"]

_Look = Callable[[Any], None]
_LOCK = threading.Lock()
_WATCHERS: tuple[tuple[_Look, _Look], ...] = ()


@contextlib.contextmanager
def watched(asked: _Look, answered: _Look) -> Iterator[None]:
    """Show every request before it is sent, and every answer before the client reads it.

    The client has one session for the whole process: what other threads ask it meanwhile is shown too. What a
    watcher raises ends the request.
    """
    global _WATCHERS
    watcher = (asked, answered)
    with _LOCK:
        if not _WATCHERS:
            _install()
        _WATCHERS = (*_WATCHERS, watcher)
    try:
        yield
    finally:
        with _LOCK:
            _WATCHERS = tuple(one for one in _WATCHERS if one is not watcher)
            if not _WATCHERS:
                _remove()


def _on_request(request: Any) -> None:
    for asked, _ in _WATCHERS:
        asked(request)


def _on_response(response: Any) -> None:
    for _, answered in _WATCHERS:
        answered(response)


def _attach(session: Any) -> Any:
    for kind, hook in (("request", _on_request), ("response", _on_response)):
        if hook not in session.event_hooks[kind]:
            session.event_hooks[kind].append(hook)
    return session


_usual_factory: Callable[[], Any] | None = None


def _watched_factory() -> Any:
    assert _usual_factory is not None
    return _attach(_usual_factory())


def _install() -> None:
    # `set_client_factory` would close the session under whoever uses it now, and nothing tells the factory that is
    # set; so the name it sets is set here. Without that name only the present session is watched.
    global _usual_factory
    from huggingface_hub import get_session
    from huggingface_hub.utils import _http

    _attach(get_session())
    _usual_factory = getattr(_http, "_GLOBAL_CLIENT_FACTORY", None)
    if _usual_factory is not None:
        _http._GLOBAL_CLIENT_FACTORY = _watched_factory


def _remove() -> None:
    from huggingface_hub import get_session
    from huggingface_hub.utils import _http

    if _usual_factory is not None and getattr(_http, "_GLOBAL_CLIENT_FACTORY", None) is _watched_factory:
        _http._GLOBAL_CLIENT_FACTORY = _usual_factory
    hooks = get_session().event_hooks
    for kind, hook in (("request", _on_request), ("response", _on_response)):
        if hook in hooks[kind]:
            hooks[kind].remove(hook)
