"""What commands print: tables for people, JSON for programs. Foreign text is escaped before it reaches a terminal."""

import sys
import time
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Nothing is folded where a program reads: an address must stay one word for grep.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 4000)


def print_json(value: object) -> None:
    """Print a JSON value, indented, exactly as it is."""
    console.file.write(_json_text(msgspec.json.format(msgspec.json.encode(value), indent=2)))


def print_json_line(value: object) -> None:
    """Print a JSON value on one line, at once: somebody may wait for it at the other end of a pipe."""
    console.file.write(_json_text(msgspec.json.encode(value)))
    console.file.flush()


def _json_text(encoded: bytes) -> str:
    """Escape, as JSON does, what could steer a terminal: JSON itself asks that of the lowest 32 characters alone."""

    def escaped(character: str) -> str:
        if character.isprintable() or character == "\n":
            return character
        pairs = character.encode("utf-16-be").hex()
        return "".join(f"\\u{pairs[at : at + 4]}" for at in range(0, len(pairs), 4))

    return "".join(map(escaped, encoded.decode())) + "\n"


def print_line(text: str) -> None:
    """Print a line of foreign text; nothing in it is read as markup."""
    console.print(Text(printable(text)), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows, or ``empty`` when there are none; nothing in them is read as markup."""
    if not rows:
        console.print(empty, markup=False)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable("" if cell is None else str(cell))) for cell in row))
    console.print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one a line."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        console.print(Text(f"{name:<{width}}  {printable(str(value))}"))


def printable(text: str) -> str:
    """Escape what could steer a terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def time_text(unix_s: float | None) -> str:
    """Print a time as ISO 8601 in UTC; empty for None."""
    return "" if unix_s is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
