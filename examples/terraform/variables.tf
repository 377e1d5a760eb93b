# SPDX-License-Identifier: MPL-2.0

variable "client_id" {
  description = "The client in the Fuuffy dashboard. After a rotation, the new one."
  type        = string
}

variable "client_secret" {
  description = "Its secret. Terraform keeps it nowhere."
  type        = string
  sensitive   = true
  ephemeral   = true
}

variable "sha256" {
  description = "The checksum of the plugin: sha256sum bin/vault-plugin-secrets-fuuffy"
  type        = string
}

variable "plugin_version" {
  description = "Its version. The file in the plugin directory of each Vault server ends with it."
  type        = string
  default     = "v0.1.0"
}

variable "mount" {
  description = "Where the engine is mounted."
  type        = string
  default     = "fuuffy"
}

variable "environment" {
  description = "production or testing."
  type        = string
  default     = "production"
}

variable "base_url" {
  description = "Another address than the environment's own. Empty for that one."
  type        = string
  default     = ""
}

variable "ca_cert" {
  description = "A PEM bundle to trust instead of the system's authorities. Empty for those."
  type        = string
  default     = ""
}

variable "settings" {
  description = "Other fields of vault write fuuffy/config, such as { stale_if_error = true }."
  type        = map(string)
  default     = {}

  validation {
    condition     = !contains(keys(var.settings), "client_secret")
    error_message = "Give the secret as client_secret: Terraform keeps settings in its state."
  }
}

variable "policies" {
  description = "The folder with the policies. Vault gets them as fuuffy-app, and so on, after the mount."
  type        = string
  default     = "../policies"

  validation {
    condition     = length(fileset(var.policies, "*.hcl")) > 0
    error_message = "There are no policies in this folder."
  }
}
