#!/usr/bin/env bash
# Installs by apt, only what is missing, what the cluster tests need: `install.sh` for Slurm, `install.sh containers` for Docker and
# podman too, `install.sh accounting` for slurmdbd and MariaDB too, `install.sh browser` for Chromium too (the report's tests). Starts no
# service; says in one line why it can't.
set -euo pipefail

packages=(slurm-wlm munge iproute2)
for what in "$@"; do
    case $what in
        containers) packages+=(docker.io podman runc debootstrap) ;;
        accounting) packages+=(slurmdbd mariadb-server) ;;
        browser) packages+=(chromium) ;;
        *) echo "install.sh: '$what' is unknown; allowed: containers, accounting, browser" >&2; exit 2 ;;
    esac
done
missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

cannot() { echo "install.sh: cannot install ${missing[*]}: $1" >&2; exit 1; }
command -v apt-get >/dev/null || cannot "there is no apt-get here; install them in this system's way"
[ "$(id -u)" = 0 ] || cannot "not root; run: sudo bash tests/cluster/install.sh${*:+ $*}"

log=$(mktemp)
policy=/usr/sbin/policy-rc.d   # its exit code 101 tells packages to start no service
made_policy=
finish() { rm -f "$log"; [ -z "$made_policy" ] || rm -f "$policy"; }
trap finish EXIT
if [ ! -e "$policy" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 "$@" >>"$log" 2>&1 </dev/null; }
install() { get install --yes --no-install-recommends "${missing[@]}"; }
# the package lists may be absent (a fresh container) or old, so a failure is tried again with new ones
install || { get update && install; } || cannot "apt-get: $(grep -m1 '^E:' "$log" || tail -n1 "$log")"
echo "install.sh: installed ${missing[*]}"
