#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: targets.sh NODE... >fuuffy.yml.new && mv fuuffy.yml.new fuuffy.yml
#
# Prints Prometheus' targets for all mounts of the engine in this Vault: each mount on each
# node of the cluster, such as vault-1.example.com:8200 or [2001:db8::1]:8200. Run it again
# after you add or remove a mount. VAULT_ADDR and VAULT_TOKEN are as for vault itself; the token
# needs read on sys/mounts. With mv, a failure leaves the file as it was. Prometheus forgets
# all targets of an empty one.
set -eu
unset VAULT_FORMAT

usage() { echo "Usage: targets.sh NODE... (such as vault-1.example.com:8200, without https://)" >&2; exit 2; }

[ $# -gt 0 ] || usage
for node; do
    case $node in
    "" | -* | *[!][A-Za-z0-9._:-]*) usage ;;
    esac
done
nodes=$(printf '"%s", ' "$@")
namespace=${VAULT_NAMESPACE:+${VAULT_NAMESPACE%/}/}
mounts=$(vault secrets list) # Not in the pipe, which would hide a failure.
printf '%s\n' "$mounts" | awk -v nodes="${nodes%, }" -v namespace="$namespace" '
    $2 == "fuuffy" || $2 == "vault-plugin-secrets-fuuffy" {
        sub("/$", "", $1)
        printf "- targets: [%s]\n  labels: {mount: \"%s%s\"}\n", nodes, namespace, $1
    }'
