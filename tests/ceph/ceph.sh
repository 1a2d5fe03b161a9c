#!/usr/bin/env bash
# A real S3 server for tests, loopback only and without privileges: one Ceph RADOS gateway, one monitor, one object store.
#
#   ceph.sh fetch ROOT                  unpack Debian's packages below ROOT, once (some 600 MB; nothing is installed)
#   ceph.sh start ROOT DIR PORT [PEM]   serve http://127.0.0.1:PORT, and with a certificate https://127.0.0.1:PORT+1,
#                                       in the fresh folder DIR; also takes up PORT+2 to PORT+90; ready in some 10 s
#   ceph.sh user ROOT DIR NAME ACCESS_KEY SECRET_KEY
#   ceph.sh kill DIR                    SIGKILL to all three, as a power cut would
#   ceph.sh restart ROOT DIR            start them again on what DIR holds
#   ceph.sh stop DIR
#
# ROOT - is the system's own installation. `fetch` needs Debian's or Ubuntu's apt-get and dpkg, and root or a writable apt.
set -eu
verb=$1
shift

use_root() {
    root=${1#-}
    [ -n "$root" ] || return 0
    local lib=$root/usr/lib/x86_64-linux-gnu
    export PATH=$root/usr/bin:$PATH PYTHONPATH=$root/usr/lib/python3/dist-packages
    export LD_LIBRARY_PATH=$lib:$lib/ceph:$root/lib/x86_64-linux-gnu
}

fetch() {
    local debs=$1/debs
    [ ! -x "$1/usr/bin/radosgw" ] || return 0
    mkdir -p "$debs/partial"
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends --download-only -o Dir::Cache::archives="$debs" \
        -o APT::Sandbox::User=root ceph-mon ceph-osd radosgw >/dev/null
    for package in "$debs"/*.deb; do dpkg -x "$package" "$1"; done
    rm -rf "$debs"
}

configure() { # DIR PORT PEM
    local dir=$1 port=$2 tls=
    [ -z "$3" ] || tls="ssl_endpoint=127.0.0.1:$((port + 1)) ssl_certificate=$3"
    cat >"$dir/ceph.conf" <<END
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:$((port + 2)),v1:127.0.0.1:$((port + 3))]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_port_min = $((port + 10))
ms_bind_port_max = $((port + 90))
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
osd_crush_chooseleaf_type = 0
run_dir = $dir
admin_socket = $dir/\$name.asok
log_file = $dir/\$name.log
crash_dir = $dir/crash
keyring = $dir/keyring
mon_data = $dir/mon
osd_data = $dir/osd
osd_objectstore = bluestore
bluestore_block_size = 8589934592
osd_memory_target = 939524096
paxos_propose_interval = 0.05
mon_osd_min_up_ratio = 0
rgw_data = $dir/rgw
rgw_frontends = beast endpoint=127.0.0.1:$port $tls tcp_nodelay=1
rgw_gc_obj_min_wait = 1
rgw_gc_processor_period = 2
rgw_gc_max_objs = 4
rgw_crypt_require_ssl = false
rgw_crypt_s3_kms_backend = testing
rgw_crypt_s3_kms_encryption_keys = testkey=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
END
    [ -z "$root" ] || cat >>"$dir/ceph.conf" <<END
plugin_dir = $root/usr/lib/x86_64-linux-gnu/ceph
erasure_code_dir = $root/usr/lib/x86_64-linux-gnu/ceph/erasure-code
osd_class_dir = $root/usr/lib/x86_64-linux-gnu/rados-classes
END
}

run() { # NAME COMMAND…: in the background, its process id in NAME.pid
    setsid "${@:2}" >"$1.out" 2>&1 </dev/null &
    echo $! >"$1.pid"
}

serve() { # in DIR, until the gateway answers
    run mon ceph-mon -i a -f
    [ ! -e osd/whoami ] || run osd ceph-osd -i 0 -f
}

gateway() {
    run rgw radosgw -n client.rgw -f
    local port
    port=$(sed -n 's/^rgw_frontends.* endpoint=127.0.0.1:\([0-9]*\).*/\1/p' ceph.conf)
    for _ in $(seq 600); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return 0
        kill -0 "$(cat rgw.pid)" 2>/dev/null || break
        sleep 0.1
    done
    echo "ceph.sh: the gateway did not start; see $PWD/rgw.out" >&2
    return 1
}

start() { # DIR PORT [PEM]
    local osd
    fsid=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
    mkdir -p "$1"/{mon,osd,rgw,crash}
    configure "$1" "$2" "${3:-}"
    cd "$1"
    export CEPH_CONF=$1/ceph.conf
    touch keyring
    monmaptool --create --clobber --addv a "[v2:127.0.0.1:$(($2 + 2)),v1:127.0.0.1:$(($2 + 3))]" --fsid "$fsid" monmap
    : > no-keys; ceph-mon -i a --mkfs --monmap monmap --keyring no-keys  # it deletes the file it is given: as root never /dev/null
    serve
    ceph osd new "$osd"
    ceph-osd -i 0 --mkfs --osd-uuid "$osd"
    run osd ceph-osd -i 0 -f
    radosgw-admin user create --uid admin --display-name admin --access-key AKtest --secret SKtest >/dev/null
    gateway
}

end() { # DIR SIGNAL
    for name in rgw osd mon; do
        local pid
        pid=$(cat "$1/$name.pid" 2>/dev/null) || continue
        kill "-$2" "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
    done
}

case $verb in
fetch) fetch "$1" ;;
start) use_root "$1"; start "${@:2}" >"${TMPDIR:-/tmp}/ceph-start.$$" 2>&1 || { cat "${TMPDIR:-/tmp}/ceph-start.$$" >&2; exit 1; }; rm -f "${TMPDIR:-/tmp}/ceph-start.$$" ;;
user) use_root "$1"; CEPH_CONF=$2/ceph.conf radosgw-admin user create --uid "$3" --display-name "$3" --access-key "$4" --secret "$5" >/dev/null 2>&1 ;;
kill) end "$1" KILL ;;
restart) use_root "$1"; cd "$2"; export CEPH_CONF=$2/ceph.conf; serve; gateway ;;
stop) end "$1" TERM ;;
*) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
