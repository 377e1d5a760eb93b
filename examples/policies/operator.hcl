# SPDX-License-Identifier: MPL-2.0
#
# For the platform team: everything that the engine offers.

path "fuuffy/config" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

path "fuuffy/token" {
  capabilities = ["read", "update", "delete"]
}

path "fuuffy/rotate-root" {
  capabilities = ["read", "update", "delete"]
}

path "fuuffy/rotate-root/*" {
  capabilities = ["update"]
}

path "fuuffy/status" {
  capabilities = ["read"]
}

path "fuuffy/metrics" {
  capabilities = ["read"]
}
