# SPDX-License-Identifier: MPL-2.0
#
# Registers the plugin, mounts the engine, configures it, and writes the policies. Neither
# the state nor a plan contains the client secret or a token.

terraform {
  required_version = ">= 1.10"
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.9.0"
    }
  }
}

resource "vault_plugin" "fuuffy" {
  type    = "secret"
  name    = "fuuffy"
  version = var.plugin_version
  command = "vault-plugin-secrets-fuuffy-${var.plugin_version}"
  sha256  = var.sha256

  # Register a new version before the mount selects it.
  lifecycle {
    create_before_destroy = true
  }
}

resource "vault_mount" "fuuffy" {
  path           = var.mount
  type           = vault_plugin.fuuffy.name
  plugin_version = vault_plugin.fuuffy.version
  seal_wrap      = true
}

# The policy files name the mount fuuffy. Replace it with var.mount.
resource "vault_policy" "fuuffy" {
  for_each = fileset(var.policies, "*.hcl")
  name     = "${var.mount}-${trimsuffix(each.key, ".hcl")}"
  policy   = replace(file("${var.policies}/${each.key}"), "/\"(sys/mounts/)?fuuffy([/\"])/", "\"$${1}${var.mount}$${2}")
}

# If you change a setting, Terraform doesn't know this output until it applies the plan. So
# it writes the new setting with the apply, not already with the plan.
resource "terraform_data" "settings" {
  input = {
    mount = var.mount
    config = merge({
      client_id   = var.client_id
      environment = var.environment
      base_url    = var.base_url
      ca_cert     = var.ca_cert
    }, var.settings)
  }
}

ephemeral "vault_generic_endpoint" "config" {
  mount_id  = vault_mount.fuuffy.id
  path      = "${terraform_data.settings.output.mount}/config"
  data_json = jsonencode(merge(terraform_data.settings.output.config, { client_secret = var.client_secret }))
}

ephemeral "vault_generic_secret" "status" {
  mount_id = ephemeral.vault_generic_endpoint.config.mount_id
  path     = "${terraform_data.settings.output.mount}/status"
}

# If an ephemeral resource depends on something that doesn't exist yet, Terraform opens it
# only if something uses it. This resource does.
resource "terraform_data" "configured" {
  triggers_replace = [vault_mount.fuuffy.accessor, terraform_data.settings.output]
  lifecycle {
    postcondition {
      condition     = ephemeral.vault_generic_secret.status.data["health"] != "not configured"
      error_message = "The mount is not configured."
    }
  }
}
