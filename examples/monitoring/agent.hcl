# SPDX-License-Identifier: MPL-2.0
#
# Keeps a Vault token for Prometheus in /run/fuuffy-monitor/vault-token, with the policy
# examples/policies/monitor.hcl. Run it as the same user as Prometheus:
#
#     vault agent -config=/etc/fuuffy-monitor/agent.hcl

vault {
  address = "https://vault.example.com:8200"
  # If your own authority signed the certificate of Vault:
  # ca_cert = "/etc/fuuffy-monitor/vault-ca.pem"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/fuuffy-monitor/role_id"
      secret_id_file_path                 = "/etc/fuuffy-monitor/secret_id"
      remove_secret_id_file_after_reading = false
    }
  }

  # The Agent replaces the file in one step, before its token expires.
  sink "file" {
    config = {
      path = "/run/fuuffy-monitor/vault-token"
      mode = 0600
    }
  }
}
