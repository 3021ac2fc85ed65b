#!/usr/bin/env bash
# bench/peers.sh A.img B.img - `uvdo create` of two images beside `borg create --compression lz4` of the same files, in turn,
# page cache warm; user and system seconds, wall, and what is stored. Needs `npm run build`, borg (Debian: borgbackup).
set -euo pipefail
[ $# = 2 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
command -v borg >/dev/null || { echo 'peers: borg is not installed; nothing to compare with'; exit 0; }
work=$(mktemp -d "${TMPDIR:-/tmp}/uvdo-peers.XXXXXX"); trap 'rm -rf "$work"' EXIT
export BORG_BASE_DIR=$work BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
timed() { local name=$1; shift; /usr/bin/time -f "$name: %e s wall, %U s user, %S s system, %M KiB" "$@" >/dev/null; }
cat "$1" "$2" >/dev/null
for run in 1 2 3 4 5; do
  rm -rf "$work"/v.vdo* "$work/repo"; sync
  timed uvdo node "$here/dist/tools/vdo.js" create "$work/v.vdo" "$1" "$2" --quiet
  borg init -e none "$work/repo" 2>/dev/null; sync
  timed borg borg create --compression lz4 "$work/repo::a" "$1" "$2"
done
du -sm "$work/v.vdo" "$work/repo" | awk '{ n = split($2, p, "/"); print p[n] ": " $1 " MiB on disk" }'
