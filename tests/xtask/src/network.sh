# Gives the command a network of its own and undoes it behind the command: network.sh ID COMMAND…
#
# A namespace with a tap for the guest and one end of a veth pair; the host routes what comes out of the other end, and
# translates its addresses where it can. ID, 0 to 255, keeps runs at once apart: 172.31.ID.1 is the host's end, .2 the
# namespace's, .129 the guest's gateway, .130 the guest.
id=$1; shift
name=kiwi-net$id
forward=/proc/sys/net/ipv4/ip_forward
# There while forwarding is on because of us: what turning it on and off changes besides, FILE:VALUE a line.
turned=/run/kiwi-net-forward

others() { ip netns list | grep -v "^$name\b" | grep -q '^kiwi-net'; }

undo() {
    trap '' INT TERM HUP
    nft delete table ip $name 2> /dev/null
    ip link del $name 2> /dev/null
    ip netns del $name 2> /dev/null
    # Off again by the last of us, if one of us turned it on.
    [ -e $turned ] && ! others && {
        echo 0 > $forward
        while IFS=: read -r file value; do [ -e "$file" ] && echo "$value" > "$file"; done < $turned
        rm -f $turned
    }
}
fail() { echo "xtask: --net: $1" >&2; undo; exit 125; }

[ "$(id -u)" = 0 ] || { echo "xtask: --net makes a network namespace, which needs root" >&2; exit 125; }
ip netns add $name || exit 125
trap undo EXIT
trap 'exit 130' INT; trap 'exit 143' TERM; trap 'exit 129' HUP
ip link add $name type veth peer name uplink netns $name || fail "no veth pair can be made"
ip address add 172.31.$id.1/30 dev $name && ip link set $name up || fail "the host's end cannot be set up"
ip route add 172.31.$id.128/25 via 172.31.$id.2 || fail "the guest's addresses are in use"
ip -n $name address add 172.31.$id.2/30 dev uplink && ip -n $name link set uplink up && ip -n $name link set lo up &&
    ip -n $name route add default via 172.31.$id.1 || fail "the namespace's end cannot be set up"
ip -n $name tuntap add tap0 mode tap vnet_hdr && ip -n $name address add 172.31.$id.129/25 dev tap0 &&
    ip -n $name link set tap0 up || fail "no tap can be made"
ip netns exec $name sh -c "echo 1 > $forward" || fail "the namespace does not forward"
# One that was killed may have left its mark.
others || rm -f $turned
[ "$(cat $forward)" = 0 ] &&
    grep . /proc/sys/net/ipv4/conf/all/accept_redirects /proc/sys/net/ipv4/conf/*/forwarding > $turned
{ echo 1 > $forward; } 2> /dev/null || echo "xtask: --net: this host does not forward; the guest reaches it alone" >&2
refused="nft is not installed"
# What nft says against it, in several lines, of which the first tells it.
command -v nft > /dev/null && refused=$(nft -f - 2>&1 << EOF
table ip $name {
    chain out {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 172.31.$id.0/24 oifname != "$name" masquerade
    }
}
EOF
) || echo "xtask: --net: no address translation here (${refused%%
*}); the guest reaches this host alone" >&2
# In the background, for a shell hears of no signal while it waits in front of a command. The command ends, then we do.
ip netns exec $name "$@" <&0 &
command=$!
trap 'kill $command' INT TERM HUP
status=0
while wait $command; status=$?; kill -0 $command 2> /dev/null; do :; done
exit $status
