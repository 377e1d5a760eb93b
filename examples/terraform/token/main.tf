# SPDX-License-Identifier: MPL-2.0
#
# This module reads an access token for one run. The token lives for at least five minutes,
# and Terraform doesn't store it. Use it where Terraform accepts ephemeral values: in a
# provider's configuration, in a provisioner, or in a write-only argument.
#
#     module "fuuffy" {
#       source = "./token"
#     }
#
#     provider "orders" {
#       token = module.fuuffy.access_token
#     }

terraform {
  required_version = ">= 1.10"
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.9.0"
    }
  }
}

variable "mount" {
  description = "The path of the mount."
  type        = string
  default     = "fuuffy"
}

ephemeral "vault_generic_secret" "token" {
  path = "${var.mount}/token"
}

output "access_token" {
  description = "The access token."
  value       = ephemeral.vault_generic_secret.token.data["access_token"]
  ephemeral   = true
}
