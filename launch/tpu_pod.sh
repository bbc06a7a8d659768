#!/usr/bin/env bash
# Runs main.py on every VM of a Cloud TPU slice.
#
#     launch/tpu_pod.sh [--dry-run] setup  NAME ZONE
#     launch/tpu_pod.sh [--dry-run] start  NAME ZONE --config=... --workdir=/mnt/shared/run [...]
#     launch/tpu_pod.sh [--dry-run] status|stop NAME ZONE
#
# setup   copies the committed files of this repository and installs them on every VM
# start   starts launch/supervise.py with main.py on every VM; a preempted VM saves before it ends
# status  shows the end of every VM's log
# stop    sends SIGTERM to every VM's run, which saves and ends with status 75
#
# With --dry-run the commands are printed and nothing is run. A preempted TPU does not come back:
# delete it, create it anew, and run `setup` and `start` again. The working directory, the teachers
# and the data lie on a disk that all VMs mount, see docs/launch.md. Needs gcloud, and a key
# without a passphrase or one that an agent holds.
set -euo pipefail

FOLDER=kdaug  # below the home folder of each VM
# The firewall rule that the TPU API makes opens this port, but not 8482, which JAX takes otherwise.
COORDINATOR_PORT=8476
METADATA=http://metadata.google.internal/computeMetadata/v1/instance

fail() {
  echo "tpu_pod.sh: $1" >&2
  exit 2
}

quoted() {
  printf '%q ' "$@"
}

run() {
  if [ -n "$dry" ]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

on_all() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

setup() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  # shellcheck disable=SC2064  # the name is known now, and gone when the trap runs
  trap "rm -f '$archive'" EXIT
  run git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
  # The first contact makes a key and tells it to all VMs, which several at once would do in a race.
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=0 --command=true
  run gcloud compute tpus tpu-vm scp "$archive" "$name:kdaug.tar.gz" --zone="$zone" --worker=all
  on_all "mkdir -p $FOLDER && tar --extract --gzip --file=kdaug.tar.gz --directory=$FOLDER \
&& cd $FOLDER && bash launch/tpu_pod.sh install-here"
}

# --- What runs on each VM. ---

install_here() {
  local python
  for python in python3.13 python3.12 python3.11; do
    if command -v "$python" > /dev/null; then
      "$python" -m venv .venv
      # One list of versions for all VMs: a libtpu that does not fit jaxlib crashes.
      .venv/bin/pip install --quiet -c constraints.txt -r requirements.txt "jax[tpu]"
      .venv/bin/pip install --quiet --no-deps -e .
      return
    fi
  done
  fail "this VM has no Python 3.11 or later; install one, or run launch/Dockerfile's image"
}

require_shared() {
  local word workdir='' kind
  for word in "$@"; do
    case "$word" in --workdir=*) workdir=${word#--workdir=} ;; esac
  done
  [ -n "$workdir" ] || fail "--workdir=/mnt/... is missing"
  while [ ! -e "$workdir" ]; do workdir=$(dirname "$workdir"); done
  kind=$(stat --file-system --format=%T "$workdir")
  case "$kind" in
    ext2/ext3 | xfs | tmpfs | overlayfs | btrfs)
      fail "--workdir lies on this VM's own disk ($kind in $workdir), and no other VM sees it; \
mount NFS, Filestore or gcsfuse (docs/launch.md)" ;;
  esac
}

# Sends SIGTERM to the run when this VM is preempted, which leaves it about 30 s.
watch_preemption() {
  while kill -0 "$1" 2> /dev/null; do
    if [ "$(curl -sf -H 'Metadata-Flavor: Google' "$METADATA/preempted")" = TRUE ]; then
      kill -TERM "$1"
      return
    fi
    sleep 1
  done
}

start_here() {
  require_shared "$@"
  if [ -e run.pid ] && kill -0 "$(cat run.pid)" 2> /dev/null; then
    fail "a run is under way on this VM; launch/tpu_pod.sh stop NAME ZONE"
  fi
  export JAX_COORDINATOR_PORT=$COORDINATOR_PORT PYTHONUNBUFFERED=1
  nohup setsid .venv/bin/python launch/supervise.py -- \
    .venv/bin/python main.py --distributed=auto "$@" < /dev/null >> run.log 2>&1 &
  local pid=$!
  echo "$pid" > run.pid
  nohup setsid bash launch/tpu_pod.sh watch-here "$pid" < /dev/null > /dev/null 2>&1 &
  echo "$(hostname): started as process $pid, log in $FOLDER/run.log"
}

stop_here() {
  local pid
  pid=$(cat run.pid 2> /dev/null || true)
  if [ -z "$pid" ] || ! kill -TERM "$pid" 2> /dev/null; then
    echo "no run is under way on this VM"
    return
  fi
  for _ in $(seq 120); do
    kill -0 "$pid" 2> /dev/null || { tail -n 1 run.log; return; }
    sleep 1
  done
  # What ignores SIGTERM holds the TPU and spoils the next start.
  pkill -KILL --parent "$pid" || true
  kill -KILL "$pid"
  echo "did not end within 120 s, and was killed"
}

dry=
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
action=${1:-}
case "$action" in
  install-here) install_here; exit ;;
  start-here) shift; start_here "$@"; exit ;;
  stop-here) stop_here; exit ;;
  watch-here) watch_preemption "$2"; exit ;;
  setup | start | status | stop) ;;
  *) fail "name an action: setup, start, status or stop, then NAME ZONE" ;;
esac
if [ $# -lt 3 ] || [[ "$2$3" == *=* ]]; then fail "write it as: $action NAME ZONE"; fi
name=$2 zone=$3
shift 3
[ "$action" = start ] || [ $# -eq 0 ] || fail "$action takes no '$1'"
case "$action" in
  setup) setup ;;
  start)
    [[ " $* " == *" --config="* && " $* " == *" --workdir=/"* ]] ||
      fail "start needs --config=... and --workdir=/... on a disk that all VMs mount"
    on_all "cd $FOLDER && bash launch/tpu_pod.sh start-here $(quoted "$@")" ;;
  status) on_all "cd $FOLDER && hostname && tail -n 3 run.log" ;;
  stop) on_all "cd $FOLDER && bash launch/tpu_pod.sh stop-here" ;;
esac
