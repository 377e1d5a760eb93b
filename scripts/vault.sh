#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Prints the path of a usable vault on stdout, and everything else on stderr:
#
#   1. $VAULT_BIN, if set (an error if it is no good);
#   2. vault from PATH, if it is version 1.17 or newer;
#   3. Vault built from its Go module (tools/vault), once per user.
#
# Several may run at once: one builds and the others wait for it.
set -eu

minimum_minor=17     # Older versions than 1.17 are not considered.
built_version=1.21.2 # What tools/vault/go.mod requires.
sign_of_life=20      # Seconds between two lines of progress.
silent_owner=120     # Seconds without news after which the owner of a lock counts as dead.

say() { echo "vault.sh: $*" >&2; }

fail() {
	say "$@"
	exit 1
}

# version_of prints the version of a vault binary, as in 1.21.2, or nothing.
version_of() {
	"$1" version 2>/dev/null </dev/null | sed -n 's/^Vault v\([0-9][0-9.]*\).*/\1/p'
}

# new_enough tells whether a version is at least 1.$minimum_minor.
new_enough() {
	major=${1%%.*}
	rest=${1#*.}
	minor=${rest%%.*}
	[ -n "$1" ] && { [ "$major" -gt 1 ] || { [ "$major" -eq 1 ] && [ "$minor" -ge "$minimum_minor" ]; }; }
}

# absolute prints a path so that it holds in other folders too.
absolute() {
	case $1 in
	/*) echo "$1" ;;
	*) echo "$(pwd)/$1" ;;
	esac
}

use_given() {
	command -v "$VAULT_BIN" >/dev/null 2>&1 ||
		fail "VAULT_BIN=$VAULT_BIN is not an executable file. Correct it, or unset it to have a vault found or built."
	version=$(version_of "$VAULT_BIN")
	new_enough "$version" ||
		fail "VAULT_BIN=$VAULT_BIN is ${version:-not Vault}; 1.$minimum_minor or newer is needed. Correct it, or unset it to have a vault found or built."
	absolute "$(command -v "$VAULT_BIN")"
}

# use_path prints the vault in PATH if it is new enough.
use_path() {
	found=$(command -v vault) || return 1
	version=$(version_of "$found")
	if ! new_enough "$version"; then
		say "$found is ${version:-not Vault}; 1.$minimum_minor or newer is needed, so it is left alone"
		return 1
	fi
	absolute "$found"
}

now() { date +%s; }

# minutes writes seconds as in 2m05s.
minutes() { printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); }

# The lock is a file that only one can create. It names its owner and counts
# the seconds the owner has worked, so that the others can tell a living owner
# from a dead one, even on another machine that shares the folder, or when the
# process number belongs to somebody else by now.
take_lock() { (set -C && lock_text 0 >"$lock") 2>/dev/null; }

lock_text() { echo "$$ $(uname -n) $1"; }

# owner_died takes what the lock says and for how many seconds it has said so.
# An empty lock is being written at this moment.
owner_died() {
	[ "$2" -lt "$silent_owner" ] || return 0
	set -- $1
	[ "$#" -ge 2 ] && [ "$2" = "$(uname -n)" ] && ! kill -0 "$1" 2>/dev/null
}

# drop_dead_lock removes the lock if it still says what it said when its owner
# was found dead. Between the look and the move, somebody else may have done the
# same and taken it, so a lock that says something else is put back. Should
# even that go wrong, two build at once, each into a file of its own.
drop_dead_lock() {
	mv "$lock" "$lock.$$" 2>/dev/null || return 0
	[ "$(cat "$lock.$$")" = "$1" ] || (set -C && cat "$lock.$$" >"$lock") 2>/dev/null || :
	rm -f "$lock.$$"
}

# wait_for_other returns when the lock is gone or was taken from a dead owner.
# It counts the looks, one a second, rather than ask the clock: a computer that
# slept has not shown that anybody died.
wait_for_other() {
	waited=0
	quiet=0
	before=
	while text=$(cat "$lock" 2>/dev/null); do
		[ "$text" = "$before" ] || quiet=0
		before=$text
		if owner_died "$text" "$quiet"; then
			say "the run that was building Vault (process ${text%% *}) is gone; taking over"
			drop_dead_lock "$text"
			return
		fi
		[ $((waited % sign_of_life)) -ne 0 ] ||
			say "another run (process ${text%% *}) is building Vault; waiting, $(minutes "$waited") so far"
		waited=$((waited + 1))
		quiet=$((quiet + 1))
		sleep 1
	done
}

# clean_up runs on every way out that a shell can see.
clean_up() {
	[ -z "$compiler" ] || kill "$compiler" 2>/dev/null || :
	case $(cat "$lock" 2>/dev/null) in
	"$$ $(uname -n) "*) rm -f "$lock" ;;
	esac
	rm -f "$folder/vault.new.$$" "$lock.$$" "$lock.text.$$"
}

# build compiles tools/vault into a file of its own and moves it into place.
# It clears GOFLAGS (by a harmless value, for an empty one would let "go env -w"
# have its way): other flags would make Go compile all of Vault once more.
build() {
	command -v go >/dev/null 2>&1 ||
		fail "there is no vault 1.$minimum_minor or newer in PATH, and no go to build one with. Install Go (https://go.dev/dl/) or Vault."
	rm -f "$folder"/vault.new.* # What runs that were killed have left.
	say "there is no vault 1.$minimum_minor or newer in PATH: building Vault $built_version from source"
	say "this takes about 8 minutes the first time, once per user; it ends up in $folder"
	log=$folder/build.log
	begun=$(now)
	reported=$begun
	(cd "$module" && exec env GOFLAGS=-buildvcs=false GOWORK=off \
		go build -mod=readonly -tags minimal -o "$folder/vault.new.$$" .) >"$log" 2>&1 </dev/null &
	compiler=$!
	while kill -0 "$compiler" 2>/dev/null; do
		sleep 1
		if [ $(($(now) - reported)) -ge "$sign_of_life" ]; then
			reported=$(now)
			lock_text $((reported - begun)) >"$lock.text.$$"
			mv "$lock.text.$$" "$lock"
			say "still building, $(minutes $((reported - begun))) so far"
		fi
	done
	status=0
	wait "$compiler" || status=$?
	compiler=
	[ "$status" -eq 0 ] || build_failed "go build ended with status $status"
	[ -n "$(version_of "$folder/vault.new.$$")" ] || build_failed "what was built does not run"
	mv "$folder/vault.new.$$" "$vault"
	say "Vault is built, in $(minutes $(($(now) - begun)))"
}

build_failed() {
	say "building Vault failed: $1. The end of $log:"
	tail -n 20 "$log" | sed 's/^/    /' >&2
	fail "Put right what it says (usually the network, a full disk or an old Go) and run this again: what was compiled so far is kept. Or install Vault 1.$minimum_minor or newer in PATH, or name one in VAULT_BIN."
}

use_built() {
	module=$(cd "$(dirname "$0")/../tools/vault" && pwd)
	key=$(cat "$module/go.mod" "$module/go.sum" "$module/main.go" | cksum | sed 's/ .*//')
	folder=${XDG_CACHE_HOME:-$HOME/.cache}/vault-plugin-secrets-fuuffy/vault-$built_version-$key
	vault=$folder/vault
	lock=$folder/lock
	compiler=
	[ -x "$vault" ] || mkdir -p "$folder" || fail "cannot make $folder. Set XDG_CACHE_HOME to a folder that you may write to."
	trap clean_up EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	while [ ! -x "$vault" ]; do
		if take_lock; then
			# The one who had the lock before may have finished just now.
			[ -x "$vault" ] || build
		elif [ -e "$lock" ]; then
			wait_for_other
		else
			[ -w "$folder" ] || fail "cannot write to $folder. Set XDG_CACHE_HOME to a folder that you may write to."
		fi
	done
	echo "$vault"
}

if [ -n "${VAULT_BIN:-}" ]; then
	use_given
else
	use_path || use_built
fi
