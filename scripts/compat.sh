#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Runs the core of the end-to-end tests in each Vault that tools/vault-* pin, and
# in the server that VAULT_BIN names, if any. It prints a table of the results, and below each
# server the features that it lacks. `make compat` calls it.
set -eu
cd "$(dirname "$0")/.."

packages='. ./agent ./cluster'

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
status=0

# try runs the tests in one server.
try() {
	VAULT_BIN=$1
	export VAULT_BIN
	version=$("$VAULT_BIN" --version | sed 's,^\([A-Za-z]* v[0-9.]*\).*,\1,')
	echo "==> $version"
	result=passed
	(cd e2e && go test -count=1 -v -timeout 10m $packages) >"$folder/log" 2>&1 || result=FAILED
	if [ "$result" = passed ]; then
		grep '^ok' "$folder/log" || :
	else
		status=1
		cat "$folder/log"
	fi
	printf '%-15s  %-20s  %s\n' "$version" "$packages" "$result" >>"$folder/table"
	sed -n 's/^.*: lacks: /    lacks: /p' "$folder/log" | sort -u >>"$folder/table"
}

given=${VAULT_BIN:-}
[ -z "$given" ] || given=$(scripts/program.sh vault)
for tool in tools/vault-*; do
	built=$(scripts/program.sh "${tool#tools/}")
	try "$built"
done
[ -z "$given" ] || try "$given"
echo
cat "$folder/table"
exit "$status"
