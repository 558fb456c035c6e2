"""The program as a process: the service and its end, the demo, and what only a real shell can pass."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from tests.service_process import ServiceProcess

DEMO_LIMIT_S = 15.0
STOP_LIMIT_S = 5.0


def lightipn(
    *arguments: str | bytes, folder: Path, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIGHTIPN_")}
    return subprocess.run(
        [sys.executable, "-m", "lightipn", *arguments],
        cwd=folder,
        env=environment | {"LIGHTIPN_NETWORK": "regtest"},
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
async def test_service_runs_once_and_ends_on_sigterm(tmp_path: Path) -> None:
    """The service makes its first key, refuses a second one beside it, and ends cleanly within five seconds."""
    service = ServiceProcess(
        tmp_path, {"LIGHTIPN_NETWORK": "regtest", "LIGHTIPN_ELECTRUM_SERVERS": "tcp://127.0.0.1:1"}
    )
    try:
        await service.start()
        assert service.key.startswith("lipn_")
        assert (tmp_path / "lightipn.key").stat().st_mode & 0o777 == 0o600
        assert (await service.call("/healthz")).status_code == 200
        assert (await service.call("/readyz")).status_code == 503
        assert (await service.call("/api/v1/events")).json() == {"events": [], "next_after": 0, "latest": 0}
        second = await trio.to_thread.run_sync(service.cli, "serve")
        assert (second.returncode, second.stdout) == (2, "")
        assert "another lightipn service" in second.stderr
        status = await trio.to_thread.run_sync(service.cli, "status")
        assert status.returncode == 0
        assert "not running" not in status.stdout
        started = time.monotonic()
        assert await service.stop() == 0
        assert time.monotonic() - started < STOP_LIMIT_S
        assert service.key not in service.output.read_text()
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill()


@pytest.mark.slow
def test_demo_tells_the_whole_story(tmp_path: Path) -> None:
    """The demo plays every step against the simulator, in less than fifteen seconds, and leaves nothing behind."""
    started = time.monotonic()
    done = lightipn("demo", folder=tmp_path)
    assert time.monotonic() - started < DEMO_LIMIT_S
    assert (done.returncode, done.stderr) == (0, b"")
    steps = ("address watched", "payment seen", "confirmed", "acknowledged", "reorg", "reverted", "confirmed again")
    for step in steps:
        assert step.encode() in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        (b"--config", b"\xff.toml"),
        (b"status", b"--config", b"\xff.toml"),
        (b"init", b"--config", b"missing/\xff.toml"),
        (b"check-config", b"--config", b"a\nb.toml"),
        (b"key", b"create", b"\xff"),
        (b"watch", b"add", b"\xff", b"--url", b"http://shop.example/"),
        (b"watch", b"add", b"bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", b"--url", b"http://\xff/"),
        (b"watch", b"import", b"\xff.csv"),
    ],
    ids=lambda arguments: ascii(b" ".join(arguments)),
)
def test_bytes_that_are_no_text_are_no_traceback(tmp_path: Path, arguments: tuple[bytes, ...]) -> None:
    """Names and values that are no UTF-8 are refused with a message."""
    done = lightipn(*arguments, folder=tmp_path)
    assert done.returncode in (1, 2)
    assert b"Traceback" not in done.stderr
    assert done.stderr != b""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("watch", "list", "--json")], ids=" ".join)
def test_reader_that_goes_away_is_no_traceback(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A pipe that is closed early, as by ``head``, ends the program without a traceback."""
    assert lightipn("key", "create", "shop", folder=tmp_path).returncode == 0
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = lightipn(*arguments, folder=tmp_path, stdout=writing)
    finally:
        os.close(writing)
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
def test_server_that_does_not_answer_is_exit_code_1(tmp_path: Path) -> None:
    """``server check`` is 1 where no server is good, and says why of each."""
    (tmp_path / "lightipn.toml").write_text('[electrum]\nservers = ["tcp://127.0.0.1:1"]\n')
    done = lightipn("server", "check", "--json", folder=tmp_path)
    assert done.returncode == 1
    assert b'"name": "127.0.0.1:1:t"' in done.stdout
    assert b'"verdict": "unavailable"' in done.stdout
    assert b"Traceback" not in done.stderr
