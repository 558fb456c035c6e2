"""A receiver that echoes forms as JSON and counts, in a process of its own: prints its port, then serves.

Written on asyncio's bare protocol so that it is never the slowest part of what is measured.
"""

import asyncio
import json
import time
from urllib.parse import parse_qs


class Counter:
    """How many IPNs came, and when the first and the last did."""

    count = 0
    first = 0.0
    last = 0.0


class Receiver(asyncio.Protocol):
    """One connection: requests with a Content-Length, one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, rest = self.buffer.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(rest) < length:
                return
            body, self.buffer = rest[:length], rest[length:]
            self.answer(head.split(b" ")[1].decode(), body)

    def answer(self, path: str, body: bytes) -> None:
        """Echo a form; tell the counters when asked."""
        if path in ("/statistics", "/peek"):
            text = json.dumps([Counter.count, Counter.last - Counter.first])
            if path == "/statistics":
                Counter.count = 0
        else:
            now = time.monotonic()
            Counter.first = now if Counter.count == 0 else Counter.first
            Counter.last = now
            Counter.count += 1
            text = json.dumps({name: values[0] for name, values in parse_qs(body.decode()).items()})
        encoded = text.encode()
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(encoded), encoded)
        )


async def main() -> None:
    """Listen on a free port, print it, and serve until terminated."""
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
