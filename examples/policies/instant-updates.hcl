# SPDX-License-Identifier: MPL-2.0
#
# For the Vault Secrets Operator with syncConfig.instantUpdates, in addition to app.hcl:
# the operator reads a new token when the one that apps hold is dead. Vault Enterprise
# only. OpenBao has neither events nor this capability.

path "sys/events/subscribe/fuuffy*" {
  capabilities = ["read"]
}

# The operator looks up the type of the mount, by which it subscribes.
path "sys/mounts/fuuffy" {
  capabilities = ["read"]
}

path "fuuffy/token" {
  capabilities          = ["subscribe"]
  subscribe_event_types = ["fuuffy*"]
}
