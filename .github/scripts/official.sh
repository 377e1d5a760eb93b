#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: official.sh versions | vault [VERSION] | openbao VERSION
#
# "versions" prints the servers to test with as JSON: the newest patch of each Vault from 1.18 and each OpenBao from 2.4 on.
# Otherwise it downloads an official server for Linux, by default the newest Vault, checks its checksum, and prints its path.
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
	gh api --paginate repos/openbao/openbao/releases --jq '.[].tag_name | ltrimstr("v")' >releases
	newest openbao '[2, 4]' <releases
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
	version=${2:-$(vault_versions | jq --raw-output last.version)}
	archive=vault_${version}_linux_amd64.zip
	sums=vault_${version}_SHA256SUMS
	download "$vault/$version/$archive" "$archive"
	download "$vault/$version/$sums" "$sums"
	program=vault
	;;
openbao)
	version=$2
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
