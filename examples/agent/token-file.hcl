# SPDX-License-Identifier: MPL-2.0
#
# Keeps a valid Fuuffy access token in /run/fuuffy/token, for one app that reads
# the file before each request. Start it with:
#
#     vault agent -config=/etc/fuuffy-agent/token-file.hcl

vault {
  address = "https://vault.example.com:8200"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "/etc/fuuffy-agent/role_id"
      secret_id_file_path = "/etc/fuuffy-agent/secret_id"

      # By default the Agent deletes the secret id once it has read it, and could
      # not log in again after a restart.
      remove_secret_id_file_after_reading = false
    }
  }
}

# No static_secret_render_interval: the engine's answers have a ttl, and the Agent
# comes back by itself when there is a newer token.
template {
  contents    = "{{ with secret \"fuuffy/token\" }}{{ .Data.access_token }}{{ end }}"
  destination = "/run/fuuffy/token"
  perms       = "0600"

  # The folder is made beforehand, with mode 0700. The Agent would make it 0755.
  create_dest_dirs = false

  # An answer without a token must not make an empty file of a good one.
  error_on_missing_key = true
}
