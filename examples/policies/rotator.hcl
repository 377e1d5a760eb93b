# SPDX-License-Identifier: MPL-2.0
#
# For whoever, or whatever, rotates the credentials: all steps of the rotation, but
# neither tokens nor the connection's settings.

path "fuuffy/rotate-root" {
  capabilities = ["read", "update", "delete"]
}

path "fuuffy/rotate-root/*" {
  capabilities = ["update"]
}

path "fuuffy/status" {
  capabilities = ["read"]
}
