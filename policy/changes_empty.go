// SPDX-License-Identifier: Apache-2.0

package policy

// Empty says whether nothing has changed.
func (c *Changes) Empty() bool { return c.podsOnly() && len(c.Pods)+len(c.GonePods) == 0 }
