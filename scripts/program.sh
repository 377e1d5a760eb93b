#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: program.sh vault | prometheus | promtool | vault-1.NN
#
# Prints the path of a usable program. tools/program/main.go says where it looks for the program.
set -eu
unset CDPATH # With it, cd may print a path, or go elsewhere.
root=$(cd "$(dirname "$0")/.." && pwd)
command -v go >/dev/null || { echo "program.sh: there is no Go in PATH: https://go.dev/dl has it" >&2; exit 1; }
mkdir -p "$root/bin"
# Go links in GOTMPDIR. From there it can rename the program into place, so that no other run
# at the same time starts half of one. From another file system, it would copy it.
CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off GOTMPDIR="$root/bin" go build -C "$root" -o bin/program ./tools/program
exec "$root/bin/program" -tools "$root/tools" "$@"
