#!/usr/bin/env node
// SPDX-License-Identifier: MPL-2.0
// @ts-check

/**
 * Prints the orders of a Fuuffy account, as the app in main.go does.
 *
 * Vault Agent (../agent/proxy.hcl) keeps the token in a file. If Fuuffy answers 401,
 * the app reports the token through the Agent's socket, and retries once with the token
 * from the response.
 *
 *     node orders.mjs               print the orders
 *     node orders.mjs -every 60     repeat every 60 seconds
 *
 * It needs only Node 20 or newer. The types are in comments, so that Node runs this file
 * without a build. TypeScript checks them as strictly as in a .ts file
 * (tsc --checkJs --strict).
 */

import { readFile } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

/** @typedef {{ status: number | undefined, body: string }} Answer */

/** Calls Fuuffy, one request at a time. */
class App {
  /** The token in the file, if Fuuffy rejected it. @type {string | undefined} */
  #rejected;
  /**
   * The app uses this token instead of #rejected, until the Agent writes a new one to the
   * file after ttl.
   * @type {string | undefined}
   */
  #replacement;

  /**
   * @param {{ baseURL: string, tokenFile: string, socket: string, mount: string, ca?: string }} settings
   */
  constructor(settings) {
    this.settings = settings;
  }

  /**
   * Reads the settings from the environment.
   * @param {NodeJS.ProcessEnv} env
   */
  static async fromEnvironment(env) {
    return new App({
      baseURL: env.FUUFFY_BASE_URL || "https://api-gateway.fuuffy.com/v1",
      tokenFile: env.FUUFFY_TOKEN_FILE || "/run/fuuffy/token",
      socket: env.FUUFFY_AGENT_SOCKET || "/run/fuuffy/vault.sock",
      mount: env.FUUFFY_MOUNT || "fuuffy",
      // For the sandbox, or for your own gateway.
      ca: env.FUUFFY_CA_CERT ? await readFile(env.FUUFFY_CA_CERT, "utf8") : undefined,
    });
  }

  /**
   * Returns Fuuffy's response for the path. After a 401, it retries once with another token.
   * @param {string} path
   */
  async get(path) {
    const token = await this.#token();
    let answer = await this.#request(path, token);
    if (answer.status === 401) {
      answer = await this.#request(path, await this.#report(token));
    }
    if (answer.status !== 200) {
      throw new Error(`get ${path}: Fuuffy answered ${answer.status}: ${answer.body}`);
    }
    return answer.body;
  }

  /** Reads the file each time. The file is small, in memory, and always current. */
  async #token() {
    const token = (await readFile(this.settings.tokenFile, "utf8")).trim();
    if (!/^[A-Za-z0-9._~+/-]+=*$/.test(token)) { // The characters that RFC 6750 allows.
      throw new Error(`there is no token in ${this.settings.tokenFile}`);
    }
    return this.#replacement !== undefined && token === this.#rejected ? this.#replacement : token;
  }

  /**
   * @param {string} path
   * @param {string} token
   */
  #request(path, token) {
    return exchange(https.request(this.settings.baseURL + path, {
      ca: this.settings.ca,
      headers: { Authorization: `Bearer ${token}` },
      signal: AbortSignal.timeout(30_000),
    }));
  }

  /**
   * Tells the engine which token Fuuffy rejected, and returns another.
   * @param {string} rejected
   * @returns {Promise<string>}
   */
  async #report(rejected) {
    const { status, body } = await exchange(http.request({
      socketPath: this.settings.socket,
      method: "POST",
      path: `/v1/${this.settings.mount}/token`,
      headers: { "X-Vault-Request": "true" },
      signal: AbortSignal.timeout(60_000),
    }), JSON.stringify({ rejected_token: rejected }));
    if (status !== 200) {
      throw new Error(`replace the token that Fuuffy rejected: Vault answered ${status}: ${body}`);
    }
    if (rejected !== this.#replacement) {
      this.#rejected = rejected;
    }
    const replacement = JSON.parse(body).data.access_token;
    this.#replacement = replacement;
    return replacement;
  }
}

/**
 * Sends a request and reads the whole response.
 * @param {http.ClientRequest} request
 * @param {string} [payload]
 * @returns {Promise<Answer>}
 */
function exchange(request, payload) {
  return new Promise((resolve, reject) => {
    request.on("error", reject);
    request.on("response", (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (part) => { body += part; });
      response.on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode, body }));
    });
    request.end(payload);
  });
}

async function main() {
  // parseArgs accepts only --every.
  const args = process.argv.slice(2).map((arg) => (arg === "-every" ? "--every" : arg));
  const { every } = parseArgs({ args, options: { every: { type: "string" } } }).values;
  /** @type {App | undefined} */
  let app;
  for (;;) {
    try {
      app ??= await App.fromEnvironment(process.env);
      console.log(await app.get("/orders"));
    } catch (error) {
      // A long-running app doesn't exit because one request failed.
      console.error("orders.mjs:", error instanceof Error ? error.message : error);
      if (every === undefined) {
        process.exitCode = 1;
      }
    }
    if (every === undefined) {
      return;
    }
    await sleep(Number(every) * 1000);
  }
}

await main();
