# SPDX-License-Identifier: MPL-2.0
#
# For a person or pipeline that rotates the credentials: every rotation step, but neither
# tokens nor the connection's settings.

path "fuuffy/rotate-root" {
  capabilities = ["read", "update", "delete"]
}

path "fuuffy/rotate-root/*" {
  capabilities = ["update"]
}

path "fuuffy/status" {
  capabilities = ["read"]
}
