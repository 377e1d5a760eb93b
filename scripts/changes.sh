#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: changes.sh v1.2.3
#
# Prints what CHANGELOG.md says about a version. For a candidate (v1.2.3-rc1), it prints the
# section of v1.2.3, or else the unreleased one.
set -eu
unset CDPATH # With it, cd may print a path, or go elsewhere.
cd "$(dirname "$0")/.."

# section prints the lines below a heading, and fails if there are none.
section() {
	awk -v start="## [$1]" '
		/^## / { on = index($0, start) == 1; next }
		on && (NF || any) { print; any = 1 }
		END { exit !any }' CHANGELOG.md
}

version=${1#v}
section "${version%%-*}" && exit
case $version in
*-*) section Unreleased && exit ;;
esac
echo "changes.sh: CHANGELOG.md says nothing about $version. Add a section that begins with: ## [${version%%-*}]" >&2
exit 1
