#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: fuuffy-reminder.sh [mount…]
#
# Prints what to type for each mount that needs you: its credentials are due within
# rotation_reminder, or a rotation isn't complete. Prints nothing if no action is needed,
# and fails if Vault doesn't say. Run it from cron, which mails what a job prints, or with
# fuuffy-reminder.timer. If FUUFFY_REMINDER_URL_FILE names a file with an address, the
# script also posts {"text": "…"} there, which most chat systems accept.
#
# Set VAULT_ADDR, VAULT_CACERT, and VAULT_TOKEN as for vault. The token needs ../policies/monitor.hcl.
# Without VAULT_TOKEN, the script logs in with AppRole, with the files role_id and secret_id
# in /etc/fuuffy-monitor.
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
            echo "$mount/: Vault doesn't return the state of the rotation."
            status=1
            continue
        fi
        case $step in
        "No action needed"*) ;;
        # The next step has several lines, with a command at the end of a line.
        *) printf '%s/, days left: %s\n%s\n' "$mount" "$days" "$(printf '%s\n' "$step" | sed 's/^/  /')" ;;
        esac
    done
    return $status
}

# post keeps the text and the address off the command line: the address may be a secret.
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
