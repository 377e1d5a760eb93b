# SPDX-License-Identifier: MPL-2.0
#
# For Prometheus and for people who watch: no tokens, no credentials.

path "fuuffy/status" {
  capabilities = ["read"]
}

path "fuuffy/metrics" {
  capabilities = ["read"]
}
