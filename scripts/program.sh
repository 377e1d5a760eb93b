#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: program.sh vault | prometheus | promtool | vault-1.NN
#
# Prints the path of a usable program on stdout, and everything else on stderr:
#
#   1. $VAULT_BIN, $PROMETHEUS_BIN or $PROMTOOL_BIN, if set (it must be usable);
#      VAULT_BIN may also name OpenBao;
#   2. the program from PATH, if it is new enough;
#   3. the program built from its Go module in tools/, once per user.
#
# vault-1.NN is always what tools/vault-1.NN builds. Vault is under the Business Source
# License: use it for development and tests, never in a release.
set -eu

sign_of_life=20 # Seconds between two lines of progress.

say() { echo "program.sh: $*" >&2; }

fail() {
	say "$@"
	exit 1
}

# version_of prints the version of a binary, as in 1.21.2, or nothing.
version_of() {
	"$1" --version 2>&1 </dev/null | sed -n "s/^$banner\([0-9][0-9.]*\).*/\1/p"
}

# new_enough tells whether a version is at least $minimum.
new_enough() {
	major=${1%%.*}
	rest=${1#*.}
	minor=${rest%%.*}
	[ -n "$1" ] && { [ "$major" -gt "${minimum%.*}" ] ||
		{ [ "$major" -eq "${minimum%.*}" ] && [ "$minor" -ge "${minimum#*.}" ]; }; }
}

# absolute prints an absolute path.
absolute() {
	case $1 in
	/*) echo "$1" ;;
	*) echo "$(pwd)/$1" ;;
	esac
}

use_given() {
	remedy="Correct it, or unset it to have $program found or built."
	command -v "$given" >/dev/null 2>&1 ||
		fail "$variable=$given is not an executable file. $remedy"
	if [ "$program" = vault ] && "$given" --version 2>&1 </dev/null | grep -q '^OpenBao v'; then
		program=OpenBao
		banner='OpenBao v'
		minimum=2.5 # The oldest that the tests ran in.
	fi
	version=$(version_of "$given")
	new_enough "$version" ||
		fail "$variable=$given is ${version:-not $program}; $program $minimum or newer is needed. $remedy"
	absolute "$(command -v "$given")"
}

# use_path prints the program in PATH if it is new enough.
use_path() {
	found=$(command -v "$program") || return 1
	version=$(version_of "$found")
	if ! new_enough "$version"; then
		say "$found is ${version:-not $program}; $minimum or newer is needed, so program.sh does not use it"
		return 1
	fi
	absolute "$found"
}

now() { date +%s; }

# minutes writes seconds as in 2m05s.
minutes() { printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); }

# clean_up runs on every exit that a shell can trap.
clean_up() {
	[ -z "$compiler" ] || kill "$compiler" 2>/dev/null || :
	rm -f "$new"
}

# build compiles into its own file and moves it into place, so that two runs in parallel never
# see half a program. It overrides GOFLAGS, because other flags would make Go compile
# everything again. An empty GOFLAGS would let "go env -w" apply.
build() {
	command -v go >/dev/null 2>&1 ||
		fail "building $program needs Go. Install it (https://go.dev/dl/)${alternative:+, or $alternative}."
	find "$folder" -name '*.new.*' -mtime +1 -exec rm -f {} + # Left by runs that were killed.
	say "building $program $built_version from source${alternative:+ (there is no $program $minimum or newer in PATH)}"
	say "this takes $duration the first time, once per user; it ends up in $folder"
	log=$folder/build.log
	begun=$(now)
	reported=$begun
	(cd "$module" && exec env GOFLAGS=-buildvcs=false GOWORK=off \
		go build -mod=readonly "$flag" -o "$new" "$package") >"$log" 2>&1 </dev/null &
	compiler=$!
	while kill -0 "$compiler" 2>/dev/null; do
		sleep 1
		if [ $(($(now) - reported)) -ge "$sign_of_life" ]; then
			reported=$(now)
			say "still building, $(minutes $((reported - begun))) so far"
		fi
	done
	status=0
	wait "$compiler" || status=$?
	compiler=
	[ "$status" -eq 0 ] || build_failed "go build ended with status $status"
	[ -n "$(version_of "$new")" ] || build_failed "what was built does not run"
	mv "$new" "$built"
	say "$program is built, in $(minutes $(($(now) - begun)))"
}

build_failed() {
	say "building $program failed: $1. The end of $log:"
	tail -n 20 "$log" | sed 's/^/    /' >&2
	fail "Fix it (usually the network, a full disk, or an old Go) and run this again. Go keeps what it has compiled.${alternative:+ Or $alternative.}"
}

use_built() {
	key=$(cat "$module/go.mod" "$module/go.sum" | cksum | sed 's/ .*//')
	folder=${XDG_CACHE_HOME:-$HOME/.cache}/vault-plugin-secrets-fuuffy/$program-$built_version-$key
	built=$folder/$program
	if [ ! -x "$built" ]; then
		new=$built.new.$$
		compiler=
		trap clean_up EXIT
		trap 'exit 130' INT
		trap 'exit 143' TERM HUP
		{ mkdir -p "$folder" && [ -w "$folder" ]; } || fail "cannot write to $folder. Set XDG_CACHE_HOME to a directory that you may write to."
		build
	fi
	echo "$built"
}

# pinned prints the version of a Go module that go.mod requires.
pinned() { sed -n "s|.*$1 v\([0-9.]*\).*|\1|p" "$module/go.mod"; }

usage() { fail "name one of vault, prometheus, promtool, $(cd "$tools" && echo vault-*)"; }

tools=$(cd "$(dirname "$0")/../tools" && pwd)
case ${1:-} in
vault | vault-1.*)
	program=vault
	banner='Vault v'
	minimum=1.18
	module=$tools/vault-1.21
	[ "$1" = vault ] || module=$tools/$1
	[ -d "$module" ] || usage
	package=github.com/hashicorp/vault
	built_version=$(pinned "$package")
	flag=-tags=minimal # Without most of what can be built in.
	duration='about 8 minutes'
	;;
prometheus | promtool)
	program=$1
	banner="$1, version "
	minimum=2.42
	module=$tools/prometheus
	package=github.com/prometheus/prometheus/cmd/$1
	# The module has the version 0.305.0 for Prometheus 3.5.0.
	built_version=$(pinned github.com/prometheus/prometheus | sed 's/^0\.\([0-9]\)0\{0,1\}/\1./')
	flag=-ldflags=-X=github.com/prometheus/common/version.Version=$built_version
	duration='up to 4 minutes'
	;;
*) usage ;;
esac

if [ "$1" != "$program" ]; then
	alternative=
	use_built
	exit
fi
variable=$(echo "$program" | tr '[:lower:]' '[:upper:]')_BIN
alternative="install $program $minimum or newer in PATH, or name it in $variable"
eval "given=\${$variable:-}"
if [ -n "$given" ]; then
	use_given
else
	use_path || use_built
fi
