"""The laws of ARCHITECTURE that a machine can check: who imports whom, how large things are, and what has words."""

import ast
import functools
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from lightipn import config_keys
from lightipn.store.migrations import MIGRATION_NAMES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightipn"
TESTS = ROOT / "tests"
MODULES = sorted(PACKAGE.rglob("*.py"))
TEST_MODULES = sorted(TESTS.rglob("*.py"))
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
PURE_ROOMS = ("bitcoin", "chain", "ledger", "outbox")
# Of each dialect the modules that decide, from the lowest to the highest, and those that answer.
DECIDING = dict.fromkeys(("callback", "ipn", "receive"), ("wire", "policy")) | {
    "blockcypher": ("objects", "wire", "answers", "requests", "policy")
}
ANSWERING = dict.fromkeys(("callback", "ipn", "receive"), ("routes",)) | {
    "blockcypher": ("forward_routes", "frame", "hook_routes", "inbox", "read_routes", "routes")
}
DIALECTS = tuple(DECIDING)
IMPURE = {
    "trio",
    "httpx",
    "httpcore",
    "sqlite3",
    "sqlite_utils",
    "logging",
    "structlog",
    "time",
    "random",
    "socket",
    "ssl",
    "starlette",
    "secrets",
    "uuid",
    "os",
    "pathlib",
    "aiorpcx",
}
TOP_LEVEL = {
    "README.md",
    "config.example.toml",
    "pyproject.toml",
    "Dockerfile",
    "LICENSE",
    "lightipn",
    "tests",
}
# What builds the rooms and hands each what it needs of the others.
COMPOSITION = {"lightipn/app.py", "lightipn/parts.py", "lightipn/rooms.py"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(file: Path) -> str:
    """Return a file as its path below the root."""
    return file.relative_to(ROOT).as_posix()


@functools.cache
def tree_of(file: Path) -> ast.Module:
    """Parse a module."""
    return ast.parse(file.read_text("utf-8"), str(file))


@functools.cache
def imports_of(file: Path) -> frozenset[str]:
    """Return the dotted names of everything a module imports, wherever in it; ``from a import b`` gives ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def importers_of(*names: str) -> set[str]:
    """Return the modules of the package that import something by one of these names, or below it."""
    prefixes = tuple(f"{name}." for name in names)
    return {name_of(file) for file in MODULES if any(f"{found}.".startswith(prefixes) for found in imports_of(file))}


def within(*rooms: str) -> set[str]:
    """Return the modules of these rooms, or files, of the package."""
    return {
        name_of(file)
        for file in MODULES
        if any(file == PACKAGE / room or PACKAGE / room in file.parents for room in rooms)
    }


@functools.cache
def tokens_of(file: Path) -> tuple[tokenize.TokenInfo, ...]:
    """Split a module into its tokens."""
    with file.open("rb") as stream:
        return tuple(tokenize.tokenize(stream.readline))


def code_of(file: Path) -> str:
    """Return a module's code without comments and texts, one token after the other."""
    left_out = (tokenize.COMMENT, tokenize.STRING, tokenize.ENCODING, tokenize.NL, tokenize.NEWLINE)
    return " ".join(token.string for token in tokens_of(file) if token.type not in left_out)


@pytest.mark.slow
def test_tests_look_at_the_real_package() -> None:
    """The checks below see the package, so none of them passes for want of something to check."""
    assert len(MODULES) > 60
    assert len(TEST_MODULES) > 40
    assert importers_of("trio") > {"lightipn/app.py", "lightipn/service/lookups.py"}


# --- who imports whom --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_import_contracts_are_kept() -> None:
    """Every contract in pyproject.toml holds: left may import right, never the reverse."""
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def dialect_modules(*parts: Mapping[str, tuple[str, ...]]) -> list[Path]:
    """Return the modules of all dialects, or those of them that decide, or that answer."""
    files = [file for dialect in DIALECTS for file in sorted((PACKAGE / "dialects" / dialect).rglob("*.py"))]
    return [file for file in files if not parts or any(file.stem in part[file.parent.name] for part in parts)]


def pure_modules() -> list[Path]:
    """Return the modules that decide and do nothing else."""
    rooms = [file for file in MODULES if file.relative_to(PACKAGE).parts[0] in PURE_ROOMS]
    return rooms + dialect_modules(DECIDING)


@pytest.mark.parametrize("file", pure_modules(), ids=name_of)
def test_deciding_is_pure(file: Path) -> None:
    """A pure module imports no event loop, no clock, no randomness, no I/O and no log; no way out either."""
    assert not {found.partition(".")[0] for found in imports_of(file)} & IMPURE
    assert not [found for found in imports_of(file) if found.startswith("lightipn.proxy")]


@pytest.mark.parametrize("file", pure_modules(), ids=name_of)
def test_pure_modules_are_synchronous_and_open_nothing(file: Path) -> None:
    """A pure module has no ``async``, but for the interface that backends implement, and opens no file."""
    is_interface = file == PACKAGE / "chain" / "source.py"
    assert is_interface or not [node for node in functions_of(file) if isinstance(node, ast.AsyncFunctionDef)]
    assert not [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.Await)]
    calls = [node.func for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("open", "print", "input")]


def test_every_room_has_its_place_in_the_order_of_imports() -> None:
    """What stands at the top of the package is named in the layers: a new room cannot stay outside the contract."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    named = {word.split(".")[1] for layer in layers for word in layer.replace("|", " ").replace(":", " ").split()}
    rooms = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in MODULES}
    assert rooms - {"__init__"} == named


@pytest.mark.parametrize("room", ["electrum", "bitcoind"])
def test_source_cannot_name_the_verifier(room: str) -> None:
    """A source sees of ``chain`` the interface and the histories alone."""
    seen = {
        ".".join(found.split(".")[:3])
        for file in sorted((PACKAGE / room).rglob("*.py"))
        for found in imports_of(file)
        if found.startswith("lightipn.chain")
    }
    assert seen == {"lightipn.chain.source", "lightipn.chain.history"}


def test_routes_ask_the_service() -> None:
    """``api`` and the dialects' routes never reach past the service into the store."""
    routes = {name_of(file) for file in dialect_modules(ANSWERING)}
    assert routes > {name for name in within("dialects") if name.endswith("routes.py")}
    assert not importers_of("lightipn.store") & (within("api") | routes)


def test_only_the_composition_names_dialects() -> None:
    """The rooms stand for every dialect, so they know none: only the composition root, ``cli`` and ``received`` do."""
    allowed = within("dialects", "cli") | COMPOSITION | {"lightipn/received.py"}
    importers = importers_of("lightipn.dialects")
    assert importers <= allowed
    assert {"lightipn/app.py", "lightipn/parts.py"} <= importers


# --- dialects ----------------------------------------------------------------------------------------------------


def test_every_dialect_is_looked_at() -> None:
    """The dialects that a configuration may name are those there are, each of a policy, a wire and routes at least."""
    folders = {file.parent.name for file in (PACKAGE / "dialects").glob("*/__init__.py")}
    assert folders == set(config_keys.DIALECTS) == set(DIALECTS)
    for dialect in DIALECTS:
        files = {file.stem for file in (PACKAGE / "dialects" / dialect).rglob("*.py")}
        assert files == {"__init__", *DECIDING[dialect], *ANSWERING[dialect]}, dialect
        assert files >= {"policy", "wire", "routes"}, dialect


def test_every_dialect_is_in_every_contract() -> None:
    """Each module of a dialect is named in the layers, and in the contract that binds it."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    layered = " ".join(layers).replace("|", " ").replace(":", " ").split()
    sources = [set(contract["source_modules"]) for contract in contracts if contract["type"] == "forbidden"]
    for dialect in DIALECTS:
        deciding = {f"lightipn.dialects.{dialect}.{part}" for part in DECIDING[dialect]}
        answering = {f"lightipn.dialects.{dialect}.{part}" for part in ANSWERING[dialect]}
        assert deciding | answering <= set(layered)
        assert any(deciding <= named for named in sources)
        assert any(answering <= named for named in sources)


@pytest.mark.parametrize("file", dialect_modules(), ids=name_of)
def test_dialect_knows_no_other(file: Path) -> None:
    """A dialect never imports another one, nor what answers from what decides, which imports what is below it alone."""
    own = f"lightipn.dialects.{file.parent.name}."
    known = {found for found in imports_of(file) if found.startswith("lightipn.dialects.")}
    assert all(f"{found}.".startswith(own) for found in known)
    assert not [found for found in known if f"{found}.".startswith(f"{own}routes.")]
    deciding = DECIDING[file.parent.name]
    if file.stem in deciding:
        below = deciding[: deciding.index(file.stem)]
        assert {found.removeprefix(own).partition(".")[0] for found in known} <= set(below)


@pytest.mark.parametrize("file", dialect_modules(), ids=name_of)
def test_dialect_touches_neither_sql_nor_the_chain(file: Path) -> None:
    """A dialect sees values: no table, no chain, no server, no receiver; of ``chain`` only where a payment can be."""
    rooms = (
        "store",
        "tracker",
        "electrum",
        "bitcoind",
        "delivery",
        "simulator",
        "config",
        "app",
        "parts",
        "upkeep",
        "proxy",
    )
    imported = {found.removeprefix("lightipn.") for found in imports_of(file) if found.startswith("lightipn.")}
    assert not {found for found in imported if found.partition(".")[0] in rooms}
    places = {"chain.verifier.Confirmed", "chain.verifier.Unconfirmed"}
    assert {found for found in imported if found.partition(".")[0] == "chain"} <= places
    assert not calls_in(file) & {"execute", "executemany", "transact", "read"}


@pytest.mark.parametrize("file", dialect_modules(ANSWERING), ids=name_of)
def test_routes_stand_on_frame_and_service_alone(file: Path) -> None:
    """Routes turn a request into words of the service and back: whatever else they import is a value or an error."""
    allowed = {"api", "service", "dialects", "bitcoin", "outbox", "errors"}
    if file.stem == "read_routes":  # what it shows is the ledger itself
        allowed |= {"ledger", "chain"}
    imported = {found.split(".")[1] for found in imports_of(file) if found.startswith("lightipn.")}
    assert imported <= allowed
    assert "api" in imported
    assert file.stem == "inbox" or "service" in imported  # it hands on to a frame that has the service


def test_rooms_receive_plain_values() -> None:
    """Only the composition root, ``cli`` and ``received`` import the configuration."""
    allowed = within("cli") | COMPOSITION | {"lightipn/received.py"}
    importers = importers_of("lightipn.config")
    assert importers <= allowed
    assert "lightipn/app.py" in importers


# --- seams -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_the_store_knows_sql() -> None:
    """``sqlite`` is a word of ``store`` alone; nobody else prepares a statement."""
    assert importers_of("sqlite3", "sqlite_utils") <= within("store")
    statement = re.compile(r"\b(SELECT\s.+\sFROM|INSERT\s.*INTO|UPDATE\s\w+\sSET|DELETE\sFROM|PRAGMA)\s", re.DOTALL)
    writers = {name_of(file) for file in MODULES if any(statement.search(text) for text in texts_in(file))}
    assert writers <= within("store")
    assert writers > {"lightipn/store/attempts.py", "lightipn/store/callbacks.py", "lightipn/store/supplies.py"}
    assert {name_of(file) for file in MODULES if calls_in(file) & {"execute", "executemany"}} <= within("store")
    users = {name_of(file) for file in MODULES if "sqlite" in code_of(file).lower()}
    assert users <= within("store")
    assert users


@pytest.mark.slow
def test_only_sender_guard_and_the_way_to_the_node_know_httpx() -> None:
    """What goes out over HTTP to a stranger goes through one door; beside it there is the one to one's own node."""
    users = {name_of(file) for file in MODULES if "httpx" in code_of(file) or "httpcore" in code_of(file)}
    assert users == {"lightipn/delivery/sender.py", "lightipn/delivery/guard.py", "lightipn/bitcoind/rpc.py"}
    assert importers_of("httpx", "httpcore") == users


@pytest.mark.slow
def test_schema_is_made_by_migrations_alone() -> None:
    """No table, index or trigger is made or changed anywhere else, so that every file has the schema of its version."""
    users = {
        name_of(file)
        for file in MODULES
        if re.search(r"\b(CREATE|ALTER|DROP)\s+(TABLE|(UNIQUE )?INDEX|TRIGGER|VIEW)\b", file.read_text("utf-8"))
    }
    assert users == set()
    scripts = {file.stem for file in (PACKAGE / "store" / "schema").iterdir()}
    assert scripts == MIGRATION_NAMES
    assert [name_of(file) for file in PACKAGE.rglob("*.sql") if file.parent != PACKAGE / "store" / "schema"] == []
    readers = {name_of(file) for file in MODULES if any("schema" in text for text in texts_in(file))}
    assert {name for name in readers if "resources" in code_of(ROOT / name)} == {"lightipn/store/migrations.py"}


def test_feed_has_one_writer() -> None:
    """Events enter the feed through ``store/events`` alone, whose rows follow each other without a gap."""
    users = {name_of(file) for file in MODULES if re.search(r"INTO event\b", file.read_text("utf-8"))}
    assert users == {"lightipn/store/events.py"}


@pytest.mark.slow
def test_only_connections_open_a_way_to_servers() -> None:
    """TCP and TLS towards servers are opened in one file; the simulator listens, and nothing else does either."""
    words = ("open_tcp_stream", "open_ssl_over_tcp_stream", "SSLStream (", "open_tcp_listeners", "SSLListener")
    users = {name_of(file) for file in MODULES if any(word in code_of(file) for word in words)}
    assert users == {"lightipn/electrum/connection.py", "lightipn/simulator/server.py"}
    # These three say whom to trust over HTTPS, and httpx opens the way.
    others = {"lightipn/bitcoind/rpc.py", "lightipn/delivery/guard.py", "lightipn/delivery/sender.py"}
    assert importers_of("ssl") == users | others


def test_way_through_a_proxy_has_one_home() -> None:
    """SOCKS is spoken in one file, which those use that go out, and those that read the operator's wishes."""
    assert importers_of("aiorpcx.socks") == {"lightipn/proxy.py"}
    assert importers_of("aiorpcx") == {"lightipn/proxy.py", "lightipn/electrum/protocol.py"}
    assert importers_of("lightipn.proxy") == {
        "lightipn/config_values.py",
        "lightipn/delivery/guard.py",
        "lightipn/delivery/sender.py",
        "lightipn/electrum/connection.py",
        "lightipn/parts.py",
    }


def test_signing_has_one_home() -> None:
    """What signs coins away is imported in one file, inside the function that does it; the words are read by few."""
    signing = PACKAGE / "forwarding" / "signing.py"
    assert importers_of("bit", "coincurve") == {name_of(signing)}
    at_the_top = [node for node in tree_of(signing).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [node for node in at_the_top if ast.unparse(node).split()[1].partition(".")[0] in ("bit", "coincurve")]
    assert importers_of("lightipn.forwarding.signing") == {"lightipn/forwarding/purse.py"}
    assert importers_of("lightipn.forwarding.seed.secret_of") == {name_of(signing)}
    assert importers_of("lightipn.forwarding.seed.read_words") <= within("forwarding", "cli") | COMPOSITION


def test_forwarding_is_named_by_the_composition_and_its_commands_alone() -> None:
    """No room imports the one that has keys; what decides in it does nothing else."""
    importers = importers_of("lightipn.forwarding") - within("forwarding")
    assert importers <= COMPOSITION | {"lightipn/cli/forwarding.py"}
    assert "lightipn/rooms.py" in importers
    for name in ("plan", "following"):
        roots = {found.partition(".")[0] for found in imports_of(PACKAGE / "forwarding" / f"{name}.py")}
        assert not roots & IMPURE


def texts_in(file: Path) -> Iterator[str]:
    """Yield the texts of a module that are no docstrings, parts of f-strings included."""
    values = {id(node.value) for node in ast.walk(tree_of(file)) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in values:
            yield node.value


def calls_in(file: Path) -> set[str]:
    """Return the names that a module calls, without what stands before their last dot."""
    called = (node.func for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call))
    return {ast.unparse(function).rpartition(".")[2] for function in called}


@pytest.mark.slow
def test_trust_is_earned_at_one_door() -> None:
    """A confirmed place is made by the verifier, of evidence that it accepted, and by the store that reads it back."""
    makers = {name_of(file) for file in MODULES if "Confirmed" in calls_in(file)}
    assert makers == {"lightipn/chain/verifier.py", "lightipn/tracker/proofs.py", "lightipn/store/ledger.py"}


def test_byte_order_has_one_home() -> None:
    """Only ``bitcoin/hashes`` turns a hash around."""
    users = {name_of(file) for file in MODULES if "[ : : - 1 ]" in code_of(file)}
    assert users == {"lightipn/bitcoin/hashes.py"}


def test_electrums_word_for_a_txid_stays_at_the_wire() -> None:
    """``tx_hash`` is a key of Electrum, and of BlockCypher's answers; inside it is ``txid``."""
    users = {name_of(file) for file in MODULES if "tx_hash" in file.read_text("utf-8")}
    assert users - within("electrum", "simulator") == {"lightipn/dialects/blockcypher/answers.py"}


def test_exceptions_are_caught_by_name() -> None:
    """``except Exception`` stands in two files, and ``trio.Cancelled`` is never caught."""
    broad: set[str] = set()
    for file in MODULES:
        for node in ast.walk(tree_of(file)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = "BaseException" if node.type is None else ast.unparse(node.type)
            assert "Cancelled" not in caught, name_of(file)
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if caught == "Exception" or (caught == "BaseException" and not reraises):
                broad.add(name_of(file))
    assert broad <= {"lightipn/app.py", "lightipn/store/database.py"}


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_modules_are_short(file: Path) -> None:
    """No module has more than 500 lines."""
    assert len(file.read_text("utf-8").splitlines()) <= MAX_MODULE_LINES


def functions_of(file: Path) -> Iterator[Function]:
    """Yield every function and method of a module."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_are_short() -> None:
    """No function has more than 60 lines; there are no exceptions."""
    lengths = {
        f"{name_of(file)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for file in MODULES
        for node in functions_of(file)
    }
    assert len(lengths) > 300
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_no_module_is_called_after_nothing() -> None:
    """A module's name says what it is about; there are no leading underscores."""
    names = {file.stem for file in MODULES}
    assert not names & {"utils", "helpers", "common", "manager", "base", "misc"}
    assert not {name for name in names if name.startswith("_") and name not in ("__init__", "__main__")}


def test_rooms_re_export_nothing() -> None:
    """A room's ``__init__`` holds a docstring and no code; the package's own offers two functions."""
    for file in MODULES:
        if file.name == "__init__.py" and file.parent != PACKAGE:
            assert len(tree_of(file).body) == 1, name_of(file)
            assert 3 <= len((ast.get_docstring(tree_of(file)) or "").splitlines()) <= 10, name_of(file)


# --- words -------------------------------------------------------------------------------------------------------


def undocumented_in(tree: ast.Module) -> Iterator[str]:
    """Yield the public functions, classes and methods without a docstring."""

    def look(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
        for child in node.body:
            if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_setter = any(ast.unparse(decorator).endswith(".setter") for decorator in child.decorator_list)
            if child.name.startswith("_") or is_setter:  # a property is described where it is read
                continue
            if not ast.get_docstring(child):
                yield prefix + child.name
            if isinstance(child, ast.ClassDef):
                yield from look(child, f"{prefix}{child.name}.")

    yield from look(tree, "")


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_everything_public_has_a_docstring(file: Path) -> None:
    """Every module, and every public class, function and method in it, says what it is for."""
    tree = tree_of(file)
    assert ast.get_docstring(tree)
    assert list(undocumented_in(tree)) == []


@pytest.mark.parametrize("file", [file for file in TEST_MODULES if file.name.startswith("test_")], ids=name_of)
def test_every_test_has_a_docstring(file: Path) -> None:
    """A test's docstring is the rule it proves, in one sentence with a full stop."""
    tree = tree_of(file)
    assert ast.get_docstring(tree)
    tests = [node for node in functions_of(file) if node.name.startswith("test_")]
    for test in tests:
        first_words = (ast.get_docstring(test) or "").partition("\n\n")[0]
        assert first_words, test.name
        assert first_words.endswith((".", '"')), test.name
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name.startswith("Test")]
    assert all(ast.get_docstring(node) for node in classes)
    assert tests or classes


@pytest.mark.slow
def test_fakes_and_no_mocks() -> None:
    """No test replaces a part by a mock."""
    users = {
        name_of(file)
        for file in TEST_MODULES
        if any(found.startswith(("unittest.mock", "mock.", "pytest_mock")) for found in imports_of(file))
    }
    assert users == set()
    arguments = {
        argument.arg for file in TEST_MODULES for function in functions_of(file) for argument in function.args.args
    }
    assert "mocker" not in arguments


def test_tests_do_not_sleep_in_threads() -> None:
    """``time.sleep`` stands in no test: waiting is for a condition, with a deadline."""
    users = {
        name_of(file)
        for file in TEST_MODULES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "asyncio.sleep")
    }
    assert users <= {name for name in map(name_of, TEST_MODULES) if name.startswith(("tests/regtest", "tests/bench"))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "is_wrong"),
    [
        ("todo", lambda comment: "todo" in comment.lower() or "fixme" in comment.lower()),
        ("bare noqa", lambda comment: "noqa" in comment and "noqa:" not in comment),
        ("bare type-ignore", lambda comment: "type: ignore" in comment and "type: ignore[" not in comment),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_comments_promise_nothing_and_name_their_codes(words: str, is_wrong: Callable[[str], bool]) -> None:
    """No comment is a promise, and every exception from a checker names its code."""
    found = []
    for file in MODULES + TEST_MODULES:
        comments = [token.string for token in tokens_of(file) if token.type == tokenize.COMMENT]
        found += [f"{name_of(file)}: {comment}" for comment in comments if is_wrong(comment)]
    assert found == []


# --- the top level -----------------------------------------------------------------------------------------------


def test_top_level_holds_what_it_may() -> None:
    """Beside the package, the tests and dotfiles only a few well-known files are in the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    names = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL
    assert {"lightipn", "tests", "pyproject.toml"} <= names


def test_every_dependency_says_what_it_is_for() -> None:
    """Each dependency in pyproject.toml carries a sentence on its line."""
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    start = lines.index("dependencies = [")
    listed = lines[start + 1 : lines.index("]", start)]
    assert len(listed) > 5
    assert [line for line in listed if "#" not in line] == []
