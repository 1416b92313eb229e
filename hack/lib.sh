# Shared by the scripts in hack/. Source it; it changes no state of the system.
# shellcheck shell=bash

export ROOT
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/bulkhead
export DEBIAN_FRONTEND=noninteractive
mkdir -p "$CACHE"

# CI tests a new clone each time: what it compiled of other people's crates is kept, up to a size that a few
# dozen clones reach.
if [[ ${CI-} == true ]]; then
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
  [[ -d $CARGO_TARGET_DIR && $(du -s --block-size=1G "$CARGO_TARGET_DIR" | cut -f1) -ge 20 ]] && rm -rf "$CARGO_TARGET_DIR"
fi

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}

# step TEXT CMD...: run CMD with its output in a log, and say what is being done and how long it took.
step() {
  local text=$1 log started=$SECONDS next=30 pid
  shift
  mkdir -p "$CACHE/log"
  log=$CACHE/log/$(tr -cs '[:alnum:]' '-' <<<"$text").log
  printf '%s ... ' "$text" >&2
  "$@" >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.1
    ((SECONDS - started < next)) && continue
    printf '%d s ... ' "$next" >&2
    next=$((next + 30))
  done
  if wait "$pid"; then
    say "$((SECONDS - started)) s"
  else
    say "failed after $((SECONDS - started)) s; the end of $log:"
    tail -n 30 "$log" >&2
    return 1
  fi
}

# content_key FILE_OR_TEXT...: a short hash of the given files' contents and of any other words.
content_key() {
  local item
  for item; do
    if [[ -f $item ]]; then sha256sum <"$item"; else printf '%s\n' "$item"; fi
  done | sha256sum | cut -c1-16
}

# host_accelerator: kvm or tcg, whichever will execute guests on this machine as far as a look can tell.
host_accelerator() {
  if [[ -e /dev/kvm ]] && grep -qwE 'vmx|svm' /proc/cpuinfo; then echo kvm; else echo tcg; fi
}

# need_packages NAME...: install what is missing of these Debian packages.
need_packages() {
  local missing=() name
  for name; do
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
  done
  ((${#missing[@]} == 0)) && return
  ((EUID == 0)) || die "these packages are missing, and only root can install them: ${missing[*]}"
  step "apt: package lists" apt-get update -q
  step "apt: ${missing[*]}" apt-get install -y -q -o DPkg::Lock::Timeout=300 --no-install-recommends "${missing[@]}"
}

# The mirror this machine already uses for Debian itself.
debian_mirror() {
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
    grep -E '^(URIs:|deb )' | grep -oE '[a-z]+://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' '
}

# suite_apt SUITE CMD ARG...: apt-get or apt-cache with one other suite's lists, kept apart from the system's.
# SUITE may be several, joined by "+": backports need the suite they are built for. SUITE@source has its sources.
suite_apt() {
  local suites=$1 tool=$2 dir=$CACHE/apt/$1 mirror suite type
  shift 2
  mkdir -p "$dir/lists/partial" "$dir/archives/partial"
  mirror=$(debian_mirror) || true
  [[ -n $mirror ]] || die "no Debian mirror is configured in /etc/apt"
  for suite in ${suites//+/ }; do
    if [[ $suite == *@source ]]; then type=deb-src; else type=deb; fi
    echo "$type [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror ${suite%@source} main"
  done >"$dir/sources.list"
  "$tool" -q -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
    -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir" -o APT::Sandbox::User=root "$@"
}

# suite_update SUITE: fetch that suite's package lists, at most once a day.
suite_update() {
  local stamp=$CACHE/apt/$1/updated
  [[ -n $(find "$stamp" -mtime -1 2>/dev/null) ]] && return
  suite_apt "$1" apt-get update
  touch "$stamp"
}

# suite_version SUITE PACKAGE: the version that suite serves.
suite_version() { suite_apt "$1" apt-cache policy "$2" | sed -n 's/^ *Candidate: //p'; }

# suite_unpack SUITE PACKAGE DIR: download the package and unpack it into DIR.
suite_unpack() {
  local suite=$1 package=$2 dir=$3 tmp
  tmp=$(mktemp -d "$CACHE/unpack.XXXXXX")
  (cd "$tmp" && suite_apt "$suite" apt-get download "$package") && mkdir -p "$dir" && dpkg -x "$tmp"/*.deb "$dir"
  local rc=$?
  rm -rf "$tmp"
  return $rc
}

# suite_source_version SUITE PACKAGE: the version of that source that suite has.
suite_source_version() { suite_apt "$1@source" apt-cache showsrc --only-source "$2" | sed -n 's/^Version: //p' | tail -n 1; }

# suite_source SUITE PACKAGE DIR: download the source, which apt checks, and unpack it with Debian's patches into DIR.
suite_source() {
  local suite=$1 package=$2 dir=$3 tmp
  tmp=$(mktemp -d "$CACHE/unpack.XXXXXX")
  (cd "$tmp" && suite_apt "$suite@source" apt-get source --download-only "$package") && dpkg-source --no-check -x "$tmp"/*.dsc "$dir"
  local rc=$?
  rm -rf "$tmp"
  return $rc
}
