# SPDX-License-Identifier: MPL-2.0
#
# A module that reads the access token for one run. It lives for five minutes or more, and
# Terraform keeps it nowhere. Use it where Terraform takes ephemeral values: in the
# configuration of a provider, in a provisioner, in a write-only argument.
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
  description = "Where the engine is mounted."
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
