# SPDX-License-Identifier: MPL-2.0
#
# The same file as token-file.hcl, and a socket through which the app reports a token that
# got a 401 from Fuuffy. The Agent adds its own Vault token to these requests, so the app
# doesn't need one:
#
#     VAULT_ADDR=unix:///run/fuuffy/vault.sock vault write fuuffy/token rejected_token=-

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

# Anyone who can open this socket can do what the Agent can. So use a socket in a directory
# with mode 0700, not a port, which every user of the machine could connect to.
# (socket_mode has no effect without socket_user and socket_group.)
listener "unix" {
  address     = "/run/fuuffy/vault.sock"
  tls_disable = true

  # Accept only requests with X-Vault-Request: true. An app that an attacker tricks into
  # calling an address (SSRF) doesn't send it.
  require_request_header = true
}
