#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Prints the orders of a Fuuffy account, as the app in main.go does.

Vault Agent (../agent/proxy.hcl) keeps the token in a file. If Fuuffy answers 401, the app
reports the token through the Agent's socket, and retries once with the token from the
response.

    orders.py               print the orders
    orders.py -every 60     repeat every 60 seconds

It needs only Python 3.9 or newer.
"""

import argparse
import http.client
import json
import os
import re
import socket
import ssl
import sys
import time
import urllib.parse


class AgentConnection(http.client.HTTPConnection):
    """HTTP through the Agent's Unix socket."""

    def __init__(self, path, timeout):
        super().__init__("agent", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class App:
    """Calls Fuuffy, one request at a time."""

    def __init__(self, env):
        self.base_url = urllib.parse.urlsplit(env.get("FUUFFY_BASE_URL", "https://api-gateway.fuuffy.com/v1"))
        # FUUFFY_CA_CERT is for the sandbox, or for your own gateway.
        self.tls = ssl.create_default_context(cafile=env.get("FUUFFY_CA_CERT") or None)
        self.token_file = env.get("FUUFFY_TOKEN_FILE", "/run/fuuffy/token")
        self.socket = env.get("FUUFFY_AGENT_SOCKET", "/run/fuuffy/vault.sock")
        self.mount = env.get("FUUFFY_MOUNT", "fuuffy")
        # rejected is the token in the file, if Fuuffy rejected it. The app uses replacement
        # instead, until the Agent writes a new token to the file after ttl.
        self.rejected = self.replacement = None

    def get(self, path):
        """Returns Fuuffy's response for the path. After a 401, it retries once with another token."""
        token = self.token()
        status, body = self.request(path, token)
        if status == 401:
            status, body = self.request(path, self.report(token))
        if status != 200:
            raise RuntimeError(f"get {path}: Fuuffy answered {status}: {body}")
        return body

    def token(self):
        """Reads the file each time. The file is small, in memory, and always current."""
        with open(self.token_file, encoding="ascii", errors="replace") as file:
            token = file.read().strip()
        if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):  # The characters that RFC 6750 allows.
            raise RuntimeError(f"there is no token in {self.token_file}")
        return self.replacement if token == self.rejected else token

    def request(self, path, token):
        fuuffy = http.client.HTTPSConnection(self.base_url.netloc, timeout=30, context=self.tls)
        return do(fuuffy, "GET", self.base_url.path + path, {"Authorization": "Bearer " + token})

    def report(self, rejected):
        """Tells the engine which token Fuuffy rejected, and returns another."""
        agent = AgentConnection(self.socket, timeout=60)
        payload = json.dumps({"rejected_token": rejected})
        status, body = do(agent, "POST", f"/v1/{self.mount}/token", {"X-Vault-Request": "true"}, payload)
        if status != 200:
            raise RuntimeError(f"replace the token that Fuuffy rejected: Vault answered {status}: {body}")
        if rejected != self.replacement:
            self.rejected = rejected
        self.replacement = json.loads(body)["data"]["access_token"]
        return self.replacement


def do(connection, method, path, headers, payload=None):
    try:
        connection.request(method, path, payload, headers)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def main():
    flags = argparse.ArgumentParser(description="Prints the orders of a Fuuffy account.")
    flags.add_argument("-every", type=float, metavar="SECONDS", help="repeat after this many seconds")
    every = flags.parse_args().every
    app = None
    while True:
        try:
            app = app or App(os.environ)
            print(app.get("/orders"), flush=True)
        except Exception as error:
            # A long-running app doesn't exit because one request failed.
            print("orders.py:", error, file=sys.stderr)
            if every is None:
                sys.exit(1)
        if every is None:
            return
        time.sleep(every)


if __name__ == "__main__":
    main()
