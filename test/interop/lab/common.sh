# common.sh - what the scripts of this folder share: where the cache is, how they talk to apt,
# how they print their own head as usage. Source it from a script beside it.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${UVDO_LAB_CACHE:-$HOME/.cache/uvdo-lab}
kernel_series=6.12 # dm-vdo is in Linux since 6.9; 6.12 is what bookworm's security suite offers

# The comment at the top of the calling script.
usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
offered() { apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'; }

# apt COMMAND...: apt-get, patient with locks, silent unless it fails.
apt() {
  mkdir -p "$cache"
  DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o APT::Sandbox::User=root \
    "$@" </dev/null >>"$cache/setup.log" 2>&1 && return
  tail -5 "$cache/setup.log" >&2
  echo "$(basename "$0"): 'apt-get $*' failed; see $cache/setup.log" >&2
  exit 1
}

# apt_install PACKAGE...: installs those that are missing.
apt_install() {
  local missing=() p
  for p; do installed "$p" || missing+=("$p"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  apt update
  if [[ " ${missing[*]} " == *" vdo "* ]] && ! offered vdo; then add_backports; fi
  apt install --no-install-recommends "${missing[@]}"
}

# bookworm-backports has the vdo tools; it is added from the mirror that the machine already uses.
add_backports() {
  local uri key=/usr/share/keyrings/debian-archive-keyring.gpg
  uri=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Codename: bookworm' 'Component: main' | head -1)
  [ -n "$uri" ] || { echo "$(basename "$0"): this is not Debian bookworm: install 'vdo' yourself" >&2; exit 1; }
  [ -e "$key" ] || key=
  echo "deb ${key:+[signed-by=$key] }$uri bookworm-backports main" >/etc/apt/sources.list.d/uvdo-lab-backports.list
  apt update
}
