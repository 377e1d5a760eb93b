#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Usage: targets.sh NODE... >fuuffy.yml
#
# Prints Prometheus' targets for all mounts of the engine in this Vault: each mount on each
# node of the cluster, such as vault-1.example.com:8200. Run it again after you add or remove
# a mount. VAULT_ADDR and VAULT_TOKEN are as for vault itself; the token needs read on sys/mounts.
set -eu
unset VAULT_FORMAT

[ $# -gt 0 ] || { echo "Usage: targets.sh NODE... (such as vault-1.example.com:8200)" >&2; exit 2; }
nodes=$(printf '%s, ' "$@")
mounts=$(vault secrets list) # Not in the pipe, which would hide a failure.
printf '%s\n' "$mounts" | awk -v nodes="${nodes%, }" '
    $2 == "fuuffy" || $2 == "vault-plugin-secrets-fuuffy" {
        sub("/$", "", $1)
        printf "- targets: [%s]\n  labels: {mount: %s}\n", nodes, $1
    }'
