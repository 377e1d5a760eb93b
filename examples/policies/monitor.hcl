# SPDX-License-Identifier: MPL-2.0
#
# For Prometheus, for reminders and for people who watch: no tokens, no credentials.

path "fuuffy/status" {
  capabilities = ["read"]
}

path "fuuffy/metrics" {
  capabilities = ["read"]
}

path "fuuffy/rotate-root" {
  capabilities = ["read"]
}
