# The guest's side of the network: network-guest.sh ID NAME-SERVERS COMMAND…; becomes the command.
id=$1 dns=$2; shift 2
modprobe virtio_net || exit 1
until [ -e /sys/class/net/eth0 ]; do usleep 10000; done
ip link set lo up
ip address add 172.31.$id.130/25 dev eth0 && ip link set eth0 up && ip route add default via 172.31.$id.129
echo "172.31.$id.1 host" >> /etc/hosts
for server in $dns; do echo "nameserver $server"; done > /etc/resolv.conf
exec "$@"
