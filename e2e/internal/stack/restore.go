// SPDX-License-Identifier: MPL-2.0

package stack

// Inherit makes the unseal key and the root token of another Vault those of v, as they
// are once a snapshot of the other was restored there.
func (v *Vault) Inherit(other *Vault) {
	v.unsealKey = other.unsealKey
	v.Client.SetToken(other.Client.Token())
}
