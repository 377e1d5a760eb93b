#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: official.sh versions | vault [VERSION] | openbao [VERSION]
#
# "versions" prints the servers to test with as JSON: the newest patch of each Vault from 1.18 and each OpenBao from 2.5 on.
# Otherwise it downloads an official server for Linux, checks its checksum, and prints its path. A version may have no patch,
# as 1.21: its newest then. Without a version, it is the newest of all. It needs no login.
set -eu

vault=https://releases.hashicorp.com/vault
openbao=https://github.com/openbao/openbao/releases/download

download() { curl --fail --silent --show-error --location --retry 3 --output "$2" "$1"; }

# newest reads versions, one per line, and prints the newest patch of each minor from $2 on. Candidates don't count.
newest() {
	jq --raw-input --null-input --compact-output --arg server "$1" --argjson oldest "$2" '
		[inputs | select(test("^[0-9]+\\.[0-9]+\\.[0-9]+$")) | split(".") | map(tonumber) | select(.[:2] >= $oldest)]
		| group_by(.[:2]) | map({server: $server, version: max | map(tostring) | join(".")})'
}

vault_versions() {
	download "$vault/index.json" index.json
	jq --raw-output '.versions | keys[]' index.json | newest vault '[1, 18]'
}

openbao_versions() {
	git ls-remote --tags https://github.com/openbao/openbao >tags
	sed -n 's,.*[[:space:]]refs/tags/v\([0-9.]*\)$,\1,p' tags | newest openbao '[2, 5]'
}

# choose prints the version in $1, or the newest one that begins with it, of those on stdin.
choose() {
	jq --raw-output --arg begin "$1" '[.[].version | select(. == $begin or $begin == "" or startswith($begin + "."))] | last // $begin'
}

folder=$(mktemp -d)
cd "$folder"
case $1 in
versions)
	vault_versions >versions
	openbao_versions >>versions
	jq --slurp --compact-output add versions
	exit
	;;
vault)
	version=$(vault_versions | choose "${2:-}")
	archive=vault_${version}_linux_amd64.zip
	sums=vault_${version}_SHA256SUMS
	download "$vault/$version/$archive" "$archive"
	download "$vault/$version/$sums" "$sums"
	program=vault
	;;
openbao)
	version=$(openbao_versions | choose "${2:-}")
	# The names are others since 2.6.
	archive=openbao_${version}_linux_amd64.tar.gz
	sums=checksums.txt
	if ! download "$openbao/v$version/$archive" "$archive"; then
		archive=bao_${version}_Linux_x86_64.tar.gz
		sums=checksums-linux.txt
		download "$openbao/v$version/$archive" "$archive"
	fi
	download "$openbao/v$version/$sums" "$sums"
	program=bao
	;;
esac
grep "  $archive\$" "$sums" | sha256sum --check --status
case $archive in
*.zip) unzip -q "$archive" "$program" ;;
*) tar -xzf "$archive" "$program" ;;
esac
echo "$folder/$program"
