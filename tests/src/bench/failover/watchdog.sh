#!/bin/sh
# The watchdog that many a branch has: once a second it pings the far end by each uplink, and after three misses the
# default route is the other uplink's. usage: watchdog.sh FAR_END GATEWAY_OF_ISP_A GATEWAY_OF_ISP_B
far_end=$1 gateway_a=$2 gateway_b=$3
missed_a=0 missed_b=0 preferred=

answers() {
    ping -n -q -c 1 -W 1 -I "$1" "$far_end" >/dev/null 2>&1
}

prefer() {
    [ "$preferred" = "$1" ] && return
    ip route replace default via "$2" dev "$1" metric 50 && preferred=$1
}

while :; do
    if answers isp-a; then missed_a=0; else missed_a=$((missed_a + 1)); fi
    if answers isp-b; then missed_b=0; else missed_b=$((missed_b + 1)); fi
    if [ "$missed_a" -lt 3 ]; then
        prefer isp-a "$gateway_a"
    elif [ "$missed_b" -lt 3 ]; then
        prefer isp-b "$gateway_b"
    fi
    sleep 1
done
