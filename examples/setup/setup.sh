#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: setup.sh fuuffy.env
#        setup.sh DIRECTORY
#
# Applies the state that the file declares: registers the plugin, runs that version of the
# engine, configures it, and writes the policies. It changes only what differs, and prints
# what. Run it after each change of the file, or every night.
#
# In a directory, each file NAME.env declares one mount. common.env, if it is there, has what
# they share: the script reads it first, also if you name only one of the files.
#
# The files are shell code. Whoever may change one can run any command with your Vault token,
# so review a change as you review a change of this script.
#
# VAULT_ADDR and VAULT_TOKEN are as for vault itself; installer.hcl is the policy that the
# token needs. The script reads the client secret from the file FUUFFY_CLIENT_SECRET_FILE
# (such as /dev/stdin) only if there are no credentials yet, or if the address changes. For a
# directory, name a directory: NAME in it has the secret for NAME.env. Otherwise credentials
# change by rotation, which this script leaves alone.
set -euf # A * in a setting doesn't stand for file names.
unset VAULT_FORMAT

changes=0
rehearsing=
problem=$(mktemp)
trap 'rm -f "$problem"; end_rehearsal' EXIT
trap 'exit 1' HUP INT TERM

fail() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; } # In some shells, echo interprets backslashes.

usage() {
    echo "Usage: setup.sh FILE | DIRECTORY (copies of fuuffy.env that you edited)" >&2
    exit 2
}

# apply_directory applies each file, whatever becomes of the others.
apply_directory() {
    directory=$1
    set +f
    set -- "$1"/*.env
    set -f
    [ -e "$1" ] || usage
    failed='' others=''
    : >"$problem" # Each run adds its mount.
    for file; do
        name=$(basename "$file" .env)
        [ "$name" != common ] || continue
        others=yes
        FUUFFY_CLIENT_SECRET_FILE=${FUUFFY_CLIENT_SECRET_FILE:+$FUUFFY_CLIENT_SECRET_FILE/$name} \
            FUUFFY_MOUNTS=$problem sh "$0" "$file" || failed="$failed $name"
    done
    [ -n "$others" ] || fail "There is no mount to set up: $directory has only common.env."
    [ -z "$failed" ] || fail "These failed:$failed"
}

changed() {
    echo "$*"
    changes=$((changes + 1))
}

# look prints what Vault has: nothing if it isn't there, which isn't a failure.
look() {
    vault "$@" 2>"$problem" && return
    case $(cat "$problem") in
    *"No value found"* | *"No secret engine mount"* | *"No policy named"*) ;;
    *) fail "$(cat "$problem")" ;;
    esac
}

register() {
    held=$(look read -field=sha256 "sys/plugins/catalog/secret/$plugin_name" version="$plugin_version")
    command=$(look read -field=command "sys/plugins/catalog/secret/$plugin_name" version="$plugin_version")
    [ "$held $command" != "$plugin_sha256 $plugin_command" ] || return 0
    if [ "${held:-$plugin_sha256}" != "$plugin_sha256" ]; then # Vault couldn't restart a mount that runs it.
        mounts=$(vault secrets list -detailed)
        ! printf '%s\n' "$mounts" | grep -F " $plugin_name " | grep -qF " $plugin_version " ||
            fail "$plugin_name $plugin_version is registered with another checksum, and a mount runs it. Give the new build another version."
    fi
    vault plugin register -version="$plugin_version" -command="$plugin_command" -sha256="$plugin_sha256" secret "$plugin_name" >/dev/null
    changed "registered $plugin_name $plugin_version"
}

enable() {
    type=$(look read -field=type "sys/mounts/$mount")
    if [ -z "$type" ]; then
        vault secrets enable -seal-wrap -path="$mount" -plugin-version="$plugin_version" "$plugin_name" >/dev/null
        changed "enabled $mount/ with $plugin_version"
    fi
    [ "${type:-$plugin_name}" = "$plugin_name" ] || fail "$mount/ is another secrets engine: $type. Choose another mount."
    chosen=$(vault read -field=plugin_version "sys/mounts/$mount")
    running=$(vault read -field=running_plugin_version "sys/mounts/$mount")
    [ "$chosen $running" = "$plugin_version $plugin_version" ] || switch
    # Ask the engine itself. Vault's own tables show the version even if it can't start.
    version=$(vault read -field=version "$mount/status" 2>"$problem") || :
    [ "$version" = "$plugin_version" ] || fail "$mount/ doesn't run $plugin_version. docs/install.md explains what Vault says: $version $(cat "$problem")"
}

# switch starts the version on a separate mount first. A reload stops the old version before
# it starts the new one. If the new one can't start, apps get no tokens.
switch() {
    vault secrets disable "$plugin_name-rehearsal" >/dev/null # Left over from a run that was killed.
    rehearsing=yes
    vault secrets enable -path="$plugin_name-rehearsal" -plugin-version="$plugin_version" "$plugin_name" >/dev/null
    end_rehearsal
    vault secrets tune -plugin-version="$plugin_version" "$mount" >/dev/null
    vault write -force sys/plugins/reload/backend mounts="$mount" scope=global >/dev/null
    changed "switched $mount/ from $running to $plugin_version"
}

end_rehearsal() {
    [ -z "$rehearsing" ] || vault secrets disable "$plugin_name-rehearsal" >/dev/null
    rehearsing=
}

configure() {
    before=$(look read -format=json -field=data "$mount/config")
    client=$(look read -field=client_id "$mount/config")
    # This comes before every other comparison, so that no change undoes a rotation.
    [ "${client:-$client_id}" = "$client_id" ] || fail "$mount/ has the credentials of client $client, not of $client_id. After a rotation, correct client_id in the file. Otherwise rotate first: docs/rotation.md."
    set -- environment="$environment" $config ca_cert="${ca_cert_file:+@$ca_cert_file}"
    if [ -z "$client" ]; then
        write_with_secret "$@" client_id="$client_id"
    # The engine compares. It demands the secret for another address, so that no one who doesn't
    # know the secret can have it sent there. Without the client ID, this write can't undo a
    # rotation that happens right now.
    elif ! vault write "$mount/config" "$@" >/dev/null 2>"$problem"; then
        grep -q client_secret "$problem" || fail "$(cat "$problem")"
        write_with_secret "$@"
    fi
    after=$(look read -format=json -field=data "$mount/config")
    [ "$after" = "$before" ] || changed "configured $mount/"
}

write_with_secret() {
    [ -r "${FUUFFY_CLIENT_SECRET_FILE:-}" ] && [ ! -d "$FUUFFY_CLIENT_SECRET_FILE" ] || fail "This needs the client secret of $client_id. Set FUUFFY_CLIENT_SECRET_FILE to a readable file that contains it. It is ${FUUFFY_CLIENT_SECRET_FILE:-not set}."
    vault write "$mount/config" "$@" client_secret=@"$FUUFFY_CLIENT_SECRET_FILE" >/dev/null
}

# write_policy writes a policy of ../policies for the mounts at a path: shops/+ is all below shops/.
write_policy() {
    text=$(sed "s|^path \"\(sys/mounts/\)*fuuffy\([\"/]\)|path \"\1$2\2|" "$(dirname "$0")/../policies/$1.hcl")
    name=$(printf %s "${2%/+}-$1" | tr / -)
    held=$(look policy read "$name")
    [ "$held" != "$text" ] || return 0
    printf '%s\n' "$text" | vault policy write "$name" - >/dev/null
    changed "wrote the policy $name"
}

[ $# -eq 1 ] || usage
case $1 in -*) set -- "./$1" ;; esac
if [ -d "$1" ]; then
    apply_directory "$1"
    exit
fi
[ -r "$1" ] || usage
# What the files don't set is missing, whatever the environment has.
unset plugin_name plugin_version plugin_command plugin_sha256 client_id environment config ca_cert_file policies
mount='' shared_policies=''
folder=$(dirname "$1") # Without a slash, "." would search PATH.
for file in "$folder/common.env" "$folder/$(basename "$1")"; do
    [ -r "$file" ] || continue
    ! grep -q "$(printf '\r')" "$file" || fail "$file has Windows line ends. Remove them: tr -d '\r'"
    . "$file"
done
case $mount in # In a policy, + and * stand for other paths, and a quote ends the path.
"" | [/-]* | */ | *[!A-Za-z0-9._/-]*) fail "mount=$mount: use letters, digits, and . _ - /, without a / at either end." ;;
esac
case $config in # Vault would get the secret on a command line, and another client by mistake.
*client_id=* | *client_secret=*) fail "config has client_id or client_secret. Set client_id outside of it, and FUUFFY_CLIENT_SECRET_FILE." ;;
esac
[ "$mount" != "$plugin_name-rehearsal" ] || fail "mount=$mount: the script uses this mount for rehearsals. Choose another."
if [ -n "${FUUFFY_MOUNTS:-}" ]; then # Two files would undo each other's changes, or someone forgot to edit a copy.
    name=$(printf %s "$mount" | tr / -) # As in the names of the policies.
    ! grep -qxF "$name" "$FUUFFY_MOUNTS" || fail "mount=$mount: another file of this directory has this mount, or policies of the same names."
    echo "$name" >>"$FUUFFY_MOUNTS"
fi
[ -z "$shared_policies" ] || [ "${mount%/*}" != "$mount" ] || fail "mount=$mount: shared_policies are for mounts such as shops/north, below one path."
[ -n "$(printf %s "$plugin_sha256" | tr -d 0)" ] ||
    fail "Set plugin_sha256 to the checksum of your build: sha256sum bin/vault-plugin-secrets-fuuffy"
register
enable
configure
for policy in $policies; do write_policy "$policy" "$mount"; done
for policy in $shared_policies; do write_policy "$policy" "${mount%/*}/+"; done
health=$(vault read -field=health "$mount/status")
echo "$mount/ runs $plugin_version for client $client_id; health: $health; changes: $changes"
