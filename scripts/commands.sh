#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: commands.sh FILE SECTION
#
# Prints the commands in a section of a document, to run them.
set -eu
awk -v heading="## $2" '
	/^## / { on = $0 == heading }
	/^```/ { code = on && $0 == "```sh"; next }
	code { print; any = 1 }
	END { exit !any }' "$1"
