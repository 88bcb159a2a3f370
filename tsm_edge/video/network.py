"""Opens the address of a stream, with bounded waits, and says what answered when that was not a video."""

from __future__ import annotations

import socket
import time
from urllib.parse import SplitResult, urlsplit

from tsm_edge.errors import VideoError
from tsm_edge.redact import redacted
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.decoder import Decoder, chosen_stream
from tsm_edge.video.ffmpeg import load_ffmpeg

# Lost packets of a camera on UDP are broken pictures: TCP is tried first.
_OPTIONS = {"rtsp_flags": "prefer_tcp"}
_CHECK = "check the address in a browser or player, and that this machine can reach it"


def open_url(url: str, options: SourceOptions) -> Decoder:
    """Open a stream; waits at most ``open_timeout_s``, and later at most ``read_timeout_s`` for each frame.

    Raises
    ------
    VideoError
        Nothing answers there, or what answers is no video: the message says which.
    """
    av = load_ffmpeg(options)
    began_s = time.monotonic()
    waits = (options.open_timeout_s, options.read_timeout_s)
    try:
        container = av.open(url, container_options=_OPTIONS, timeout=waits, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        waited_s = time.monotonic() - began_s
        timed_out = waited_s >= 0.9 * options.open_timeout_s
        # Not "from error": FFmpeg's has the address with its password.
        raise _refusal(url, error, options.open_timeout_s, timed_out) from None
    stream = chosen_stream(container, f"stream {redacted(url)}")
    return Decoder(container, stream, live=container.duration is None)


def has_an_end(decoder: Decoder) -> bool:
    """Whether an opened address is a file that somebody serves, and not a live stream."""
    return decoder.duration_s is not None or bool(decoder.frame_count)


def _refusal(url: str, error: Exception, timeout_s: float, timed_out: bool) -> VideoError:
    where = f"stream {redacted(url)}: no video could be opened there"
    if timed_out:
        return VideoError(f"{where} within {timeout_s:g} s: no answer", _CHECK)
    why, hint = _answer(url, error)
    return VideoError(f"{where}: {why}", hint)


def _answer(url: str, error: Exception) -> tuple[str, str]:
    """Say in words what FFmpeg met, and what to try."""
    import av

    address = _parts(url)
    if isinstance(error, av.error.HTTPUnauthorizedError):
        if "@" in address.netloc:
            return "this user name or password is not accepted (401)", "check both"
        return (
            "it asks for a user name and password (401)",
            f"try: {address.scheme}://USER:PASSWORD@{address.netloc}{address.path}",
        )
    if isinstance(error, av.error.HTTPForbiddenError):
        return "access is forbidden (403)", "check what this user may see there"
    if isinstance(error, av.error.HTTPNotFoundError):
        return "there is nothing at this path (404)", "check the part of the address after the host"
    if isinstance(error, av.error.HTTPServerError):
        return "the server failed (an answer of 500 or more)", "try again later"
    if isinstance(error, av.error.HTTPClientError):
        return "the server refuses the request (an answer of 400 or more)", _CHECK
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there", "check the port, and that the camera or server is running"
    if isinstance(error, av.error.ProtocolNotFoundError):
        return f"{address.scheme}:// is no protocol that FFmpeg knows", "try: rtsp://… or http://…"
    if isinstance(error, av.error.InvalidDataError):
        return "what answers is no video", "open the address in a browser: it may be a page with a video in it"
    if address.hostname and not _is_known(address.hostname):
        return f"the host {address.hostname} is not known", "check its name"
    return f"{getattr(error, 'strerror', None) or error}", _CHECK


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # brackets that do not match
        return urlsplit("")


def _is_known(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
