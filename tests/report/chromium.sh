#!/usr/bin/env bash
# A headless browser and a checker of accessibility for the tests of reports, without installing anything.
#
#   chromium.sh fetch ROOT    unpack Debian's chromium-headless-shell below ROOT, and axe-core from npm, once (100 MB)
#   chromium.sh run ROOT …    run the browser with these options; ROOT - is the system's own
#
# `fetch` needs Debian's apt-get and dpkg, root or a writable apt, and npm.
set -eu
verb=$1 root=$2 axe=4.14.1
shift 2

fetch() {
    local debs=$root/debs
    if [ ! -x "$root/usr/lib/chromium/chromium-headless-shell" ]; then
        mkdir -p "$debs/partial"
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends --download-only -o Dir::Cache::archives="$debs" \
            -o APT::Sandbox::User=root chromium-headless-shell fonts-dejavu-core >/dev/null
        for package in "$debs"/*.deb; do dpkg -x "$package" "$root"; done
        rm -rf "$debs"
    fi
    if [ ! -f "$root/axe.min.js" ]; then
        (cd "$root" && npm pack --silent "axe-core@$axe" >/dev/null && tar -xzOf "axe-core-$axe.tgz" package/axe.min.js >axe.new && mv axe.new axe.min.js)
        rm -f "$root/axe-core-$axe.tgz"
    fi
}

run() {
    [ "$root" != - ] || exec chromium-headless-shell "$@"
    local lib=$root/usr/lib/x86_64-linux-gnu
    export LD_LIBRARY_PATH=$lib:$lib/pulseaudio:$root/lib/x86_64-linux-gnu
    exec "$root/usr/lib/chromium/chromium-headless-shell" "$@"
}

case $verb in
fetch) fetch ;;
run) run "$@" ;;
*) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
