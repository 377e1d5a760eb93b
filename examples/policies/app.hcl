# SPDX-License-Identifier: MPL-2.0
#
# For apps, and for the Vault Agent or the operator that works for them: read the
# token, and report one that Fuuffy answered with 401.

path "fuuffy/token" {
  capabilities = ["read", "update"]
}
