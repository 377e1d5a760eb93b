# SPDX-License-Identifier: MPL-2.0
#
# Keeps a valid Fuuffy access token in /run/fuuffy/token, for an app that reads the file
# before each request. Start it with:
#
#     vault agent -config=/etc/fuuffy-agent/token-file.hcl

vault {
  address = "https://vault.example.com:8200"
  # If your own authority signed the certificate of Vault:
  # ca_cert = "/etc/fuuffy-agent/vault-ca.pem"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "/etc/fuuffy-agent/role_id"
      secret_id_file_path = "/etc/fuuffy-agent/secret_id"

      # By default the Agent deletes the secret ID after reading it. Then it couldn't log in
      # again after a restart.
      remove_secret_id_file_after_reading = false
    }
  }
}

# Don't set static_secret_render_interval. The engine's responses have a ttl, so the Agent
# comes back automatically when there is a newer token. If the token dies early and the app
# can't report that, the Agent keeps it until then. To have it read at least every two minutes:
#
#     vault write fuuffy/config max_read_ttl=2m
template {
  contents    = "{{ with secret \"fuuffy/token\" }}{{ .Data.access_token }}{{ end }}"
  destination = "/run/fuuffy/token"
  perms       = "0600"

  # Create the directory first, with mode 0700. The Agent would create it with 0755.
  create_dest_dirs = false

  # Never replace a good token with an empty file.
  error_on_missing_key = true
}
