#!/usr/bin/env bash
# The servers and tools of other authors that the tests talk to, from Debian or Ubuntu packages.
# Installs what is missing where it can (root or passwordless sudo, apt-get); else says which tests
# will be skipped. With CI set, a missing program is an error: nothing may be skipped there.
set -euo pipefail

# program (or file), package, which tests need it
needed="redis-server redis-server queue,supervisor,gateway
storescu dcmtk sending-and-receiving
Orthanc orthanc delivery-to-a-PACS
/usr/share/orthanc/plugins/libOrthancDicomWeb.so orthanc-dicomweb delivery-by-DICOMweb
dciodvfy dicom3tools conformance-of-results
initdb postgresql ledger-on-PostgreSQL
tmux tmux the-terminal-dialogue
node nodejs HL7-servers
npm npm HL7-servers"

search=$PATH:/usr/sbin:/usr/local/sbin:/usr/lib/dcmtk/bin
for directory in /usr/lib/postgresql/*/bin; do search=$search:$directory; done

missing() { # the lines of `needed` whose program is not there
  local program package tests
  while read -r program package tests; do
    if [[ $program == /* ]]; then
      [ -e "$program" ] || echo "$program $package $tests"
    else
      PATH=$search command -v "$program" >/dev/null || echo "$program $package $tests"
    fi
  done <<< "$needed"
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_install() {
  command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }
}

install() { # packages…: without starting the servers, neither now nor at the next boot
  local policy=/usr/sbin/policy-rc.d unit
  if [ ! -e $policy ]; then
    # shellcheck disable=SC2064  # $policy is meant now
    trap "as_root rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
  fi
  as_root apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 update >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 install "$@" >/dev/null </dev/null
  if [ -d /run/systemd/system ]; then
    for unit in redis-server orthanc postgresql; do
      case " $* " in *" $unit "*) as_root systemctl --quiet disable "$unit" || true ;; esac
    done
  fi
}

lacking=$(missing)
if [ -n "$lacking" ] && can_install; then
  mapfile -t packages < <(awk '{print $2}' <<< "$lacking" | sort -u)
  echo "installing for the tests: ${packages[*]}"
  install "${packages[@]}" || echo "the installation failed" >&2
  hash -r
  lacking=$(missing)
fi
[ -n "$lacking" ] || exit 0

while read -r program package tests; do
  echo "$program is not installed (package $package): tests skipped: ${tests//-/ }" >&2
done <<< "$lacking"
[ -z "${CI:-}" ]
