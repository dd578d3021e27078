"""An MLLP listener that does as little as a RIS can: reads to the end of the frame, answers AA."""

from __future__ import annotations

import socket
import sys
import threading


def main() -> None:
    """Print the port and serve until terminated."""
    server = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{server.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = bytearray()
    with connection:
        while piece := connection.recv(1 << 20):
            data += piece
            if not data.endswith(b"\x1c\r"):
                continue
            control_id = data[1:400].split(b"\r", 1)[0].split(b"|")[9]
            connection.sendall(
                b"\x0bMSH|^~\\&|RIS|BENCH|MILVUE_GATEWAY|MILVUE|20260101000000||ACK^R01^ACK|1|P|2.5.1"
                b"\rMSA|AA|" + control_id + b"\r\x1c\r"
            )
            data.clear()


if __name__ == "__main__":
    main()
