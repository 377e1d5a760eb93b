# SPDX-License-Identifier: MPL-2.0

variable "client_id" {
  description = "The client ID from the Fuuffy dashboard. After a rotation, the new one."
  type        = string
}

variable "client_secret" {
  description = "The client's secret. Terraform doesn't store it."
  type        = string
  sensitive   = true
  ephemeral   = true
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

variable "mount" {
  description = "The path of the mount."
  type        = string
  default     = "fuuffy"

  validation {
    # In a policy, + and * stand for other paths.
    condition     = can(regex("^[A-Za-z0-9._]([A-Za-z0-9._/-]*[A-Za-z0-9._-])?$", var.mount))
    error_message = "The path may have letters, digits, and . _ - /, without a / at either end."
  }
}

variable "environment" {
  description = "production or testing."
  type        = string
  default     = "production"
}

variable "base_url" {
  description = "An address that replaces the environment's. Empty to use the environment's."
  type        = string
  default     = ""
}

variable "ca_cert" {
  description = "A PEM bundle of authorities to trust instead of the system's. Empty to trust the system's."
  type        = string
  default     = ""
}

variable "settings" {
  description = "Other fields of vault write fuuffy/config, such as { stale_if_error = true }."
  type        = map(string)
  default     = {}

  validation {
    condition     = !contains(keys(var.settings), "client_secret")
    error_message = "Set the variable client_secret instead: Terraform stores settings in its state."
  }
}

variable "policies" {
  description = "The directory of the policies. Their names in Vault begin with the mount, such as fuuffy-app."
  type        = string
  default     = "../policies"

  validation {
    condition     = length(fileset(var.policies, "*.hcl")) > 0
    error_message = "This directory has no policies."
  }
}
