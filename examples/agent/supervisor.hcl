# SPDX-License-Identifier: MPL-2.0
#
# Runs an app with the token in its environment, and restarts the app with the next token,
# about every 50 minutes. For apps that can only read their environment and can restart that
# often.

vault {
  address = "https://vault.example.com:8200"
  # If your own authority signed the certificate of Vault:
  # ca_cert = "/etc/fuuffy-agent/vault-ca.pem"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/fuuffy-agent/role_id"
      secret_id_file_path                 = "/etc/fuuffy-agent/secret_id"
      remove_secret_id_file_after_reading = false
    }
  }
}

# Don't use fields that change with each read, such as ttl: each change restarts the app.
env_template "FUUFFY_ACCESS_TOKEN" {
  contents             = "{{ with secret \"fuuffy/token\" }}{{ .Data.access_token }}{{ end }}"
  error_on_missing_key = true
}

exec {
  command                   = ["/usr/local/bin/app"]
  restart_on_secret_changes = "always"

  # The app has 30 seconds to stop. It gets the new token 2 seconds after the Agent did, and
  # the previous one is still valid for minutes.
  restart_stop_signal = "SIGTERM"
}
