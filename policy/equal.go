// SPDX-License-Identifier: Apache-2.0

package policy

import "reflect"

// equalPolicy says whether two policies say the same. Lists that are the same memory are not read.
func equalPolicy(a, b *Policy) bool {
	x, y := *a, *b
	if sameSlice(x.Subject, y.Subject) && sameSlice(x.Rules, y.Rules) {
		x.Subject, y.Subject, x.Rules, y.Rules = nil, nil, nil, nil
	}
	return reflect.DeepEqual(&x, &y)
}

// sameSlice says whether two slices are the same memory.
func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 && (a == nil) == (b == nil) || len(a) > 0 && &a[0] == &b[0])
}
