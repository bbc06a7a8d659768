#!/usr/bin/env bash
# Prepares sets of TensorFlow Datasets once, for `data.source=tfds:SET?data_dir=FOLDER`.
#
#     launch/prepare_data.sh [--dry-run] FOLDER SET [SET ...]
#
# Training needs no TensorFlow, but preparing most sets does. Run this where it is installed,
# or name that Python: `PYTHON=/path/to/python launch/prepare_data.sh data/tfds beans`. For a run
# over several hosts FOLDER lies on a disk that all of them mount. Sets that are prepared already
# are passed over. With --dry-run the commands are printed and nothing is run.
set -euo pipefail

PYTHON=${PYTHON:-python3}

fail() {
  echo "prepare_data.sh: $1" >&2
  exit 2
}

dry=
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
[ $# -ge 2 ] || fail "write it as: prepare_data.sh FOLDER SET [SET ...]"
folder=$1
shift
for set in "$@"; do
  [[ $set =~ ^[a-z0-9_]+(/[A-Za-z0-9_.-]+)?$ && $set != *..* ]] ||
    fail "'$set' is no name of a set, such as beans or imagenet2012_subset/1pct"
done
if [ -z "$dry" ]; then
  "$PYTHON" -c 'import tensorflow, tensorflow_datasets' 2> /dev/null ||
    fail "$PYTHON has no TensorFlow; in an environment of its own: \
pip install tensorflow tensorflow-datasets importlib_resources, then PYTHON=... $0"
fi
for set in "$@"; do
  if [ -n "$(find "$folder/$set" -name dataset_info.json -print -quit 2> /dev/null)" ]; then
    echo "$set: prepared already in $folder/$set"
    continue
  fi
  command=("$PYTHON" -m tensorflow_datasets.scripts.cli.main build "$set"
    --file_format=array_record --data_dir="$folder")
  printf '%q ' "${command[@]}"
  echo
  if [ -z "$dry" ]; then
    "${command[@]}"
  fi
done
