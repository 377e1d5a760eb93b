#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Prints the orders of a Fuuffy account, as the app in main.go does. It needs only curl.
#
# Vault Agent (../agent/proxy.hcl) keeps the token in a file. If Fuuffy answers 401, the
# script reports the token through the Agent's socket, and retries once with the token from
# the response.
set -eu

base_url=${FUUFFY_BASE_URL:-https://api-gateway.fuuffy.com/v1}
token_file=${FUUFFY_TOKEN_FILE:-/run/fuuffy/token}
socket=${FUUFFY_AGENT_SOCKET:-/run/fuuffy/vault.sock}
mount=${FUUFFY_MOUNT:-fuuffy}
if [ -n "${FUUFFY_CA_CERT:-}" ]; then # For the sandbox, or for your own gateway.
    export CURL_CA_BUNDLE="$FUUFFY_CA_CERT"
fi

body=$(mktemp)
trap 'rm -f "$body"' EXIT

# get prints the status and writes the response to $body. The token goes through a pipe,
# because everyone on the machine can read a command line.
get() {
    printf 'header = "Authorization: Bearer %s"\n' "$2" |
        curl --silent --show-error --max-time 30 --config - --output "$body" --write-out '%{http_code}' "$base_url$1"
}

token=$(cat "$token_file")
case $token in
'' | *[!A-Za-z0-9._~+/=-]*) # The characters that RFC 6750 allows.
    echo "orders.sh: there is no token in $token_file" >&2
    exit 1
    ;;
esac
status=$(get /orders "$token")
if [ "$status" = 401 ]; then
    # Report the token, and retry once with the token from the response.
    answer=$(printf '{"rejected_token": "%s"}' "$token" |
        curl --silent --show-error --max-time 60 --noproxy '*' --unix-socket "$socket" \
            --header 'X-Vault-Request: true' --data @- "http://agent/v1/$mount/token")
    token=$(printf %s "$answer" | sed -n 's/.*"access_token":"\([A-Za-z0-9._~+/=-]*\)".*/\1/p')
    if [ -z "$token" ]; then
        echo "orders.sh: replace the token that Fuuffy rejected: Vault answered ${answer%%access_token*}" >&2
        exit 1
    fi
    status=$(get /orders "$token")
fi
if [ "$status" != 200 ]; then
    echo "orders.sh: Fuuffy answered $status: $(cat "$body")" >&2
    exit 1
fi
cat "$body"
