#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every fuzz target for a while (FUZZTIME, ten seconds unless set). What fails is left in its package's testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."

grep -rE --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' . | sed 's/:func /:/' | sort | while IFS=: read -r file target; do
	"${GO:-go}" test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10s}" "$(dirname "$file")"
done
