#!/usr/bin/env bash
# base_image.sh NAME [PROGRAM...]: makes the image NAME (Debian 12 with Python 3.11) where no image registry is at hand.
# In: root, debootstrap, Debian's packages; PROGRAM is docker (default), podman or whatever imports images, `sudo docker` say.
# Out: the image; its files stay in build/base.tar, from which the next NAME is made in seconds. With `true` as PROGRAM that is all.
set -euo pipefail
name=$1; shift
[ $# -gt 0 ] || set -- docker
tar=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/base.tar
if [ ! "$tar" -nt "${BASH_SOURCE[0]}" ]; then
    command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 1; }
    mkdir -p "$(dirname "$tar")"
    root=$(mktemp -d "$tar.XXXXXX")
    trap 'rm -rf "$root" "$root.tar"' EXIT
    # python3-venv is for docker/engine_env.sh, libnuma1 for vLLM on the CPU
    debootstrap --variant=minbase --include=ca-certificates,libnuma1,python3,python3-venv bookworm "$root" > "$root.log" 2>&1 ||
        { tail -5 "$root.log" >&2; exit 1; }
    rm -rf "$root.log" "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar --directory "$root" --create --file "$root.tar" .
    mv "$root.tar" "$tar"
fi
"$@" import "$tar" "$name"
