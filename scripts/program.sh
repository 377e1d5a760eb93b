#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: program.sh vault | prometheus | promtool | vault-1.NN
#
# Prints the path of a usable program. tools/program/main.go says where it looks for the program.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off go build -C "$root" -o bin/program ./tools/program
exec "$root/bin/program" -tools "$root/tools" "$@"
