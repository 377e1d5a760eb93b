#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: setup.sh ./fuuffy.env
#
# Applies the state that the file declares: registers the plugin, runs that version of the
# engine, configures it, and writes the policies. It changes only what differs, and prints
# what. Run it after each change of the file, or every night.
#
# VAULT_ADDR and VAULT_TOKEN are as for vault itself; installer.hcl is the policy that the
# token needs. The script reads the client secret from the file FUUFFY_CLIENT_SECRET_FILE
# (such as /dev/stdin) only if there are no credentials yet, or if the address changes.
# Otherwise credentials change by rotation, which this script leaves alone.
set -eu
unset VAULT_FORMAT

policy_folder=$(dirname "$0")/../policies
changes=0
rehearsing=
problem=$(mktemp)
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

clean_up() {
    rm -f "$problem"
    [ -z "$rehearsing" ] || end_rehearsal
}

fail() {
    echo "setup.sh: $*" >&2
    exit 1
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

# field prints a field of the JSON in $answer, which has one field on each line.
field() {
    printf '%s\n' "$answer" | sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p"
}

register() {
    answer=$(look read -format=json "sys/plugins/catalog/secret/$plugin_name" version="$plugin_version")
    case $(field sha256) in
    "$plugin_sha256") return ;;
    "") ;;
    *) fail "$plugin_name $plugin_version is registered with another checksum. Give the new build another version, or deregister this one first." ;;
    esac
    vault plugin register -version="$plugin_version" -command="$plugin_command" -sha256="$plugin_sha256" secret "$plugin_name" >/dev/null
    changed "registered $plugin_name $plugin_version"
}

enable() {
    answer=$(look read -format=json "sys/mounts/$mount")
    case $(field type) in
    "$plugin_name") upgrade ;;
    "")
        vault secrets enable -seal-wrap -path="$mount" -plugin-version="$plugin_version" "$plugin_name" >/dev/null
        changed "enabled $mount/ with $plugin_version"
        ;;
    *) fail "$mount/ is another secrets engine: $(field type)" ;;
    esac
}

upgrade() {
    running=$(field running_plugin_version)
    if [ "$(field plugin_version)" != "$plugin_version" ]; then
        rehearse
        vault secrets tune -plugin-version="$plugin_version" "$mount" >/dev/null
        changed "chose $plugin_version for $mount/"
    fi
    if [ "$running" != "$plugin_version" ]; then
        vault write -force sys/plugins/reload/backend mounts="$mount" scope=global >/dev/null
        changed "reloaded $mount/, which ran $running"
    fi
}

# rehearse starts the version on a separate mount. A reload stops the old version before it
# starts the new one. If the new one can't start, apps get no tokens.
rehearse() {
    end_rehearsal # Left over from a run that was killed.
    rehearsing=yes
    vault secrets enable -path="$mount-rehearsal" -plugin-version="$plugin_version" "$plugin_name" >/dev/null
    rehearsing=
    end_rehearsal
}

end_rehearsal() {
    vault secrets disable "$mount-rehearsal" >/dev/null
}

configure() {
    answer=$(look read -format=json "$mount/config")
    held_client=$(field client_id)
    credentials=keep
    [ -n "$held_client" ] || credentials=write
    set --
    for setting in $config; do
        # The engine stores an address without trailing slashes.
        case $setting in base_url=*/) setting=$(printf %s "$setting" | sed 's,/*$,,') ;; esac
        if [ "$(field "${setting%%=*}")" != "${setting#*=}" ]; then
            set -- "$@" "$setting"
            case $setting in environment=* | base_url=*) credentials=write ;; esac
        fi
    done
    ca_cert=
    [ -z "$ca_cert_file" ] || ca_cert=$(cat "$ca_cert_file")
    held_ca_cert=$(look read -field=ca_cert "$mount/config")
    if [ "$held_ca_cert" != "$ca_cert" ]; then
        set -- "$@" "ca_cert=$ca_cert"
        credentials=write
    fi

    if [ "$credentials" = write ]; then
        [ -r "${FUUFFY_CLIENT_SECRET_FILE:-}" ] || fail "This needs the client secret of $client_id. Name the file that has it in FUUFFY_CLIENT_SECRET_FILE."
        set -- "$@" client_id="$client_id" client_secret=@"$FUUFFY_CLIENT_SECRET_FILE"
    elif [ "$held_client" != "$client_id" ]; then
        fail "$mount/ has the credentials of client $held_client, not of $client_id. Rotate them (docs/rotation.md), or correct client_id."
    fi
    [ $# -gt 0 ] || return 0
    vault write "$mount/config" "$@" >/dev/null
    changed "configured $mount/"
}

write_policies() {
    for policy in $policies; do
        text=$(sed "s|\"fuuffy/|\"$mount/|" "$policy_folder/$policy.hcl")
        held_text=$(look policy read "$mount-$policy")
        if [ "$held_text" != "$text" ]; then
            printf '%s\n' "$text" | vault policy write "$mount-$policy" - >/dev/null
            changed "wrote the policy $mount-$policy"
        fi
    done
}

# verify reads the version from the engine itself. Vault's own tables show it even if the
# plugin can't start.
verify() {
    version=$(vault read -field=version "$mount/status" 2>"$problem") || :
    [ "$version" = "$plugin_version" ] || fail "$mount/ doesn't run $plugin_version: $version $(cat "$problem")"
}

report() {
    answer=$(look read -format=json "$mount/status")
    echo "$mount/ runs $plugin_version for client $(field client_id); Fuuffy: $(field upstream_state); changes: $changes"
}

. "$1"
register
enable
verify
configure
write_policies
report
