// SPDX-License-Identifier: MPL-2.0

package fuuffy

// pluginName is what Vault's catalog, the User-Agent and the log call this engine.
const pluginName = "vault-plugin-secrets-fuuffy"

// operationPrefix is what generated clients call this engine.
const operationPrefix = "fuuffy"

// version is what `vault plugin list` shows: a semantic version with a leading
// v. The Makefile sets it through the linker.
var version = "v0.1.0-dev"

// The paths that other files speak of. The first two are storage keys too.
const (
	configKey  = "config"
	tokenKey   = "token"
	rotatePath = "rotate-root"
)
