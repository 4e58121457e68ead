#!/bin/sh
# Builds notify.wasm: `build.sh [output.wasm]`, beside this file unless told otherwise. Needs Node 18 or later. Its one
# tool, pinned in package-lock.json, goes into $HELIX_BUILD_DIR/node_modules (beside this file when that is not set).
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH= cd -- "$here/../.." && pwd)
out=${1:-"$here/notify.wasm"}
case $out in /*) ;; *) out=$PWD/$out ;; esac
tools=${HELIX_BUILD_DIR:-$here}

mkdir -p "$tools"
cd "$tools"
if [ "$tools" != "$here" ]; then
    cp -p "$here/package.json" "$here/package-lock.json" .
fi
if [ ! -x node_modules/.bin/componentize-qjs ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    # Not `npm ci`: three optional bindings of 0.4.5 are not on npm, which it takes for a stale lock file.
    npm install --no-save --no-audit --no-fund --loglevel=error >&2
    touch node_modules/.package-lock.json
fi

# The SDK's worlds, with the contract as their dependency.
wit=$(mktemp -d)
trap 'rm -rf "$wit"' EXIT
cp -R "$root/sdk/js/wit/." "$wit"
mkdir -p "$wit/deps/helix-messaging"
cp "$root"/wit/*.wit "$wit/deps/helix-messaging"

node_modules/.bin/componentize-qjs --sync --wit "$wit" --world task-worker \
    --module-root "$root" --js "$here/notify.js" --output "$out" >&2
