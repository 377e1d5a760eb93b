# SPDX-License-Identifier: MPL-2.0
#
# Keeps a line FUUFFY_ACCESS_TOKEN=sk-… in /run/fuuffy/env, for jobs that start when needed and
# take the token from the environment:
#
#     set -a; . /run/fuuffy/env; set +a; exec /usr/local/bin/job
#
# A process keeps the environment that it started with. If it runs longer than a token lives,
# use token-file.hcl or supervisor.hcl.

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
  contents             = "{{ with secret \"fuuffy/token\" }}FUUFFY_ACCESS_TOKEN={{ .Data.access_token }}\n{{ end }}"
  destination          = "/run/fuuffy/env"
  perms                = "0600"
  create_dest_dirs     = false
  error_on_missing_key = true
}
