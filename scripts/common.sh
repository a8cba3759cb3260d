# shellcheck shell=bash
# What the scripts share. Source it: it changes to the root of the project and defines the two folders and four functions below.

# Downloads that outlive `make clean`: verified models and photos by their sums, and the tools built for the checks.
# shellcheck disable=SC2034
cache=${XDG_CACHE_HOME:-$HOME/.cache}/microlambda
# The models and photos as the programs and tests find them.
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
MICROLAMBDA_DATA=$(realpath -m "${MICROLAMBDA_DATA:-$root/target/data}")
export MICROLAMBDA_DATA
cd "$root" || exit

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# at_least WANTED FOUND: whether version FOUND is not older than WANTED.
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }
