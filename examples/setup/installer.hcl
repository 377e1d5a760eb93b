# SPDX-License-Identifier: MPL-2.0
#
# For a person or pipeline that installs the engine, by hand (docs/install.md) or with the
# script here. It can start any program in the plugin directory as Vault's user, and write
# policies. Guard it like a root token.
#
# It covers the mount fuuffy. For another mount, such as shop:
#
#     sed -e '/secret/!s,\(["/]\)fuuffy\(["/]\),\1shop\2,' -e 's,acl/fuuffy,acl/shop,' installer.hcl | vault policy write shop-installer -
#
# For all mounts below shops/, write shops/+ for the first shop, and shops for the second.

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

# To start a new version before any mount runs it.
path "sys/mounts/fuuffy-rehearsal" {
  capabilities = ["create", "update", "delete"]
}

# To see why a mount doesn't run the version that you chose for it.
path "sys/plugins/pins" {
  capabilities = ["read"]
}

path "sys/plugins/reload/backend" {
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
