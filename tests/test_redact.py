"""Passwords in camera addresses are not shown."""

from __future__ import annotations

import pytest

from tsm_edge.redact import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:s3cret@10.0.0.2:554/ch1", "rtsp://admin:***@10.0.0.2:554/ch1"),
        ("stream http://u:s3cret@h/x: no video there", "stream http://u:***@h/x: no video there"),
        ("rtsp://:s3cret@h/x", "rtsp://:***@h/x"),
        ("'rtsp://u:it's3cret@h/x'", "'rtsp://u:***@h/x'"),
        ("rtsp://u:s3cret/s3cret@h/x", "rtsp://u:***@h/x"),
        ("rtsp://u:s3cret@s3cret/s3cret@h:554/x", "rtsp://u:***@h:554/x"),
        (
            "rtsp://h/user=admin&password=s3cret&channel=1&stream=0.sdp?",
            "rtsp://h/user=admin&password=***&channel=1&stream=0.sdp?",
        ),
        ("http://h:80/snap.cgi?user=a&pwd=s3cret#top", "http://h:80/snap.cgi?user=a&pwd=***#top"),
        ("https://h/live.m3u8?access_token=s3cret&b=1", "https://h/live.m3u8?access_token=***&b=1"),
        ("stream http://h/x?pwd=s3cret: no video there", "stream http://h/x?pwd=***: no video there"),
        ("rtspsrc location=rtsp://u:s3cret@h ! appsink", "rtspsrc location=rtsp://u:***@h ! appsink"),
        ('rtspsrc user-id=admin user-pw="s3cret s3cret" ! appsink', "rtspsrc user-id=admin user-pw=*** ! appsink"),
    ],
)
def test_passwords_are_hidden_and_the_rest_stays(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://camera.local/ch1",
        "rtsp://guest@camera.local:554/ch1",
        "http://h:8080/@live",
        "rtsp://[::1]:554/@live",
        "video a:b@c.mp4",
        "deploy to pi@host:folder",
    ],
)
def test_what_has_no_password_is_not_touched(text: str) -> None:
    assert redacted(text) == text
