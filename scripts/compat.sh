#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Runs the heart of the end-to-end tests in each Vault of tools/vault-*, built from
# source, and prints a table of how it went. `make compat` calls it.
set -eu
cd "$(dirname "$0")/.."

packages='. ./agent ./cluster'

table=$(mktemp)
trap 'rm -f "$table"' EXIT
status=0
for folder in tools/vault-*; do
	VAULT_BIN=$(scripts/program.sh "${folder#tools/}")
	export VAULT_BIN
	version=$("$VAULT_BIN" --version | sed 's,^\(Vault v[0-9.]*\).*,\1,')
	echo "==> $version"
	result=passed
	(cd e2e && go test -count=1 -timeout 10m $packages) || { result=FAILED; status=1; }
	printf '%-15s  %-20s  %s\n' "$version" "$packages" "$result" >>"$table"
done
echo
cat "$table"
exit "$status"
