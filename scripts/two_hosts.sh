#!/bin/bash
# Two hosts on one machine: two network namespaces joined by a wire of their own, each with a local
# disk of its own (a mount namespace), and a `torchrun` agent in each.
#
#     sudo scripts/two_hosts.sh [PICTURES]
#
# Needs Linux, root (or CAP_NET_ADMIN and CAP_SYS_ADMIN), `ip` of iproute2, `unshare` of util-linux,
# and `torchrun` and `vistill` on the PATH. Not part of the tests: CI runners give no namespaces.
#
# It checks that two hosts give the losses of one for DDP and FSDP2, that the run folder may lie on
# rank 0's disk alone or on a shared one, that a host that dies ends the run on the other, and that
# the same command goes on from there on one host. Exits with 1 where any of it does not hold.
set -u
PICTURES=$(realpath "${1:-$(dirname "$0")/../tests/data/cells/train}")
ROOM=$(mktemp -d)
SHARED=$ROOM/shared LOCAL=$ROOM/local VISTILL=$(command -v vistill) TORCHRUN=$(command -v torchrun)
mkdir -p "$SHARED" "$LOCAL" "$ROOM/disk0" "$ROOM/disk1"
export OMP_NUM_THREADS=1
FAILED=0

wire() {
    ip netns add vistill0 && ip netns add vistill1 || exit 1
    ip link add vistill0 netns vistill0 type veth peer name vistill1 netns vistill1 || exit 1
    for host in 0 1; do
        ip -n vistill$host addr add 10.77.0.$((host + 1))/24 dev vistill$host
        ip -n vistill$host link set vistill$host up
        ip -n vistill$host link set lo up
    done
}

unwire() {
    ip netns del vistill0 2>/dev/null
    ip netns del vistill1 2>/dev/null
    rm -rf "$ROOM"
}
trap unwire EXIT

# on HOST COMMAND...: in the host's network, with its own disk at $LOCAL.
on() {
    local host=$1
    shift
    GLOO_SOCKET_IFNAME=vistill$host ip netns exec vistill$host \
        unshare --mount bash -c 'mount --bind "$1" "$2" && shift 2 && exec "$@"' \
        _ "$ROOM/disk$host" "$LOCAL" "$@"
}

# The command of every run, with further words.
train() {
    echo "$VISTILL pretrain mae --data $PICTURES student.model=vit student.patch_size=8" \
        "student.embed_dim=64 student.depth=2 student.num_heads=2 method.decoder.depth=1" \
        "method.decoder.embed_dim=32 method.decoder.num_heads=2 data.image_size=32 data.workers=0" \
        "train.global_batch_size=8 train.precision=fp32 optim.warmup_epochs=1" \
        "optim.lr=1e-3 train.device=cpu train.loggers=[] train.checkpoint_steps=1 $*"
}

# both LOG WORDS...: an agent on each host, in the background; their ids in AGENTS.
both() {
    local log=$1
    shift
    AGENTS=()
    for host in 0 1; do
        on $host "$TORCHRUN" --nnodes=2 --nproc-per-node=1 --node-rank=$host \
            --master-addr=10.77.0.1 --master-port=29577 $(train "$@") >"$log.$host" 2>&1 &
        AGENTS+=($!)
    done
}

check() {
    if "${@:2}"; then echo "holds  $1"; else echo "FAILS  $1"; FAILED=1; fi
}

# The losses of two runs, step by step, agree to 1 in 100,000.
same_losses() {
    python - "$1" "$2" <<'PY'
import json, sys
found = []
for folder in sys.argv[1:]:
    lines = map(json.loads, open(f"{folder}/metrics.jsonl"))
    found.append({line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line})
one, two = found
assert one and one.keys() == two.keys(), (one.keys(), two.keys())
worst = max(abs(one[step] / two[step] - 1) for step in one)
print(f"       {len(one)} epochs, the held-out losses differ by {worst:.1e} at most")
sys.exit(worst > 1e-5)
PY
}

wire
for strategy in ddp fsdp2; do
    one=$ROOM/one-$strategy
    on 0 "$TORCHRUN" --standalone --nproc-per-node=2 $(train "--out $one train.strategy=$strategy train.epochs=6") \
        >"$ROOM/one.log" 2>&1 || { tail -5 "$ROOM/one.log"; exit 1; }
    place=$LOCAL
    [ $strategy = fsdp2 ] && place=$SHARED
    both "$ROOM/two.log" --out "$place/$strategy" train.strategy=$strategy train.epochs=6
    wait "${AGENTS[@]}"
    grep -h "Error\|^error:" "$ROOM"/two.log.? | sort | uniq -c | cut -c1-200
    there=$place/$strategy
    [ $strategy = ddp ] && there=$ROOM/disk0/$strategy
    check "$strategy: two hosts give the losses of one" same_losses "$one" "$there"
done
check "ddp: the run folder is on rank 0's disk, and nothing on the other's" \
    test -d "$ROOM/disk0/ddp" -a ! -e "$ROOM/disk1/ddp"

words="--out $SHARED/dies train.strategy=ddp train.epochs=400"
both "$ROOM/dies.log" $words
for _ in $(seq 600); do
    [ -s "$SHARED/dies/metrics.jsonl" ] && ls "$SHARED"/dies/checkpoints/* >/dev/null 2>&1 && break
    sleep 0.2
done
kill -KILL $(ip netns pids vistill1)
wait "${AGENTS[0]}"
check "a host that dies ends the run on the other" test $? -ne 0
echo "       said on the other host:"
grep -v "^W\|^E[0-9]\|^ *File\|^$" "$ROOM/dies.log.0" | tail -4 | cut -c1-200
timeout -s TERM 60 ip netns exec vistill0 "$TORCHRUN" --standalone --nproc-per-node=2 \
    $(train "$words") >"$ROOM/again.log" 2>&1
check "the same command goes on, on one host" grep -q "resuming after step" "$ROOM/again.log"
grep -o "resuming after step.*" "$ROOM/again.log" | head -1
exit $FAILED
