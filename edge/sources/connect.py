"""Opening a stream of the network with PyAV (FFmpeg), and what it means when that fails."""

from __future__ import annotations

import time
from typing import Any

from edge.errors import InputError, UsageError, missing_package, nearest
from edge.sources import Refused
from edge.sources.lookup import look_up
from edge.sources.url import Url


def pyav() -> Any:
    """
    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import av
        import av.error
        import av.video.reformatter
    except ImportError:
        raise missing_package("av", "feeds", "a stream of the network") from None
    return av


def connect(av: Any, url: Url) -> Any:
    """An open container of PyAV.

    Raises:
        Refused: it answers, but there is nothing for us.
        InputError: nothing answers, or with something else.
        UsageError: there is no such decoder.
    """
    settings = url.settings
    look_up(url.host, settings["open_timeout"], url.absent.shown)
    timeout = (settings["open_timeout"], settings["read_timeout"])
    hwaccel = _hwaccel(settings["decoder"], url.absent.shown)
    for options in _options(url):
        start = time.monotonic()
        try:
            return av.open(url.full, options=options, timeout=timeout, hwaccel=hwaccel)
        except (OSError, ValueError, av.error.FFmpegError) as e:
            error = _refusal(av.error, e, url, time.monotonic() - start)
            again = isinstance(e, av.error.HTTPOtherClientError)
        if not again:
            break
    raise error  # here, where FFmpeg's own error, with the password in it, is not its context


def _options(url: Url) -> list[dict[str, str]]:
    """What to ask FFmpeg for, and what next where the server has nothing to play then."""
    if url.scheme not in ("rtsp", "rtsps"):
        return [{"analyzeduration": "1000000", "overrun_nonfatal": "1"}]
    # Pictures tell their own size: nothing has to be looked at beforehand.
    options = {"analyzeduration": "0", "probesize": "32", "max_delay": "100000"}
    options["rtsp_transport"] = url.settings["transport"]
    return [options | {"allowed_media_types": "video+data"}, options]


def _hwaccel(name: str, shown: str) -> Any:
    if not name:
        return None
    from av.codec.hwaccel import HWAccel, hwdevices_available

    known = hwdevices_available()
    if name not in known:
        raise UsageError(
            f"{shown}: no decoder '{name}'", "this FFmpeg does not have it", nearest(name, known)
        )
    return HWAccel(device_type=name, allow_software_fallback=False)


def _refusal(errors: Any, error: Exception, url: Url, seconds: float) -> InputError:
    """What an attempt that failed after so many seconds means."""
    what, decoder = f"cannot open {url.absent.shown}", url.settings["decoder"]
    if isinstance(error, errors.HTTPUnauthorizedError | errors.HTTPForbiddenError):
        why = "user name and password are wrong" if url.has_user else "it asks for user name and password"
        fix = f"write {url.scheme}://USER:PASSWORD@host/…, special characters percent-encoded"
        return Refused(what, why, fix)
    if isinstance(error, errors.HTTPNotFoundError):
        return InputError(what, "there is no such stream (404)", "check the path")
    if isinstance(error, errors.LookupError):  # a protocol, format or decoder
        return Refused(what, reason(error), "see what this FFmpeg has: edge doctor")
    if seconds >= url.settings["open_timeout"]:
        why = f"it did not answer within {url.settings['open_timeout']:g} s"
        return InputError(what, why, "check host, port and network")
    if decoder and not isinstance(error, errors.HTTPError | ConnectionError):
        return Refused(what, f"decoder '{decoder}': {reason(error)}", "leave out decoder=")
    return InputError(what, reason(error), "check host, port and path")


def reason(error: Exception) -> str:
    """FFmpeg's words, without the address that it appends."""
    return str(getattr(error, "strerror", None) or type(error).__name__)
