# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share, beside scripts/common.sh. Source it.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"
# shellcheck source=image-build/recipe/settings
source "$root/image-build/recipe/settings"

here=$root/image-build
recipe=$here/recipe
# Outlives `make clean`: the tools root and the base root file system, each by a sum of what it is made of.
image_cache=$cache/image
# What a build leaves for people, and what is only between its steps.
out=$target/image
work=$target/image/work
host_architecture=$(dpkg --print-architecture)

# The first 16 digits of a sum over files and words, as the name of something made from them.
sum_of() { { cat "$1"; shift; printf '%s\n' "$@"; } | sha256sum | cut -c 1-16; }

# The lines of a list without comments.
list() { sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$1"; }

# as_owner COMMAND…: as root, or as the root of a user namespace of its own, in a mount namespace of its own. So files keep the owners they
# have in the image, whoever runs it, and no mount is seen outside.
as_owner() {
  local user=()
  [ "$(id -u)" = 0 ] || user=(--user --map-root-user --map-auto)
  unshare "${user[@]}" --mount --propagation "$(propagation)" -- "$@"
}

# In a chroot whose root is no mount of its own, mounts cannot be made private from inside: whoever made it has to have done that.
propagation() { if mountpoint --quiet /; then echo private; else echo unchanged; fi; }

# in_tools COMMAND…: runs it in the tools root, which sees the project, the caches and the target folder at their own places.
in_tools() { "$here/tools-root" run "$@"; }
