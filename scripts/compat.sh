#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: compat.sh ARGUMENT...
#
# Runs `go test ARGUMENT...` in e2e, with the server that VAULT_BIN names. If VAULT_BIN isn't set,
# runs it with each Vault that tools/vault-* pin. For each server, prints a row for the table in
# README.md, with the features that the server lacks. `make compat` calls it.
set -eu
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
status=0

# list writes lines as one, without repetitions.
list() { LC_ALL=C sort -u | paste -s -d, - | sed 's/,/, /g'; }

# try runs the tests in one server.
try() {
	VAULT_BIN=$1
	export VAULT_BIN
	shift
	server=$("$VAULT_BIN" --version | sed 's/^\([A-Za-z]*\) v\([^ ,]*\).*/\1 \2/')
	echo "==> $server"
	{ (cd e2e && go test "$@" 2>&1) || echo failed >"$folder/failed"; } | tee "$folder/log" | grep '^ok' || :
	result='all of `make test-e2e`'
	if [ -e "$folder/failed" ]; then
		rm "$folder/failed"
		status=1
		sed '/^ *=== /d; /^ *--- PASS/d' "$folder/log"
		result="FAILED: $(sed -n 's/^--- FAIL: \([^ ]*\).*/\1/p' "$folder/log" | list)"
	fi
	printf '| %s | %s | %s | %s |\n' "$server" "$(date -u +%Y-%m-%d)" "$result" \
		"$(sed -n 's/^.*: lacks: //p' "$folder/log" | list)" >>"$folder/rows"
}

if [ -n "${VAULT_BIN:-}" ]; then
	given=$(scripts/program.sh vault)
	try "$given" "$@"
else
	for tool in tools/vault-*; do
		built=$(scripts/program.sh "${tool#tools/}")
		try "$built" "$@"
	done
fi
echo
cat "$folder/rows"
exit "$status"
