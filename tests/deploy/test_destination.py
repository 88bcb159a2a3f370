"""What may be written as a destination over ssh."""

from __future__ import annotations

import pytest

from tsm_edge.deploy.destination import SshDestination, parse_destination
from tsm_edge.errors import DeployError


@pytest.mark.parametrize(
    ("text", "destination"),
    [
        ("pi", SshDestination("pi")),
        ("pi@10.0.0.2:", SshDestination("pi@10.0.0.2")),
        ("pi@board:/opt/a b", SshDestination("pi@board", "/opt/a b")),
        ("pi@board:~/models/x", SshDestination("pi@board", "models/x")),
        ("pi@fe80::1", SshDestination("pi@fe80::1")),
        ("ssh://pi@board", SshDestination("pi@board")),
        ("ssh://pi@board:2222", SshDestination("pi@board", port=2222)),
        ("ssh://Board:/opt/a%20b/", SshDestination("Board", "/opt/a b")),
        ("ssh://pi@[fe80::1]:22/~/models/x", SshDestination("pi@fe80::1", "models/x", port=22)),
        ("pi@board:./2222", SshDestination("pi@board", "./2222")),
        ("pi@board:2222nd", SshDestination("pi@board", "2222nd")),
        ("pi@[fe80::1]:x", SshDestination("pi@fe80::1", "x")),
        ("[::1]", SshDestination("::1")),
        ("pi@board:~root/x", None),
        ("-oProxyCommand=x", None),
        ("@board", None),
        ("pi@", None),
        ("", None),
        ("[::1", None),
        ("my board:x", None),
        ("board:x\ny", None),
        ("pi@board:2222", None),
        ("board:2222/models", None),
        ("[::1]:22", None),
        ("ssh://", None),
        ("ssh://board:0", None),
        ("ssh://board:65536", None),
        ("ssh://board:x", None),
        ("ssh://pi:secret@board", None),
        ("ssh://-oProxyCommand=x", None),
        ("ssh://board/a%0ab", None),
        ("ssh://a b", None),
    ],
)
def test_destinations(text: str, destination: SshDestination | None) -> None:
    if destination is not None:
        assert parse_destination(text) == destination
    else:
        with pytest.raises(DeployError):
            parse_destination(text)


def test_a_port_that_may_be_a_folder_is_asked_back() -> None:
    with pytest.raises(DeployError) as problem:
        parse_destination("root@[::1]:2222/models")
    assert str(problem.value) == (
        "'root@[::1]:2222/models': 2222 may be a port or a folder; "
        "for the port: ssh://root@[::1]:2222/~/models, for the folder: root@[::1]:./2222/models"
    )


def test_a_password_is_not_repeated() -> None:
    for text in ("ssh://pi:secret@board", "ssh://pi:secret@board:x"):
        with pytest.raises(DeployError, match="a password is not taken; put a key there with: ssh-copy-id") as problem:
            parse_destination(text)
        assert "secret" not in str(problem.value)
