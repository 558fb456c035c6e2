#!/usr/bin/env bash
# Put a bitcoind and an ElectrumX into a cache folder, and print the folder.
#
# bitcoind:  the one on PATH if there is one; else Debian's package bitcoin-knots of the suite "sid", unpacked beside
#            its own libraries and started through its own ld-linux, so that the host's C library does not matter.
#            Debian 12 has no bitcoind at all.
# ElectrumX: e-x 1.20.0 from PyPI, in a virtual environment of its own (2.0.0 wants Bitcoin Core 31).
#
# Running it again costs nothing: each part is made once, in a temporary place, and renamed when it is whole.
# Usage: tests/regtest/install.sh [FOLDER]      FOLDER defaults to $REGTEST_CACHE, then ~/.cache/lightipn-regtest
set -euo pipefail

cache=${1:-${REGTEST_CACHE:-$HOME/.cache/lightipn-regtest}}
mkdir -p "$cache/bin"

install_bitcoind() {
    if command -v bitcoind >/dev/null; then
        ln -sf "$(command -v bitcoind)" "$cache/bin/bitcoind"
        return
    fi
    local apt=$cache/apt.tmp root=$cache/bitcoind.tmp mirror options
    rm -rf "$apt" "$root"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$root"
    # The mirror this machine already uses, asked for its suite "sid"; nothing of the host's package state changes.
    apt-get indextargets --format '$(SITE) $(COMPONENT)' >"$apt/targets" || true
    mirror=$(awk '$2 == "main" && $1 ~ /debian\/?$/ { print $1; exit }' "$apt/targets")
    if [ -z "$mirror" ]; then
        apt-get -qq update >&2
        apt-get indextargets --format '$(SITE) $(COMPONENT)' >"$apt/targets"
        mirror=$(awk '$2 == "main" && $1 ~ /debian\/?$/ { print $1; exit }' "$apt/targets")
    fi
    [ -n "$mirror" ] || { echo "no Debian mirror in this machine's apt sources" >&2; return 1; }
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$apt/sources.list"
    : >"$apt/status"
    options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt"
        -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=0)
    apt-get "${options[@]}" update >&2
    apt-get "${options[@]}" -y --download-only --no-install-recommends install bitcoin-knots >&2
    local package
    for package in "$apt"/archives/*.deb; do
        dpkg-deb --extract "$package" "$root"
    done
    rm -rf "$cache/bitcoind" && mv "$root" "$cache/bitcoind" && rm -rf "$apt"
    local loader libraries
    loader=$(find "$cache/bitcoind" -name 'ld-linux-*.so.*' | head -n 1)
    libraries=$(find "$cache/bitcoind" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
    cat >"$cache/bin/bitcoind.tmp" <<WRAPPER
#!/bin/sh
exec "$loader" --library-path "$libraries" "$cache/bitcoind/usr/bin/bitcoind" "\$@"
WRAPPER
    chmod +x "$cache/bin/bitcoind.tmp"
    mv "$cache/bin/bitcoind.tmp" "$cache/bin/bitcoind"
}

install_electrumx() {
    local home=$cache/electrumx
    rm -rf "$home"
    python3 -m venv "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check 'e-x[leveldb]==1.20.0' >&2
    ln -sf "$home/bin/electrumx_server" "$cache/bin/electrumx_server"
}

"$cache/bin/bitcoind" --version >/dev/null 2>&1 || install_bitcoind
"$cache/bin/bitcoind" --version >/dev/null
[ -x "$cache/bin/electrumx_server" ] || install_electrumx
echo "$cache"
