# SPDX-License-Identifier: MPL-2.0
#
# For apps, and for the Vault Agent or operator that works for them: read the token, and
# report one that got a 401 from Fuuffy.

path "fuuffy/token" {
  capabilities = ["read", "update"]
}
