"""The client's end of a connection to a TVM RPC server.

Written here rather than taken from ``tvm.rpc`` for three reasons: every wait and every answer has a limit (that client
waits for ever in C++, out of reach of Ctrl-C), several messages travel together (one round trip a frame instead of
three), and no TVM is needed on this side.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from tsm_edge.errors import RpcError
from tsm_edge.rpc.foreign_text import last_line
from tsm_edge.rpc.handshake import CODE_ACCEPTED, CODE_DUPLICATE, CODE_MISMATCH, shake_hands
from tsm_edge.rpc.place import Endpoint, UnixEndpoint
from tsm_edge.rpc.sockets import Patience, open_socket, reason, receive, send
from tsm_edge.rpc.wire import HEAD, Fault, Packet, read_answer, shutdown_packet


class ConnectionLost(RpcError):
    """The other end closed the connection, or the network did."""


class NoAnswer(RpcError):
    """The other end is silent for longer than the limit."""


class RemoteFault(RpcError):
    """What was called on the other end raised an error."""


class Connection:
    """A session with a TVM RPC server: made by :func:`connect`.

    Attributes
    ----------
    name : str
        Of the other end, for messages.
    greeting : str
        What the server said in the handshake: ``server:KEY``, and from tsm-edge's own server more words.
    """

    def __init__(self, stream: socket.socket, name: str, greeting: str) -> None:
        self._socket = stream
        self.name = name
        self.greeting = greeting

    def close(self) -> None:
        """End the session; closing twice is allowed."""
        try:
            self._socket.settimeout(1.0)
            self._socket.sendall(b"".join(shutdown_packet().framed()))
        except OSError:
            pass  # it is gone already
        finally:
            self._socket.close()

    def exchange(self, packets: Sequence[Packet], limit_s: float) -> list[Any]:
        """Send all packets, then wait for all answers: one round trip.

        Parameters
        ----------
        packets : sequence of Packet
        limit_s : float
            How long the other end may take for all of it, seconds, beside the time that many bytes need on a slow
            network.

        Returns
        -------
        list
            One value a packet: what a function returned, or the bytes of a tensor.

        Raises
        ------
        ConnectionLost, NoAnswer
            The connection is of no more use.
        RemoteFault
            The first error raised on the other end. All answers have been read: the connection goes on.
        RpcError
            An answer is not TVM's, or larger than what was asked for.
        """
        try:
            send(self._socket, [part for packet in packets for part in packet.framed()], Patience(limit_s))
            patience = Patience(limit_s)
            answers = [self._answer(packet, patience) for packet in packets]
        except TimeoutError:
            self._socket.close()
            raise NoAnswer(
                f"{self.name} gives no answer within {limit_s:g} s", "look at the server's output, or restart it"
            ) from None
        except OSError as error:
            self._socket.close()
            raise ConnectionLost(
                f"{self.name}: the connection was lost ({reason(error)})", "look at the server's output"
            ) from None
        except BaseException:
            self._socket.close()  # answers are still under way
            raise
        for answer in answers:
            if isinstance(answer, RemoteFault):
                raise answer
        return answers

    def _answer(self, packet: Packet, patience: Patience) -> Any:
        """The value in the next packet; an error of the other end is returned, too."""
        _acknowledge_at_once(self._socket)
        size, code = HEAD.unpack(receive(self._socket, HEAD.size, patience))
        if not 0 <= size - 4 <= packet.largest_answer:
            raise self._nonsense(f"a packet of {size} bytes")
        body = receive(self._socket, size - 4, patience)
        try:
            answer = read_answer(packet, code, body)
        except ValueError as error:
            raise self._nonsense(str(error)) from None
        if isinstance(answer, Fault):
            return RemoteFault(f"{self.name}: {last_line(answer.text)}", "look at the server's output")
        return answer

    def _nonsense(self, what: str) -> RpcError:
        return RpcError(
            f"{self.name} answers with {what}: another build of TVM's RPC", "install apache-tvm==0.27.0.post1 there"
        )


def connect(endpoint: Endpoint | UnixEndpoint, key: str, limit_s: float, name: str = "") -> Connection:
    """Connect to a server and shake hands.

    Parameters
    ----------
    endpoint : Endpoint or UnixEndpoint
    key : str
        Of the server, or the match key a tracker gave for it.
    limit_s : float
        For connecting, and again for the whole handshake, seconds.
    name : str
        Of the server in messages; by default its address.

    Raises
    ------
    RpcError
        Nothing listens, the host cannot be reached, it does not answer in time, refuses the key, is busy, or is not
        a TVM RPC server.
    """
    name = name or str(endpoint)
    where = f"--unix {endpoint.path}" if isinstance(endpoint, UnixEndpoint) else f"--port {endpoint.port}"
    stream = open_socket(endpoint, limit_s, f"start a server there with: tsm-edge serve {where}")
    try:
        code, greeting = shake_hands(stream, key, Patience(limit_s))
        if code != CODE_ACCEPTED:
            raise _refusal(code, name, key)
    except TimeoutError:
        stream.close()
        raise NoAnswer(
            f"{name} accepts connections but does not answer within {limit_s:g} s: it is busy with another session, "
            "hangs, or is not a TVM RPC server",
            "restart the server there (tsm-edge serve stays responsive where TVM's own does not)",
        ) from None
    except OSError as error:
        stream.close()
        raise RpcError(
            f"{name} ends the connection before the handshake is done ({reason(error)}), expected a TVM RPC server",
            "check host and port",
        ) from None
    except BaseException:
        stream.close()
        raise
    return Connection(stream, name, greeting)


def _refusal(code: int, name: str, key: str) -> RpcError:
    if code == CODE_MISMATCH:
        # The key itself is not told: errors end in logs.
        return RpcError(
            f"{name} does not accept {'this key' if key else 'clients without its key'}",
            "give the one its server was started with: --key K, or none if it has none (a server that a tracker knows: "
            "--tracker HOST:PORT)",
        )
    if code == CODE_DUPLICATE:
        return RpcError(f"{name} is busy with another session", "try again when that has ended")
    return RpcError(f"{name} answers, but not as a TVM RPC server does", "check host and port")


def _acknowledge_at_once(stream: socket.socket) -> None:
    """Do not delay acknowledgements: a server that holds back small packets (Nagle) waits for them, up to 40 ms."""
    if stream.family != socket.AF_UNIX and hasattr(socket, "TCP_QUICKACK"):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
