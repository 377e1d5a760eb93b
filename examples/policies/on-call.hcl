# SPDX-License-Identifier: MPL-2.0
#
# For the person on call: see what is wrong, and test which credentials work. No tokens, no
# credentials, and no change. To fix things, you need rotator.hcl or operator.hcl.

path "fuuffy/status" {
  capabilities = ["read"]
}

path "fuuffy/rotate-root" {
  capabilities = ["read"]
}

path "fuuffy/rotate-root/check" {
  capabilities = ["update"]
}
