#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: vulnerabilities.sh called | imported MODULE...
#
# Looks for known vulnerabilities in what the modules (folders) import. It fails if our code calls a vulnerable function.
# With "imported", it fails too if .github/vulnerabilities.txt is not the list of the others.
set -eu
cd "$(dirname "$0")/../.."

govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# findings prints "called ID" or "imported ID". What has neither a function nor a package is in a module only.
findings() {
	jq --raw-output '.finding | select(. != null)
		| if .trace[0].function then "called " + .osv elif .trace[0].package then "imported " + .osv else empty end' "$@"
}

which=$1
shift
for module; do
	go run "$govulncheck" -C "$module" -format json ./... >"$folder/report.json"
	findings "$folder/report.json" >>"$folder/findings"
done
sed -n 's/^called //p' "$folder/findings" | sort -u >"$folder/called"
sed -n 's/^imported //p' "$folder/findings" | sort -u | comm -23 - "$folder/called" >"$folder/imported"
sed -n 's/^\(GO-[0-9-]*\) .*/\1/p' .github/vulnerabilities.txt | sort -u >"$folder/listed"

status=0
if [ -s "$folder/called" ]; then
	echo "Our code calls vulnerable functions (https://pkg.go.dev/vuln/ has them):"
	cat "$folder/called"
	status=1
fi
if [ "$which" = imported ] && ! diff "$folder/listed" "$folder/imported"; then
	echo "Add what is only on the right (>) to .github/vulnerabilities.txt, with why, and take out what is only on the left."
	status=1
fi
exit "$status"
