// SPDX-License-Identifier: Apache-2.0

package loader

import "slices"

// SameWays says whether another observation found the same addresses and routes.
func (n *Network) SameWays(other *Network) bool {
	return n == other || slices.Equal(n.addrs, other.addrs) && slices.Equal(n.routes, other.routes)
}
