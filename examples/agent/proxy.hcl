# SPDX-License-Identifier: MPL-2.0
#
# The same file as token-file.hcl, and a socket through which the app reports a
# token that Fuuffy answered with 401. The Agent adds its own Vault token to what
# comes through the socket, so that the app needs none:
#
#     VAULT_ADDR=unix:///run/fuuffy/vault.sock vault write fuuffy/token rejected_token=-

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

template {
  contents             = "{{ with secret \"fuuffy/token\" }}{{ .Data.access_token }}{{ end }}"
  destination          = "/run/fuuffy/token"
  perms                = "0600"
  create_dest_dirs     = false
  error_on_missing_key = true
}

api_proxy {
  use_auto_auth_token = true
}

# Whoever can open this socket may do what the Agent may. Hence a socket in a folder
# with mode 0700, and not a port of the machine, which each of its users could connect
# to. (socket_mode has no effect without socket_user and socket_group.)
listener "unix" {
  address     = "/run/fuuffy/vault.sock"
  tls_disable = true

  # Only requests with X-Vault-Request: true. An app that is tricked into calling an
  # address (SSRF) does not send it.
  require_request_header = true
}
