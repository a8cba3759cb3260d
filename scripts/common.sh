# shellcheck shell=bash disable=SC2034
# What the scripts share. Source it: it changes to the root of the project and defines the folders and functions below.

# Downloads that outlive `make clean`: verified models and photos by their sums, and the tools built for the checks.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/microlambda

root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
# The models and photos as the programs and tests find them.
MICROLAMBDA_DATA=$(realpath -m "${MICROLAMBDA_DATA:-$root/target/data}")
export MICROLAMBDA_DATA
cd "$root" || exit
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# at_least WANTED FOUND: whether version FOUND is not older than WANTED.
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }
