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
# The image's files are called this, and end differently.
image_name=microlambda-$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"$/\1/p' Cargo.toml)-arm64
# What git has and no image is made of.
not_in_image=(docs benches fuzz tests '*.md' image-build/{scenarios,vm,tests,check,image-test,reproducible,count-instructions})

# The first 16 digits of a sum over files and words, as the name of something made from them.
sum_of() { { cat "$1"; shift; printf '%s\n' "$@"; } | sha256sum | cut -c 1-16; }

# A sum over the files that an image is made of, as they are here; nothing where git does not tell which.
sources_sum() {
  local files
  files=$(git ls-files -- . "${not_in_image[@]/#/:(exclude)}" 2>/dev/null) || return 0
  # One that is gone is part of it by what is said about it.
  { xargs --delimiter '\n' sha256sum <<<"$files" 2>&1 || true; } | sha256sum | cut -d ' ' -f 1
}

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

# Ends with the reason and the remedy where as_owner cannot work. Not every system lets an ordinary user have namespaces.
demand_namespaces() {
  local said
  # A mount is the least that is needed, and what is refused where the rest is not. Nobody else sees it.
  [ "$(id -u)" = 0 ] || said=$(as_owner mount -t tmpfs probe /mnt 2>&1) ||
    die "the image's tools need namespaces of their own, and ordinary users cannot have them here: ${said:-no reason given}
$(namespace_remedy). Or run it as root, which needs none of this"
}

# What an ordinary user lacks, most likely.
namespace_remedy() {
  local user
  user=$(id -un)
  if ! unshare --help 2>&1 | grep -q -e --map-auto; then
    echo "This unshare cannot map users (--map-auto): util-linux 2.38 or newer is needed, as in Debian 12 and Ubuntu 24.04; here is $(unshare --version 2>&1)"
  elif ! have newuidmap; then
    echo "newuidmap is missing: sudo apt-get install uidmap"
  elif ! grep -q "^$user:" /etc/subuid 2>/dev/null || ! grep -q "^$user:" /etc/subgid 2>/dev/null; then
    echo "/etc/subuid or /etc/subgid gives $user no further ids: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $user"
  elif [ "$(kernel_setting kernel/apparmor_restrict_unprivileged_userns)" = 1 ]; then
    echo "This system forbids it, as Ubuntu does since 23.10. To allow it until the next start: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
  elif [ "$(kernel_setting kernel/unprivileged_userns_clone)" = 0 ]; then
    echo "This system forbids it. To allow it until the next start: sudo sysctl kernel.unprivileged_userns_clone=1"
  else
    echo "In a container, its settings may forbid it"
  fi
}

kernel_setting() { cat "/proc/sys/$1" 2>/dev/null || true; }

# in_tools COMMAND…: runs it in the tools root, which sees the project, the caches and the target folder at their own places.
in_tools() { "$here/tools-root" run "$@"; }
