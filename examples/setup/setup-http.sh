#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: setup-http.sh ./fuuffy.env
#
# What setup.sh does, for where there is curl and no vault: the calls of Vault's HTTP API.
# The token is in VAULT_TOKEN; VAULT_NAMESPACE and VAULT_CACERT are heeded too.
#
# Everybody on the machine can read a command line. So secrets go to curl through files
# that only this user can read, and through standard input.
set -eu
umask 077

plugin=vault-plugin-secrets-fuuffy
policy_folder=$(dirname "$0")/../policies
changes=0
private=$(mktemp -d)
trap 'rm -rf "$private"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
{
    cat <<EOF
header = "X-Vault-Token: $VAULT_TOKEN"
EOF
    [ -z "${VAULT_NAMESPACE:-}" ] || echo "header = \"X-Vault-Namespace: $VAULT_NAMESPACE\""
    [ -z "${VAULT_CACERT:-}" ] || echo "cacert = \"$VAULT_CACERT\""
} >"$private/curl"

fail() {
    echo "setup-http.sh: $*" >&2
    exit 1
}

changed() {
    echo "$*"
    changes=$((changes + 1))
}

# call sends a request to a path, and leaves $status and $answer. More arguments are curl's.
call() {
    method=$1 path=$2
    shift 2
    status=$(curl --silent --show-error --max-time 90 --config "$private/curl" --request "$method" "$@" \
        --output "$private/answer" --write-out '%{http_code}' "$VAULT_ADDR/v1/$path")
    answer=$(cat "$private/answer")
}

# look leaves what there is at a path in $answer: nothing if it isn't there, which is no
# failure. For a mount Vault says that with 400.
look() {
    call GET "$1"
    case $status,$answer in
    200,*) ;;
    404,* | 400,*"No secret engine mount"*) answer= ;;
    *) refused ;;
    esac
}

# write sends the JSON on standard input to a path.
write() {
    call POST "$1" --data-binary @-
    succeeded
}

remove() {
    call DELETE "$1"
    succeeded
}

succeeded() {
    case $status in 200 | 202 | 204) ;; *) refused ;; esac
}

refused() { fail "$method $path: $status $answer"; }

# field prints a field of the JSON in $answer, escaped as it is there.
field() {
    printf '%s\n' "$answer" | sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"
}

# json escapes text as it is inside the quotes of JSON.
json() {
    awk '{ gsub(/[\\"]/, "\\\\&"); gsub(/\t/, "\\t"); printf "%s%s", separator, $0; separator = "\\n" }'
}

register() {
    look "sys/plugins/catalog/secret/$plugin?version=$plugin_version"
    case $(field sha256) in
    "$plugin_sha256") return ;;
    "") ;;
    *) fail "$plugin $plugin_version is registered with another checksum: give another build another version, or deregister this one first" ;;
    esac
    write "sys/plugins/catalog/secret/$plugin" <<EOF
{"version": "$plugin_version", "command": "$plugin_command", "sha256": "$plugin_sha256"}
EOF
    changed "registered $plugin $plugin_version"
}

enable() {
    look "sys/mounts/$mount"
    case $(field type) in
    "$plugin") upgrade ;;
    "")
        enable_at "$mount"
        changed "enabled $mount/ with $plugin_version"
        ;;
    *) fail "$mount/ is another secrets engine: $(field type)" ;;
    esac
}

enable_at() {
    write "sys/mounts/$1" <<EOF
{"type": "$plugin", "seal_wrap": true, "config": {"plugin_version": "$plugin_version"}}
EOF
}

upgrade() {
    running=$(field running_plugin_version)
    if [ "$(field plugin_version)" != "$plugin_version" ]; then
        rehearse
        write "sys/mounts/$mount/tune" <<EOF
{"plugin_version": "$plugin_version"}
EOF
        changed "chose $plugin_version for $mount/"
    fi
    if [ "$running" != "$plugin_version" ]; then
        write sys/plugins/reload/backend <<EOF
{"mounts": ["$mount"], "scope": "global"}
EOF
        changed "reloaded $mount/, which ran $running"
    fi
}

# rehearse starts the version on a mount of its own. A reload ends the old version before
# it starts the new one: if that can't start, apps get no tokens.
rehearse() {
    enable_at "$mount-rehearsal"
    remove "sys/mounts/$mount-rehearsal"
}

configure() {
    look "$mount/config"
    held_client=$(field client_id)
    credentials=keep
    [ -n "$held_client" ] || credentials=write
    body=
    for setting in $config; do
        if [ "$(field "${setting%%=*}")" != "${setting#*=}" ]; then
            set_field "${setting%%=*}" "${setting#*=}"
            case $setting in environment=* | base_url=*) credentials=write ;; esac
        fi
    done
    ca_cert=
    [ -z "$ca_cert_file" ] || ca_cert=$(json <"$ca_cert_file")
    if [ "$(field ca_cert)" != "$ca_cert" ]; then
        set_field ca_cert "$ca_cert"
        credentials=write
    fi

    if [ "$credentials" = write ]; then
        [ -r "${FUUFFY_CLIENT_SECRET_FILE:-}" ] || fail "the client secret of $client_id is needed: name the file that has it in FUUFFY_CLIENT_SECRET_FILE"
        set_field client_id "$client_id"
        set_field client_secret "$(json <"$FUUFFY_CLIENT_SECRET_FILE")"
    elif [ "$held_client" != "$client_id" ]; then
        fail "$mount/ has the credentials of client $held_client, not of $client_id. Change them by rotation (docs/rotation.md), or correct client_id."
    fi
    [ -n "$body" ] || return 0
    write "$mount/config" <<EOF
{$body}
EOF
    changed "configured $mount/"
}

# set_field adds a field to what is written to the configuration.
set_field() {
    body="$body${body:+, }\"$1\": \"$2\""
}

write_policies() {
    for policy in $policies; do
        text=$(sed "s|\"fuuffy/|\"$mount/|" "$policy_folder/$policy.hcl" | json)'\n'
        look "sys/policies/acl/$mount-$policy"
        case $answer in *"\"policy\":\"$text\""*) continue ;; esac
        write "sys/policies/acl/$mount-$policy" <<EOF
{"policy": "$text"}
EOF
        changed "wrote the policy $mount-$policy"
    done
}

# verify asks the engine itself. Vault's own tables say the same while the plugin can't be
# started, and then the configuration only seems to be missing.
verify() {
    call GET "$mount/status"
    case $(field version),$answer in
    "$plugin_version",* | *"no Fuuffy credentials yet"*) ;;
    *) fail "$mount/ does not run $plugin_version: $status $answer" ;;
    esac
}

report() {
    look "$mount/status"
    echo "$mount/ runs $plugin_version for client $(field client_id); Fuuffy: $(field upstream_state); changes: $changes"
}

. "$1"
register
enable
verify
configure
write_policies
report
