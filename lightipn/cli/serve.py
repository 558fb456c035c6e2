"""``lightipn serve``, ``init`` and ``check-config``."""

from pathlib import Path

import trio
import typer

from lightipn.app import serve_until_signalled
from lightipn.cli.output import console, print_facts
from lightipn.cli.run import ConfigOption, configured, errors, reported_errors
from lightipn.config import DEFAULT_FILE, Config, load_config
from lightipn.config_keys import example_text
from lightipn.parts import forwarding_kit_of


def serve(config: ConfigOption = None) -> None:
    """Run the service: watch addresses, serve the API, deliver callbacks. Ends cleanly on SIGTERM or Ctrl-C."""
    with reported_errors():
        trio.run(serve_until_signalled, configured(config))


def init(config: ConfigOption = None) -> None:
    """Write a commented configuration file; never over an existing one."""
    file = config or DEFAULT_FILE
    try:
        with Path(file).open("x") as stream:
            stream.write(example_text())
    except FileExistsError:
        errors.print(f"error: {file} is already there and stays as it is", style="red", markup=False)
        raise typer.Exit(1) from None
    except OSError as error:
        errors.print(f"error: cannot write {file} ({error.strerror})", style="red", markup=False)
        raise typer.Exit(1) from None
    console.print(f"{file} written. Next: lightipn serve", markup=False)


def _evidence_of(config: Config) -> str:
    if config.backend == "bitcoind":
        return f"bitcoind at {config.bitcoind.url}"
    return f"Electrum servers: {', '.join(config.electrum.servers) or 'built-in'}"


def check_config(config: ConfigOption = None) -> None:
    """Check the configuration and print what is in force; names every problem at once."""
    with reported_errors():
        loaded = load_config(config)
        forwarding_kit_of(loaded)
        print_facts(
            {
                "network": loaded.network.name,
                "database": loaded.database,
                "api": f"http://{loaded.api.bind}",
                "evidence": _evidence_of(loaded),
                "callbacks to private networks": ", ".join(map(str, loaded.delivery.allow_networks)) or "refused",
                "anonymous dialects": ", ".join(loaded.api.anonymous) or "none",
            }
        )
        console.print("The configuration is good.")
