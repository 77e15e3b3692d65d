// SPDX-License-Identifier: Apache-2.0

package lab

const sysSetns = 308 // package syscall is older than the call
