// SPDX-License-Identifier: Apache-2.0

package policy

// Plan is the way from the present tables to those of a new model, in the order that keeps every packet's verdict either
// its old or its new one: swap in Interim's image if there is one; then write Final's tables (addresses, endpoints, nodes,
// services); then swap in Final's image if Swap.
type Plan struct {
	// Interim is the old policy compiled with the new numbers; nil if every identity that Final's addresses refer to is
	// already defined in the live image.
	Interim *Image
	Final   *Compiled
	// Swap is false if Final.Image is the image that is already live: the one before the plan, or Interim.
	Swap bool
	// Overflow lists the namespaces whose policies Final does not hold because they are too large, sorted.
	Overflow []Overflow

	// Delta, if not nil, is all that Final's tables differ in from those of the plan carried out before. In a plan of
	// changes, Final.Addresses and Final.Services are nil with it.
	Delta *Delta
	Step  *Step // stands for Final's tables

	next   *state   // the planner's, once the plan is carried out
	commit func()   // or what makes its present one so
	asked  []Policy // policies before any was closed
}
