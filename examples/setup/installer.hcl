# SPDX-License-Identifier: MPL-2.0
#
# For whoever, or whatever, sets up the engine: docs/install.md by hand, or the script here.
# It allows to start any program in the plugin directory as Vault's user, and to write
# policies: guard it like a root token.
#
# It is for the mount fuuffy. For another one, here shop:
#
#     sed '/secret/!s,\(["/]\)fuuffy,\1shop,' installer.hcl | vault policy write shop-installer -

path "sys/plugins/catalog/secret/fuuffy" {
  capabilities = ["create", "read", "update", "sudo"]
}

path "sys/mounts" {
  capabilities = ["read"]
}

path "sys/mounts/fuuffy" {
  capabilities = ["create", "read", "update"]
}

path "sys/mounts/fuuffy/tune" {
  capabilities = ["update"]
}

path "sys/mounts/fuuffy-rehearsal" {
  capabilities = ["create", "update", "delete"]
}

path "sys/plugins/reload/backend" {
  capabilities = ["update"]
}

path "sys/plugins/reload/secret/fuuffy" {
  capabilities = ["update"]
}

path "sys/policies/acl/fuuffy-*" {
  capabilities = ["create", "read", "update"]
}

path "fuuffy/config" {
  capabilities = ["create", "read", "update"]
}

path "fuuffy/status" {
  capabilities = ["read"]
}
