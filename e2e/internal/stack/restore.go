// SPDX-License-Identifier: MPL-2.0

package stack

// Inherit gives v the unseal key and the root token of another Vault. Call it after restoring
// a snapshot of the other in v.
func (v *Vault) Inherit(other *Vault) {
	v.unsealKey = other.unsealKey
	v.Client.SetToken(other.Client.Token())
}
