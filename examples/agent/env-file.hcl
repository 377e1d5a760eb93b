# SPDX-License-Identifier: MPL-2.0
#
# Keeps /run/fuuffy/env with a line FUUFFY_ACCESS_TOKEN=sk-…, for jobs that are
# started when they are needed and take the token from the environment:
#
#     set -a; . /run/fuuffy/env; set +a; exec /usr/local/bin/job
#
# A process keeps the environment that it was started with. For one that runs
# longer than a token lives, use token-file.hcl or supervisor.hcl.

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
  contents             = "{{ with secret \"fuuffy/token\" }}FUUFFY_ACCESS_TOKEN={{ .Data.access_token }}\n{{ end }}"
  destination          = "/run/fuuffy/env"
  perms                = "0600"
  create_dest_dirs     = false
  error_on_missing_key = true
}
