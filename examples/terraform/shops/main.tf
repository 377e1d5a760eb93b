# SPDX-License-Identifier: MPL-2.0
#
# Many shops: registers the plugin, and mounts, configures, and protects the engine once for
# each. Neither the state nor a plan contains a client secret or a token. The comments
# in ../main.tf explain how it works.

terraform {
  required_version = ">= 1.10"
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.9.0"
    }
  }
}

variable "shops" {
  description = "The shops. The mount of north is shops/north. After a rotation, set the new client ID. Before you rename a shop, read docs/merchants.md: Terraform would delete its mount."
  type = map(object({
    client_id   = string
    environment = optional(string, "production")
  }))

  validation {
    # In a policy, + and * stand for other paths.
    condition     = length([for shop in keys(var.shops) : shop if !can(regex("^[A-Za-z0-9._][A-Za-z0-9._-]*$", shop))]) == 0
    error_message = "The name of a shop may have letters, digits, and . _ -."
  }
}

variable "client_secrets" {
  description = "The secrets by shop. Only a new shop needs its secret, and one whose environment, base_url, or ca_cert changes. Terraform doesn't store them."
  type        = map(string)
  default     = {}
  sensitive   = true
  ephemeral   = true
}

variable "path" {
  description = "The path above the mounts. Mount nothing else below it."
  type        = string
  default     = "shops"

  validation {
    condition     = can(regex("^[A-Za-z0-9._]([A-Za-z0-9._/-]*[A-Za-z0-9._-])?$", var.path))
    error_message = "The path may have letters, digits, and . _ - /, without a / at either end."
  }
}

variable "sha256" {
  description = "The checksum of the plugin, from sha256sum bin/vault-plugin-secrets-fuuffy"
  type        = string
}

variable "plugin_version" {
  description = "The version of the plugin. The name of the file in the plugin directory of each Vault server ends with it."
  type        = string
  default     = "v0.1.0"
}

variable "settings" {
  description = "Other fields of vault write fuuffy/config, for all shops, such as { stale_if_error = true }."
  type        = map(string)
  default     = {}

  validation {
    condition     = !contains(keys(var.settings), "client_secret") && !contains(keys(var.settings), "client_id")
    error_message = "Set the variables client_secrets and shops instead: Terraform stores settings in its state, and they are for all shops."
  }
}

variable "policies" {
  description = "The directory of the policies."
  type        = string
  default     = "../../policies"

  validation {
    condition     = length(fileset(var.policies, "*.hcl")) > 0
    error_message = "This directory has no policies."
  }
}

resource "vault_plugin" "fuuffy" {
  type    = "secret"
  name    = "fuuffy"
  version = var.plugin_version
  command = "vault-plugin-secrets-fuuffy-${var.plugin_version}"
  sha256  = var.sha256

  lifecycle {
    create_before_destroy = true
  }
}

resource "vault_mount" "fuuffy" {
  for_each       = var.shops
  path           = "${var.path}/${each.key}"
  type           = vault_plugin.fuuffy.name
  plugin_version = vault_plugin.fuuffy.version
  seal_wrap      = true
}

# For the apps of one shop: shops-north-app covers shops/north.
resource "vault_policy" "app" {
  for_each = var.shops
  name     = "${var.path}-${each.key}-app"
  policy   = replace(file("${var.policies}/app.hcl"), "/\"fuuffy\\//", "\"${var.path}/${each.key}/")
}

# For those who look after all shops: shops-monitor covers shops/+, and so on.
resource "vault_policy" "shared" {
  for_each = toset(["monitor", "on-call", "operator", "rotator"])
  name     = "${var.path}-${each.key}"
  policy   = replace(file("${var.policies}/${each.key}.hcl"), "/\"fuuffy\\//", "\"${var.path}/+/")
}

resource "terraform_data" "settings" {
  for_each = var.shops
  input = {
    mount  = "${var.path}/${each.key}"
    config = merge(each.value, var.settings)
  }
}

# Without a secret, this write can change no client. So a plan doesn't undo a rotation.
ephemeral "vault_generic_endpoint" "config" {
  for_each  = var.shops
  mount_id  = vault_mount.fuuffy[each.key].id
  path      = "${terraform_data.settings[each.key].output.mount}/config"
  data_json = jsonencode(merge(terraform_data.settings[each.key].output.config, { client_secret = lookup(var.client_secrets, each.key, null) }))
}

ephemeral "vault_generic_secret" "status" {
  for_each = var.shops
  mount_id = ephemeral.vault_generic_endpoint.config[each.key].mount_id
  path     = "${terraform_data.settings[each.key].output.mount}/status"
}

resource "terraform_data" "configured" {
  for_each         = var.shops
  triggers_replace = [vault_mount.fuuffy[each.key].accessor, terraform_data.settings[each.key].output]
  lifecycle {
    postcondition {
      condition     = ephemeral.vault_generic_secret.status[each.key].data["health"] != "not configured"
      error_message = "${each.key} is not configured."
    }
  }
}
