#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: fuuffy-reminder.sh [mount…]
#
# Prints what to type for each mount where something is to be done: credentials that are
# due within rotation_reminder, a rotation that is not completed. Prints nothing if there
# is nothing to do, and fails if Vault doesn't say. For cron, which mails what a job prints,
# or for fuuffy-reminder.timer. If FUUFFY_REMINDER_URL_FILE names a file with an address,
# it also posts {"text": "…"} there, as chat systems take it.
#
# VAULT_ADDR and VAULT_TOKEN are as for vault itself; ../policies/monitor.hcl has what the
# token must be allowed to do. Without VAULT_TOKEN it logs in with AppRole, with the files
# role_id and secret_id in /etc/fuuffy-monitor.
set -eu
unset VAULT_FORMAT
[ $# -gt 0 ] || set -- fuuffy

login=/etc/fuuffy-monitor
if [ -z "${VAULT_TOKEN:-}" ]; then
    VAULT_TOKEN=$(vault write -field=token auth/approle/login role_id=@"$login/role_id" secret_id=@"$login/secret_id")
    export VAULT_TOKEN
fi

rotation() {
    vault read -field="$2" "$1/rotate-root"
}

remind() {
    status=0
    for mount in "$@"; do
        if ! step=$(rotation "$mount" next_step) || ! days=$(rotation "$mount" days_left); then
            echo "$mount/: Vault doesn't say how the rotation stands."
            status=1
            continue
        fi
        case $step in
        "Nothing until "*) ;;
        *) printf '%s/, days left: %s. %s\n' "$mount" "$days" "$step" ;;
        esac
    done
    return $status
}

# post has neither the text nor the address, which may be a secret, on a command line.
post() {
    url=$(cat "$FUUFFY_REMINDER_URL_FILE")
    text=$(printf '%s\n' "$1" | sed 's/[\\"]/\\&/g; s/$/\\n/' | tr -d '\n')
    {
        printf 'url = "%s"\n' "$url"
        printf 'header = "Content-Type: application/json"\n'
        printf 'data-raw = "%s"\n' "$(printf '{"text": "%s"}' "$text" | sed 's/[\\"]/\\&/g')"
    } | curl --silent --show-error --fail --output /dev/null --max-time 30 --config -
}

failed=
reminder=$(remind "$@") || failed=yes
if [ -n "$reminder" ]; then
    printf '%s\n' "$reminder"
    if [ -n "${FUUFFY_REMINDER_URL_FILE:-}" ]; then
        post "$reminder"
    fi
fi
[ -z "$failed" ]
