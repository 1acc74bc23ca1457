#!/bin/busybox sh
# First process of the machine that `cargo xtask test-kernel` boots: sets it up, tries carpd, prints a verdict, powers off.
#
# The kernel tests come first: every program passes the verifier and runs on frames. Then there is one election for each
# datapath, in which A is MASTER, B hears it, A leaves and B takes over; or carpd says why this kernel does not support the
# datapath. `auto` must choose the best datapath that this kernel supports.

/bin/busybox --install -s /bin
export PATH=/bin
# Not busybox's own, which its shell prefers and which does not support namespaces.
ip() {
    /bin/ip "$@"
}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
for module in veth sch_ingress; do
    [ -e "/modules/$module.ko" ] && insmod "/modules/$module.ko"
done

release=$(uname -r)
failures=""

say() {
    echo "  $*"
}

fail() {
    say "FAILED: $*"
    failures="$failures; $*"
}

# Whether the kernel is at least $1.$2.
at_least() {
    major=${release%%.*}
    minor=${release#*.}
    minor=${minor%%[!0-9]*}
    [ "$major" -gt "$1" ] || { [ "$major" -eq "$1" ] && [ "$minor" -ge "$2" ]; }
}

# Waits up to a minute until file $2 has a line with $1.
wait_for() {
    tries=0
    until grep -q "$1" "$2" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -le 300 ] || return 1
        sleep 0.2
    done
}

# Starts carpd in namespace $1 on datapath $2 with the options after them; its log is /tmp/$1.log.
start() {
    namespace=$1
    datapath=$2
    shift 2
    # By its path, because a function would put a shell between this script and the process's signals.
    /bin/ip netns exec "$namespace" carpd --interface eth0 --srcip "$source" --vhid 7 --passfile /tmp/password \
        --addr 192.0.2.100 --advbase 1 --deadratio 3 --datapath "$datapath" "$@" >"/tmp/$namespace.log" 2>&1 &
    pid=$!
}

# Runs one election on datapath $1. Fails if the datapath cannot be used; the reason is in /tmp/b.log.
election() {
    rm -f /tmp/a.log /tmp/b.log
    source=192.0.2.2 start b "$1" --advskew 100
    b=$pid
    wait_for "Switching to state: BACKUP" /tmp/b.log || { kill "$b" 2>/dev/null; wait "$b"; return 1; }
    source=192.0.2.1 start a "$1" --preempt
    a=$pid
    wait_for "Switching to state: MASTER" /tmp/a.log || fail "$1: A does not become MASTER"
    sleep 3
    kill -USR1 "$b"
    wait_for "counters on eth0 datapath" /tmp/b.log || fail "$1: B does not answer USR1"
    rung=$(sed -n 's/.* status on eth0 id 7: datapath=\([^ ]*\).*/\1/p' /tmp/b.log | tail -n 1)
    delivered=$(sed -n 's/.* counters on eth0 datapath: .*[ :]delivered=\([0-9]*\).*/\1/p' /tmp/b.log | tail -n 1)
    [ "${delivered:-0}" -ge 1 ] || fail "$1: B has not heard A"
    kill -TERM "$a"
    wait "$a" || fail "$1: A ends with status $?"
    # B was MASTER before A came only if it was alone for a master-down time. It must be MASTER now.
    tries=0
    while :; do
        kill -USR1 "$b"
        sleep 0.5
        state=$(sed -n 's/.* \([A-Z]*\) on eth0 id 7$/\1/p' /tmp/b.log | tail -n 1)
        [ "$state" = MASTER ] && break
        tries=$((tries + 1))
        [ "$tries" -le 60 ] || { fail "$1: B does not take over"; break; }
    done
    kill -TERM "$b"
    wait "$b" || fail "$1: B ends with status $?"
    say "datapath $1: elected on rung $rung, $delivered advertisements heard"
    expected=$1
    [ "$1" = auto ] && expected=$first
    [ "$rung" = "$expected" ] || fail "$1: on rung $rung where $expected is right"
    # Names the obstacles of the earlier datapaths.
    sed -n 's/.* \(receiving on eth0 through datapath .*\)/    \1/p' /tmp/b.log
    return 0
}

echo "kernel $release"

say "kernel tests"
# An emulated machine cannot measure costs.
CARPD_EBPF_OBJECT=/carp-ebpf CARP_REQUIRE_ROOT=1 kernel-tests --test-threads 1 --nocapture --skip cost:: \
    >/tmp/tests.log 2>&1 && passed=yes || passed=no
grep -e "processed by the verifier" -e "^test result" /tmp/tests.log | sed 's/^/    /'
[ "$passed" = yes ] || { cat /tmp/tests.log; fail "kernel tests"; }

echo secret >/tmp/password
chmod 600 /tmp/password
ip netns add a
ip netns add b
ip link add eth0 netns a type veth peer name eth0 netns b
for namespace in a b; do
    ip -n "$namespace" link set lo up
    ip -n "$namespace" link set eth0 up
done
ip -n a address add 192.0.2.1/24 dev eth0
ip -n b address add 192.0.2.2/24 dev eth0

# The datapaths that must work on this kernel, and the one that `auto` uses on a veth.
required="auto socket"
first=socket
at_least 5 18 && required="$required xdp-native xdp-generic" && first=xdp-native
at_least 6 6 && required="$required tcx" && first=tcx
say "auto is to be $first"
for datapath in auto xdp-native tcx xdp-generic socket; do
    election "$datapath" && continue
    say "datapath $datapath: not on this kernel: $(tail -n 1 /tmp/b.log)"
    case " $required " in
        *" $datapath "*)
            cat /tmp/b.log
            fail "$datapath is not available"
            ;;
    esac
done

if [ -z "$failures" ]; then
    echo "test-kernel: passed"
else
    echo "test-kernel: failed${failures#;}"
fi
poweroff -f
