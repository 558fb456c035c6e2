"""LightIPN as an operator runs it: a process of its own, for regtest stories and benchmarks."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 10.0


class ServiceProcess:
    """One ``lightipn serve`` on a folder; it may be killed and started again on the same database.

    Args:
        options: environment variables, as an operator would set them.
    """

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        self.folder = folder
        self.output = folder / "lightipn.log"
        self.database = folder / "lightipn.db"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LIGHTIPN_")}
        self.environment = kept | {
            "LIGHTIPN_DATABASE": str(self.database),
            "LIGHTIPN_API_BIND": "127.0.0.1:0",
            "LIGHTIPN_DELIVERY_ALLOW_NETWORKS": "127.0.0.1/32",
            **options,
        }
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs LightIPN with these arguments."""
        return [sys.executable, "-m", "lightipn", *arguments]

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the service, on its database."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @property
    def key(self) -> str:
        """The API key that the first start left in a file."""
        return (self.folder / "lightipn.key").read_text().strip()

    def log_events(self) -> list[dict[str, Any]]:
        """Return what the process has logged since its last start."""
        lines = self.output.read_text().splitlines() if self.output.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    async def start(self) -> None:
        """Start the process and wait until its API answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.output.open("wb") as stream:
            self.process = subprocess.Popen(
                self.command("serve"), env=self.environment, cwd=self.folder, stdout=stream, stderr=stream
            )
        with trio.move_on_after(START_DEADLINE_S):
            while self.process.poll() is None:
                started = [event for event in self.log_events() if event["event"] == "app.service_started"]
                if started and (self.folder / "lightipn.key").exists():
                    self.url = started[0]["url"]
                    return
                await trio.sleep(0.02)
        raise RuntimeError(f"lightipn did not start:\n{self.output.read_text()}")

    async def wait_ready(self, deadline_s: float = START_DEADLINE_S) -> None:
        """Wait until ``/readyz`` answers 200."""
        async with httpx.AsyncClient(trust_env=False) as client:
            with trio.fail_after(deadline_s):
                while (await client.get(f"{self.url}/readyz")).status_code != 200:
                    await trio.sleep(0.02)

    async def call(self, path: str, **parameters: object) -> httpx.Response:
        """Make a GET call with the first API key."""
        async with httpx.AsyncClient(trust_env=False, headers={"X-API-Key": self.key}, timeout=20) as client:
            return await client.get(f"{self.url}{path}", params={k: str(v) for k, v in parameters.items()})

    async def events(self, after: int = 0) -> list[dict[str, Any]]:
        """Return all events of the feed behind a number, as the owner of the first API key reads them."""
        found: list[dict[str, Any]] = []
        while True:
            page = (await self.call("/api/v1/events", after=after, limit=1000)).json()
            found += page["events"]
            after = page["next_after"]
            if after >= page["latest"]:
                return found

    async def subscribe(self, address: str, url: str, *, max_confirms: int = 3) -> None:
        """Subscribe through the API."""
        answer = await self.call("/btc_ipn", address=address, url=url, max_confirms=max_confirms)
        assert answer.text == "success", answer.headers.get("x-error")

    def resident_mib(self) -> float:
        """Return the resident memory of the process in MiB."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def kill(self) -> None:
        """End the process as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the process to end and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
            with trio.move_on_after(STOP_DEADLINE_S):
                while self.process.poll() is None:
                    await trio.sleep(0.01)
        if self.process.poll() is None:
            self.kill()
            raise RuntimeError("lightipn did not stop in time")
        return self.process.returncode


@asynccontextmanager
async def open_service(folder: Path, options: Mapping[str, str]) -> AsyncIterator[ServiceProcess]:
    """Start LightIPN, wait until it is ready, and end it in the end."""
    service = ServiceProcess(folder, options)
    try:
        await service.start()
        await service.wait_ready()
        yield service
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill()
