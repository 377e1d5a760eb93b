# SPDX-License-Identifier: MPL-2.0
#
# Registers the plugin, mounts the engine, configures it, and writes the policies. Neither
# the client secret nor a token gets into the state or a plan.

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

  # Another version is registered before the mount chooses it.
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

# The files are for the mount fuuffy.
resource "vault_policy" "fuuffy" {
  for_each = fileset(var.policies, "*.hcl")
  name     = "${var.mount}-${trimsuffix(each.key, ".hcl")}"
  policy   = replace(file("${var.policies}/${each.key}"), "/\"(sys/mounts/)?fuuffy([/\"])/", "\"$${1}${var.mount}$${2}")
}

# While a change of these is planned, Terraform doesn't know them, so it writes the
# configuration when it applies the plan. Otherwise it would write it in each plan.
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

# Terraform opens an ephemeral resource that depends on something new only if something
# uses it. This does.
resource "terraform_data" "configured" {
  triggers_replace = [vault_mount.fuuffy.accessor, terraform_data.settings.output]
  lifecycle {
    postcondition {
      condition     = ephemeral.vault_generic_secret.status.data["health"] != "not configured"
      error_message = "The mount is not configured."
    }
  }
}
