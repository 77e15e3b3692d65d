// SPDX-License-Identifier: Apache-2.0

package lab

const sysSetns = 268 // package syscall is older than the call
