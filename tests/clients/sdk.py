"""Third-party SDKs, as a shop uses them, pointed at a running LightIPN: two of Receive Payments V2, one of BlockCypher.

Each SDK runs in a process of its own language, where a driver makes the calls it is told; what comes back is the same
here for all of them.
"""

import enum
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import trio

from tests.regtest.nodes import ProgramMissingError, find_program

FOLDER = Path(__file__).parent
CALL_DEADLINE_S = 60.0
OLD_KEY = "a-key-of-the-service-before"


class Access(enum.Enum):
    """How a shop shows its API key."""

    PARAMETER = "the SDK's own parameter"
    URL = "the user name of the base URL; the parameter still has the key of another service"
    ANONYMOUS = "not at all: the parameter is empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """An address that the API gave away, as an SDK hands it to a shop."""

    address: str
    index: int
    callback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What an SDK raised.

    Args:
        kind: name of its exception, or the type of what its promise was rejected with.
        message: its text, which both SDKs take from the body.
        status: of the answer; None where the SDK does not tell it.
    """

    kind: str
    message: str
    status: int | None


def find_sdk(name: str) -> Path:
    """Return a program of tests/clients/install.sh, or raise ``ProgramMissingError``."""
    try:
        return find_program(name)
    except ProgramMissingError:
        raise ProgramMissingError(f"no {name}: run tests/clients/install.sh") from None


async def drive(program: str, driver: str, url: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
    """Have a driver make calls, and return what it says of each: a refusal, or what the SDK returned."""
    asked = json.dumps({"url": url, "calls": calls}).encode()
    with trio.fail_after(CALL_DEADLINE_S):
        done = await trio.run_process(
            [find_sdk(program), FOLDER / driver],
            stdin=asked,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath)},  # no proxies of the environment
        )
    assert done.returncode == 0, done.stderr.decode()
    answers = json.loads(done.stdout)
    assert len(answers) == len(calls)
    return [Refusal(**{"status": None} | a["error"]) if "error" in a else a["result"] for a in answers]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveSdk(ABC):
    """A shop's SDK with its settings.

    Args:
        url: base URL of the API, maybe with a key as its user name.
        key: what the shop passes as API key.
    """

    url: str
    key: str

    def shown_as(self, access: Access) -> "ReceiveSdk":
        """Return the same SDK with its key shown in this way."""
        match access:
            case Access.PARAMETER:
                return self
            case Access.URL:
                return type(self)(url=self.url.replace("://", f"://{self.key}@"), key=OLD_KEY)
            case Access.ANONYMOUS:
                return type(self)(url=self.url, key="")

    @abstractmethod
    async def receive(
        self, xpub: str, callback: str, query: Mapping[str, str], *, times: int = 1
    ) -> list[Fresh | Refusal]:
        """Ask for an address so many times; the callback is the URL with this query."""

    @abstractmethod
    async def check_gap(self, xpub: str) -> int | Refusal:
        """Ask for the gap."""

    async def call(self, program: str, driver: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Have a driver make calls; returns as ``drive`` does."""
        return await drive(program, driver, f"{self.url}/", calls)


class PythonSdk(ReceiveSdk):
    """PyPI's ``blockchain`` 1.4.4."""

    async def receive(
        self, xpub: str, callback: str, query: Mapping[str, str], *, times: int = 1
    ) -> list[Fresh | Refusal]:
        """Call ``receive``."""
        arguments = [xpub, f"{callback}?{urlencode(query)}", self.key]
        answers = await self._made("receive", arguments, times)
        return [
            answer
            if isinstance(answer, Refusal)
            else Fresh(address=answer["address"], index=answer["index"], callback=answer["callback_url"])
            for answer in answers
        ]

    async def check_gap(self, xpub: str) -> int | Refusal:
        """Call ``check_gap``."""
        [gap] = await self._made("check_gap", [xpub, self.key])
        return gap

    async def callback_log(self, callback: str) -> list[dict[str, Any]]:
        """Call ``callback_log``, which the other SDK does not have."""
        [log] = await self._made("callback_log", [callback, self.key])
        return log

    async def _made(self, name: str, arguments: list[str], times: int = 1) -> list[Any]:
        return await self.call("blockchain-python", "drive_blockchain.py", [[name, arguments]] * times)


class NodeSdk(ReceiveSdk):
    """npm's ``blockchain.info`` 2.12.1."""

    async def receive(
        self,
        xpub: str,
        callback: str,
        query: Mapping[str, str],
        *,
        times: int = 1,
        gap_limit: int | None = None,
    ) -> list[Fresh | Refusal]:
        """Call ``generate``, with the option that widens the gap if one is wanted."""
        settings = [xpub, callback, self.key, *([] if gap_limit is None else [gap_limit])]
        answers = await self._made([["generate", settings, dict(query)]] * times)
        return [answer if isinstance(answer, Refusal) else Fresh(**answer) for answer in answers]

    async def check_gap(self, xpub: str) -> int | Refusal:
        """Call ``checkgap``."""
        [answer] = await self._made([["checkgap", [xpub, "http://127.0.0.1/", self.key]]])
        return answer if isinstance(answer, Refusal) else answer["gap"]

    async def _made(self, calls: list[list[Any]]) -> list[Any]:
        return await self.call("blockchain-node", "drive_blockchain_info.js", calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockcypherSdk:
    """PyPI's ``blockcypher`` 1.0.93, on its name for a test network.

    Args:
        url: base URL of the API.
        key: what the shop passes as token.
    """

    url: str
    key: str

    async def call(self, name: str, **arguments: Any) -> Any:
        """Call a function of the SDK; returns what it returned, or what it raised."""
        [answer] = await self.call_all((name, arguments))
        return answer

    async def call_all(self, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
        """Call functions of the SDK one after the other; returns as ``drive`` does."""
        key = {"api_key": self.key}
        chain = {"coin_symbol": "btc-testnet"}
        driven = [[name, key | ({} if name == "get_token_info" else chain) | arguments] for name, arguments in calls]
        return await drive("blockcypher-python", "drive_blockcypher.py", self.url, driven)
