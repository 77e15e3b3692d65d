// SPDX-License-Identifier: Apache-2.0

package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -type hook -type direction -type verdict -type reason -type address_kind -type image_header -type image_subject -type image_protocol -type image_row -type event -type flow -type flow_key -type endpoint -type node -type service -type service_key -type backend -type counter -type rule_hit -type shared_state -type cidr4_key -type fragment_key -type fragment maps maps.c -- -O2 -g -Wall -Wextra -Werror -nostdinc -Iinclude -fno-ident -fdebug-prefix-map=/proc/self/cwd=.
