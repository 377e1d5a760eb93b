#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: commands.sh FILE SECTION
#
# Prints the commands in a section of a document, so that the caller can run them.
set -eu
awk -v heading="## $2" '
	/^## / { on = $0 == heading }
	/^```/ { code = on && $0 == "```sh"; next }
	code { print; any = 1 }
	END { exit !any }' "$1" || { echo "commands.sh: $1 has no commands in a section \"$2\"" >&2; exit 1; }
