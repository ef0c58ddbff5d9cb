#!/usr/bin/env bash
# Runs a command as two ranks with a real, slow link between them: two network namespaces joined by a pair of virtual
# cards, each of which sends at the given rate at most (a token bucket filter). Both directions are independent.
#
#   bench/shaped_link.sh [--rate 280mbit] [--pin] [--env NAME=VALUE]… -- COMMAND [ARGUMENT…]
#
# Each rank gets torchrun's variables (RANK, WORLD_SIZE=2, LOCAL_RANK, MASTER_ADDR=10.77.0.1, MASTER_PORT) and, with --pin, a
# core of its own. Rank 0's output is stdout; rank 1's goes to stderr, each line marked. The exit code is the first that is
# not 0. Needs root, and ip and tc (Debian: iproute2). Nothing is left behind, after Ctrl-C neither, and nothing outside the
# two namespaces is touched.
set -euo pipefail

rate=280mbit
pin=0
variables=()
while [ $# -gt 0 ]; do
  case $1 in
    --rate) rate=$2; shift 2 ;;
    --pin) pin=1; shift ;;
    --env) variables+=("$2"); shift 2 ;;
    --) shift; break ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "shaped_link.sh: unknown option $1; see --help" >&2; exit 2 ;;
  esac
done
if [ $# -eq 0 ]; then
  echo "shaped_link.sh: no command given; see --help" >&2
  exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "shaped_link.sh: network namespaces need root; run it with sudo" >&2
  exit 1
fi
for tool in ip tc; do
  if ! command -v "$tool" >/dev/null; then
    echo "shaped_link.sh: $tool is missing; install it with: apt-get install iproute2" >&2
    exit 1
  fi
done

mark=outstep-$$
spaces=("$mark-0" "$mark-1")
pids=()

# shellcheck disable=SC2317  # called by the traps
cleanup() {
  trap - EXIT INT TERM HUP
  exec 2>/dev/null  # bash would name each process that it sees killed
  for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  for space in "${spaces[@]}"; do
    # Whatever still runs in there was started by us.
    for pid in $(ip netns pids "$space" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || true; done
    ip netns delete "$space" 2>/dev/null || true  # takes its card along
  done
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

for space in "${spaces[@]}"; do ip netns add "$space"; done
ip link add link0 netns "${spaces[0]}" type veth peer name link0 netns "${spaces[1]}"
for rank in 0 1; do
  space=${spaces[$rank]}
  ip -n "$space" address add "10.77.0.$((rank + 1))/24" dev link0
  ip -n "$space" link set lo up
  ip -n "$space" link set link0 up
  tc -n "$space" qdisc add dev link0 root tbf rate "$rate" burst 256kb latency 50ms
done

run_rank() {
  local rank=$1
  shift
  local prefix=(setsid ip netns exec "${spaces[$rank]}" env "${variables[@]}" RANK="$rank" LOCAL_RANK="$rank" WORLD_SIZE=2
    MASTER_ADDR=10.77.0.1 MASTER_PORT=29400)
  if [ "$pin" -eq 1 ]; then prefix+=(taskset -c "$((rank % $(nproc)))"); fi
  exec "${prefix[@]}" "$@"
}

(run_rank 0 "$@") &
pids+=($!)
(run_rank 1 "$@") > >(sed -u 's/^/[rank 1] /' >&2) 2>&1 &
pids+=($!)

status=0
for pid in "${pids[@]}"; do
  code=0
  wait "$pid" || code=$?
  if [ "$status" -eq 0 ]; then status=$code; fi
done
exit "$status"
