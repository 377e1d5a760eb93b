# SPDX-License-Identifier: MPL-2.0
#
# Runs an app with the token in its environment, and restarts it with the next one:
# with Fuuffy's hour about every 50 minutes. For apps that can read nothing but the
# environment, and that may be restarted that often.

vault {
  address = "https://vault.example.com:8200"
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

# Nothing that changes from read to read belongs here, such as ttl: each change
# restarts the app.
env_template "FUUFFY_ACCESS_TOKEN" {
  contents             = "{{ with secret \"fuuffy/token\" }}{{ .Data.access_token }}{{ end }}"
  error_on_missing_key = true
}

exec {
  command                   = ["/usr/local/bin/app"]
  restart_on_secret_changes = "always"

  # The app has 30 seconds to end. It gets its new token 2 seconds after the Agent
  # did, and the one before is good for minutes yet.
  restart_stop_signal = "SIGTERM"
}
